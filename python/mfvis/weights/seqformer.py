"""State dicts of SeqFormer, VNext and Deformable DETR as those of our SeqFormer, and ours as the first two's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mfvis.errors import CheckpointError
from mfvis.text import counted
from mfvis.weights.names import TORCHVISION_RESNET, canonical
from mfvis.weights.seqformer_names import ALIAS, DEFORMABLE_DETR, ORIGINAL, SEQFORMER, UNUSED, VNEXT

RAW_ROWS, CATEGORIES = 42, 40
"""The original's class heads have a row for each category id of YouTube-VIS, 1 to 40, and for 0 and 41."""
NOT_IN_DETECTORS = ("decoder.controller.", "decoder.mask_features.")
"""Beginnings of names that a model of boxes does not have."""
_CLASS_HEAD = re.compile(r"(detr\.)?class_embed\.\d+\.(weight|bias)")
_TWINS = (
    ("box_attention", "instance_attention"),
    ("box_attention_norm", "instance_attention_norm"),
    ("box_sampling_norm", "instance_sampling_norm"),
    ("box_feed_forward", "instance_feed_forward"),
    ("box_output_proj", "sampling.output_proj"),
)
"""Modules of a decoder layer that do the same in both branches."""


def is_original(state: Mapping[str, Tensor]) -> bool:
    """True if these are the names of SeqFormer or VNext."""
    return any(name in state for name in ("controller.layers.2.weight", "detr.controller.layers.2.weight"))


def is_vnext(state: Mapping[str, Tensor]) -> bool:
    """True if these names of SeqFormer or VNext are VNext's."""
    return "controller.layers.2.weight" not in state


def is_deformable_detr(state: Mapping[str, Tensor]) -> bool:
    """True if these are the names of a Deformable DETR, of its original repository or of transformers."""
    offsets = "encoder.layers.0.self_attn.sampling_offsets.weight"
    return any(f"{start}.{offsets}" in state for start in ("transformer", "model"))


