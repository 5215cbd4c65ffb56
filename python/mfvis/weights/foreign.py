"""State dicts of other frameworks: format detection, conversion to our names, and of ours to detectron2's."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mfvis.errors import CheckpointError
from mfvis.text import counted
from mfvis.weights import seqformer
from mfvis.weights.names import (
    CAFFE_RESNET,
    DETECTRON2,
    DETECTRON2_RESNET,
    ORIGINAL_SWIN,
    TORCHVISION_RESNET,
    TRANSFORMERS,
    NameTable,
    canonical,
)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of red, green and blue in 0..255, by which all backbones here but MobileNet normalize."""
BACKBONE = "backbone.net."

_BATCH_NORM_EPS = 1e-5

# Names known not to belong to the model: losses, classifiers and their last norms, buffers derived from sizes.
_LEFT_OUT = re.compile(
    r"criterion\..*|(stem\.)?(fc|head|classifier|linear)\..*|(backbone\.net\.)?swin\.layernorm\..*|norm\.(weight|bias)"
    r"|.*\.(relative_position_index|attn_mask)|fc1000_.*|pred_[wb]|conv1_b|.*_momentum|(mobilenet_v2\.)?conv_1x1\..*"
)


@dataclass(frozen=True)
class ConvertedWeights:
    """Tensors under our full names: ``backbone.net.*`` (also of bare backbones), ``pixel_decoder.*``, ``decoder.*``."""

    tensors: Mapping[str, Tensor]
    format: str
    """Human-readable name of the format."""
    ignored: tuple[str, ...] = ()
    """Tensors of the file that belong to its training or to a classifier."""
    absent: tuple[str, ...] = ()
    """Beginnings of names that this format does not have, so that these tensors stay as the model initialized them."""
    model: str | None = None
    """The model of `mfvis.models.video_model.MODELS` that the tensors are of; None: a backbone, or not known."""
    stride_in_1x1: bool | None = None
    """True if a ResNet of this format strides in its 1x1 convolutions; None if the format does not define it."""

    @property
    def backbone_only(self) -> bool:
        return all(name.startswith(BACKBONE) for name in self.tensors)

    @property
    def backbone(self) -> dict[str, Tensor]:
        """Backbone tensors under their names within the backbone."""
        return {k.removeprefix(BACKBONE): v for k, v in self.tensors.items() if k.startswith(BACKBONE)}


