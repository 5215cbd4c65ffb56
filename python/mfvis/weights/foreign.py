"""State dicts from elsewhere: which program's they are, their tensors under our names, and ours under detectron2's."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mfvis.errors import CheckpointError
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
"""Of red, green and blue in 0..255: what every backbone here but MobileNet expects to be normalized by."""
BACKBONE = "backbone.net."

_BATCH_NORM_EPS = 1e-5

# Known to be no part of the model: losses, classifiers and what leads to them, buffers that follow from the sizes.
_LEFT_OUT = re.compile(
    r"criterion\..*|(stem\.)?(fc|head|classifier|linear)\..*|(backbone\.net\.)?swin\.layernorm\..*|norm\.(weight|bias)"
    r"|.*\.(relative_position_index|attn_mask)|fc1000_.*|pred_[wb]|conv1_b|.*_momentum|(mobilenet_v2\.)?conv_1x1\..*"
)


@dataclass(frozen=True)
class ConvertedWeights:
    """Tensors under our full names, ``backbone.net.*``, ``pixel_decoder.*``, ``decoder.*``, of a backbone alone too."""

    tensors: Mapping[str, Tensor]
    format: str
    """Where the names came from, for people."""
    ignored: tuple[str, ...] = ()
    """Tensors of the file that belong to its training or to a classifier."""
    stride_in_1x1: bool | None = None
    """Where a ResNet of this format strides; None: the format does not say."""

    @property
    def backbone_only(self) -> bool:
        return all(name.startswith(BACKBONE) for name in self.tensors)

    @property
    def backbone(self) -> dict[str, Tensor]:
        """The backbone's tensors, by the names within it."""
        return {k.removeprefix(BACKBONE): v for k, v in self.tensors.items() if k.startswith(BACKBONE)}


def from_foreign(state: Mapping[str, Tensor]) -> ConvertedWeights:
    """The tensors of a state dict of any known format under our names.

    Names that no table has stay as they are, so that loading reports them as unexpected. A format's numbers are kept
    bit for bit but for Caffe's, which become those of the same network with our input (see `_caffe`).
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}  # DistributedDataParallel's prefix
    ignored = tuple(name for name in state if _LEFT_OUT.fullmatch(name))
    state = {name: value for name, value in state.items() if name not in set(ignored)}
    if any(name.startswith("model.pixel_level_module.") for name in state):
        encoder = re.compile(r"^model\.pixel_level_module\.encoder\.")
        state = {encoder.sub(BACKBONE, name): value for name, value in state.items()}
        return _named(TRANSFORMERS, state, "transformers' Mask2Former", ignored)
    if any(name.startswith((BACKBONE, "decoder.query_features.")) for name in state):
        return _named(NameTable(()), state, "mfvis", ignored)
    if any(name.startswith(("sem_seg_head.", "backbone.")) for name in state):
        return _named(DETECTRON2, _upgraded(state), "detectron2's Mask2Former", ignored)
    if "conv1_w" in state:
        return ConvertedWeights(_caffe(state), "Caffe2's ResNet", ignored, stride_in_1x1=True)
    if "layer1.0.conv1.weight" in state:
        table, title, stride_in_1x1 = TORCHVISION_RESNET, "torchvision's ResNet", False
    elif "stem.conv1.weight" in state:
        table, title, stride_in_1x1 = DETECTRON2_RESNET, "detectron2's ResNet", None
    elif "patch_embed.proj.weight" in state:
        table, title, stride_in_1x1 = ORIGINAL_SWIN, "the original Swin", None
    else:
        # transformers' classifiers keep their backbone under its family's name; Swin's backbone does so too.
        ours = {BACKBONE + re.sub(r"^(resnet|mobilenet_v2)\.", "", name): value for name, value in state.items()}
        return _named(NameTable(()), ours, "transformers' backbones", ignored)
    named = _named(table.within(BACKBONE, ""), state, title, ignored)
    return replace(named, stride_in_1x1=stride_in_1x1)


def _named(table: NameTable, state: Mapping[str, Tensor], title: str, ignored: tuple[str, ...]) -> ConvertedWeights:
    """`state` as the table has it; a name that it does not have is ours, or nobody's."""
    converted, unknown = table.from_foreign(state)
    converted = {canonical(k): v for k, v in (converted | {name: state[name] for name in unknown}).items()}
    again = tuple(name for name in converted if _LEFT_OUT.fullmatch(name))
    return ConvertedWeights({k: v for k, v in converted.items() if k not in again}, title, ignored + again)


def _upgraded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mask2Former's names of version 2: the pixel decoder was the head itself, and queries were "static"."""
    head = re.compile(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)")
    return {
        head.sub("sem_seg_head.pixel_decoder.", name).replace(".static_query.", ".query_feat."): value
        for name, value in state.items()
    }


def _caffe(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's ResNets, as detectron2's R-50.pkl of MSRA has them, for RGB input divided by the standard deviation.

    They were trained on BGR minus the mean. The mean is the same, so turning the first convolution's channels round and
    multiplying them by what we divide by gives the same numbers, at padded borders too. Their batch norms are a scale
    and a bias: the mean is 0, the variance what eps completes to 1.
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
    """Our model's tensors under the names of Mask2Former's and MaskFreeVIS' repositories; and what those cannot hold.

    The dict says, as PyTorch's state dicts do, which version its modules are of: without that, Mask2Former takes any
    file for one of version 1 and renames what is right.

    Raises:
        CheckpointError: the backbone is none of theirs (ResNet, Swin).
    """
    state = {canonical(name): value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    named, unknown = DETECTRON2.to_theirs(state)
    foreign = [name for name in unknown if not name.startswith("prompts.")]
    if foreign:
        raise CheckpointError(
            f"detectron2's Mask2Former has no place for {len(foreign)} tensors ({', '.join(foreign[:3])}, ...); "
            "it takes models with a ResNet or Swin backbone"
        )
    ordered = OrderedDict(sorted(named.items()))
    ordered._metadata = OrderedDict((module, {"version": 2}) for module in ("sem_seg_head", "sem_seg_head.predictor"))
    return ordered, tuple(unknown)