def from_original(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of SeqFormer or VNext under our names, and what is left out: what nothing uses.

    Of class heads with a row for every category id of YouTube-VIS the 40 categories' rows are kept.
    """
    vnext = is_vnext(state)
    state = {name.removeprefix("detr.") if vnext else name: value for name, value in state.items()}
    unused = tuple(name for name in state if re.fullmatch(UNUSED, name))
    aliases = {name: name.replace(ALIAS, "detr.bbox_embed.") for name in state if name.startswith(ALIAS)}
    state = {aliases[name]: state[name] for name in aliases} | {
        name: value for name, value in state.items() if name not in aliases and name not in unused
    }
    for name, value in state.items() if not vnext else ():
        if _CLASS_HEAD.fullmatch(name) and value.dim() and len(value) == RAW_ROWS:
            state[name] = value[1 : 1 + CATEGORIES]
            unused = (f"{name} rows 0 and {RAW_ROWS - 1}", *unused)
    first_norm = re.compile(r"detr\.backbone\.0\.(body|backbone)\.norm0\..*")  # of a Swin's map at stride 4
    unused += tuple(name for name in state if first_norm.fullmatch(name))
    converted, unknown = SEQFORMER.from_foreign({k: v for k, v in state.items() if k not in unused})
    return converted | {name: state[name] for name in unknown}, unused


def from_deformable_detr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a Deformable DETR with box refinement under our names, the box branch's also as the instance branch's.

    So for a single frame instance queries are the detector's queries, and its classes and boxes are there at once.

    Raises:
        CheckpointError: it has two stages, or refines no boxes.
    """
    if any("enc_output" in name or name.startswith(("model.pos_trans", "transformer.pos_trans")) for name in state):
        raise CheckpointError(
            "a two-stage Deformable DETR, whose queries come from the frame; use one with box refinement only, such as "
            "SenseTime/deformable-detr-with-box-refine"
        )
    if not any(name.startswith(("model.decoder.bbox_embed.", ALIAS.removeprefix("detr."))) for name in state):
        raise CheckpointError(
            "a Deformable DETR without box refinement; use one with it, such as "
            "SenseTime/deformable-detr-with-box-refine"
        )
    if "transformer.level_embed" in state:
        converted = _from_original_detector(state)
    else:
        converted = _from_transformers(state)
    for name in list(converted):
        for box, instance in _TWINS:
            twin = re.sub(rf"^(decoder\.layers\.\d+)\.{box}\.", rf"\1.{instance}.", name)
            if twin != name:
                converted[twin] = converted[name]
    return converted


def _from_original_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of fundamentalvision/Deformable-DETR: SeqFormer's, its decoder being the box branch."""
    layer = re.compile(
        r"^(detr\.transformer\.decoder\.layers\.\d+\.)(self_attn|norm\d|linear\d|cross_attn\.output_proj)\."
    )
    renamed = {layer.sub(r"\1\2_box.", f"detr.{name}"): value for name, value in state.items()}
    aliases = {name.replace(ALIAS, "detr.bbox_embed."): renamed[name] for name in renamed if name.startswith(ALIAS)}
    renamed = aliases | {name: value for name, value in renamed.items() if not name.startswith(ALIAS)}
    converted, unknown = ORIGINAL.from_foreign(renamed)
    return converted | {name: renamed[name] for name in unknown}


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of transformers 4 and 5, whose backbone has names of timm (torchvision's) or of its own."""
    renamed = {}
    for name, value in state.items():
        # Files of transformers 4, and those that 5 writes.
        name = re.sub(r"(layers\.\d+)\.(fc\d)\.", r"\1.mlp.\2.", name).replace(
            "self_attn.out_proj.", "self_attn.o_proj."
        )
        # Second names come first, so that a tensor that has both is read once.
        renamed[name.replace("model.decoder.bbox_embed.", "bbox_embed.")] = value
    layers = 1 + max(int(name.split(".")[1]) for name in renamed if name.startswith("bbox_embed."))
    for leaf in ("weight", "bias"):  # transformers 5 writes one class head for all layers
        if f"class_embed.0.{leaf}" in renamed:
            first = renamed[f"class_embed.0.{leaf}"]
            renamed = {f"class_embed.{layer}.{leaf}": first for layer in range(layers)} | renamed
    backbone = re.compile(r"^model\.backbone\.(conv_encoder\.)?model\.(_backbone\.)?")
    features = {backbone.sub("", name): value for name, value in renamed.items() if backbone.match(name)}
    converted, unknown = DEFORMABLE_DETR.from_foreign({n: v for n, v in renamed.items() if not backbone.match(n)})
    converted |= {name: renamed[name] for name in unknown}
    renamed, unknown = TORCHVISION_RESNET.from_foreign(features)
    return converted | {f"backbone.net.{k}": v for k, v in (renamed | {n: features[n] for n in unknown}).items()}


def to_original(state: Mapping[str, Tensor], vnext: bool) -> dict[str, Tensor]:
    """Our SeqFormer's tensors under the names of SeqFormer or VNext, whose files these programs load completely.

    Raises:
        CheckpointError: the backbone is none of theirs (ResNet, Swin).
    """
    state = {canonical(name): value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    renamed, unknown = (VNEXT if vnext else ORIGINAL).to_theirs(state)
    if unknown:
        raise CheckpointError(
            f"SeqFormer has no place for {counted(len(unknown), 'tensor')} ({', '.join(unknown[:3])}, ...); it "
            "takes models with a ResNet or Swin backbone"
        )
    for name, value in list(renamed.items()):
        if name.startswith("detr.bbox_embed."):
            renamed[name.replace("detr.bbox_embed.", ALIAS)] = value
        unused = re.sub(r"(encoder\.layers\.\d+\.self_attn\.output_proj)\.", r"\1_box.", name)
        if unused != name:  # a projection that their encoder has and does not use
            renamed[unused] = torch.zeros_like(value)
        if (
            not vnext and ".patch_embed.norm." in name
        ):  # as wide as the norm of a Swin's map at stride 4, not used either
            renamed[name.replace("patch_embed.norm", "norm0")] = torch.full_like(value, float(name.endswith("weight")))
        if not vnext and _CLASS_HEAD.fullmatch(name) and len(value) == CATEGORIES:
            # Their rows are category ids; those of no category must never be among the best.
            fill = -100.0 if name.endswith("bias") else 0.0
            rest = torch.full_like(value[:1], fill)
            renamed[name] = torch.cat([rest, value, rest])
    return {f"detr.{name}" if vnext else name: renamed[name] for name in sorted(renamed)}


def absent_from(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Beginnings of names, ours, that a file may lack because its model was trained on images: weights of frames."""
    layers = {int(name.split(".")[2]) for name in tensors if name.startswith("decoder.layers.")}
    times = tuple(f"decoder.layers.{layer}.time_weight." for layer in sorted(layers))
    return () if any(name.startswith(times) for name in tensors) else times