def from_foreign(state: Mapping[str, Tensor]) -> ConvertedWeights:
    """Convert a state dict of any known format to our names.

    Names that no table contains are kept, so that loading reports them as unexpected. Values are kept bit for bit,
    except those of Caffe, which are adapted to our input normalization (see `_caffe`).
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}  # DistributedDataParallel's prefix
    ignored = tuple(name for name in state if _LEFT_OUT.fullmatch(name))
    state = {name: value for name, value in state.items() if name not in set(ignored)}
    if seqformer.is_original(state):
        title = "VNext's SeqFormer" if seqformer.is_vnext(state) else "SeqFormer"
        tensors, unused = seqformer.from_original(state)
        return _seqformer(tensors, title, ignored + unused, seqformer.absent_from(tensors))
    if seqformer.is_deformable_detr(state):
        tensors = seqformer.from_deformable_detr(state)
        absent = seqformer.absent_from(tensors) + seqformer.NOT_IN_DETECTORS
        return _seqformer(tensors, "Deformable DETR, its decoder copied to both branches", ignored, absent)
    if any(name.startswith("model.pixel_level_module.") for name in state):
        encoder = re.compile(r"^model\.pixel_level_module\.encoder\.")
        state = {encoder.sub(BACKBONE, name): value for name, value in state.items()}
        return replace(_converted(TRANSFORMERS, state, "transformers' Mask2Former", ignored), model="mask2former")
    if any(name.startswith((BACKBONE, "decoder.query_")) for name in state):
        of = {"decoder.query_features.weight": "mask2former", "decoder.query_embedding.weight": "seqformer"}
        model = next((of[name] for name in of if name in state), None)
        return replace(_converted(NameTable(()), state, "mfvis", ignored), model=model)
    if any(name.startswith(("sem_seg_head.", "backbone.")) for name in state):
        weights = _converted(DETECTRON2, _upgraded(state), "detectron2's Mask2Former", ignored)
        return weights if weights.backbone_only else replace(weights, model="mask2former")
    if "conv1_w" in state:
        return ConvertedWeights(_caffe(state), "Caffe2's ResNet", ignored, stride_in_1x1=True)
    if "layer1.0.conv1.weight" in state:
        table, title, stride_in_1x1 = TORCHVISION_RESNET, "torchvision's ResNet", False
    elif "stem.conv1.weight" in state:
        table, title, stride_in_1x1 = DETECTRON2_RESNET, "detectron2's ResNet", None
    elif "patch_embed.proj.weight" in state:
        table, title, stride_in_1x1 = ORIGINAL_SWIN, "the original Swin", None
    else:
        # Classifiers of transformers have the backbone under its family's name; so has the Swin backbone.
        ours = {BACKBONE + re.sub(r"^(resnet|mobilenet_v2)\.", "", name): value for name, value in state.items()}
        return _converted(NameTable(()), ours, "transformers' backbones", ignored)
    weights = _converted(table.within(BACKBONE, ""), state, title, ignored)
    return replace(weights, stride_in_1x1=stride_in_1x1)


def _converted(table: NameTable, state: Mapping[str, Tensor], title: str, ignored: tuple[str, ...]) -> ConvertedWeights:
    """Convert `state` by the table; a name that the table does not contain is ours or unknown."""
    converted, unknown = table.from_foreign(state)
    converted = {canonical(k): v for k, v in (converted | {name: state[name] for name in unknown}).items()}
    again = tuple(name for name in converted if _LEFT_OUT.fullmatch(name))
    return ConvertedWeights({k: v for k, v in converted.items() if k not in again}, title, ignored + again)


def _seqformer(
    tensors: Mapping[str, Tensor], title: str, ignored: tuple[str, ...], absent: tuple[str, ...]
) -> ConvertedWeights:
    weights = _converted(NameTable(()), tensors, title, ignored)
    return replace(weights, model="seqformer", absent=absent)


def _upgraded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upgrade Mask2Former's names to version 2: before, the pixel decoder was the head itself, and queries "static"."""
    head = re.compile(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)")
    return {
        head.sub("sem_seg_head.pixel_decoder.", name).replace(".static_query.", ".query_feat."): value
        for name, value in state.items()
    }


def _caffe(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapt Caffe2's ResNets, such as detectron2's R-50.pkl of MSRA, to RGB input divided by the standard deviation.

    They were trained on BGR minus the mean. The mean is the same. Reversing the channels of the first convolution and
    multiplying them by the standard deviation therefore gives the same outputs, also at padded borders. Their batch
    norms are a scale and a bias: the mean becomes 0, and the variance 1 - eps.
    """
    converted, unknown = CAFFE_RESNET.within(BACKBONE, "").from_foreign(state)
    stem = f"{BACKBONE}embedder.embedder.convolution.weight"
    if stem in converted and converted[stem].dim() == 4 and converted[stem].shape[1] == 3:
        converted[stem] = converted[stem].flip(1) * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    for name in [name for name in converted if name.endswith(".normalization.weight")]:
        stem, ones = name.removesuffix("weight"), torch.ones_like(converted[name])
        converted[f"{stem}running_mean"] = 0 * ones
        converted[f"{stem}running_var"] = ones - _BATCH_NORM_EPS
    return converted | {name: state[name] for name in unknown}


def to_detectron2(state: Mapping[str, Tensor]) -> tuple[OrderedDict[str, Tensor], tuple[str, ...]]:
    """Convert our model's tensors to the names of Mask2Former and MaskFreeVIS; also returns the names they do not have.

    The dict contains the modules' versions, as PyTorch's state dicts do. Without them, Mask2Former assumes version 1
    and renames correct names.

    Raises:
        CheckpointError: the backbone is not supported there (ResNet and Swin are).
    """
    state = {canonical(name): value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    renamed, unknown = DETECTRON2.to_theirs(state)
    foreign = [name for name in unknown if not name.startswith("prompts.")]
    if foreign:
        raise CheckpointError(
            f"detectron2's Mask2Former has no place for {counted(len(foreign), 'tensor')} "
            f"({', '.join(foreign[:3])}, ...); it takes models with a ResNet or Swin backbone"
        )
    ordered = OrderedDict(sorted(renamed.items()))
    ordered._metadata = OrderedDict((module, {"version": 2}) for module in ("sem_seg_head", "sem_seg_head.predictor"))
    return ordered, tuple(unknown)
