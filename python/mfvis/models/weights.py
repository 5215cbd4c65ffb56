"""Weights on the disk: safe reading, loading with a report of what fitted, atomic writing, and foreign names.

Nothing here can run code from a file: safetensors, or pickles restricted to tensors (``weights_only=True``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mfvis.errors import CheckpointError


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor when a state dict was loaded into a module."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """The module has them, the file does not."""
    unexpected: tuple[str, ...]
    """The file has them, the module does not."""
    mismatched: tuple[str, ...]
    """Both have them, in different shapes."""

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                parts.append(f"{len(names)} {kind} ({shown})")
        return "; ".join(parts)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of a PyTorch file that holds nothing but tensors.

    A PyTorch file may wrap them in a dict under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: the file is absent, damaged, holds other objects than tensors, or no tensors at all.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file. Give the path of a .safetensors or PyTorch file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a readable safetensors file ({error}). Download or write it anew"
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler meets rubbish with whatever its bytes lead to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: not a PyTorch file of plain tensors ({reason}). Damaged, or it holds Python objects, which are "
            "never loaded; convert it to .safetensors where you trust it"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors by name. A state dict was expected")
    return state


def save_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name; the file appears under its name only once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Tensors that share storage (or are views of a bigger one) cannot be stored as they are.
        save_file(
            {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()},
            temporary,
            dict(metadata or {}),
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str, least: float = 1.0) -> LoadReport:
    """Copy the tensors that fit by name and shape into ``module`` and report on all others.

    Args:
        state: Tensors by the module's own names.
        source: Where they come from, for the message.
        least: The share, 0 to 1, of the module's tensors that must be loaded; 1 is strict (and then nothing may be
            left over in ``state`` either). Lower it to carry weights over to other classes.

    Raises:
        CheckpointError: fewer fitted. The module is then as it was.
    """
    own = module.state_dict()
    # Batch norms count batches for a momentum that nobody uses; many files leave the count out.
    needed = [name for name in own if not name.endswith(".num_batches_tracked")]
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    report = LoadReport(
        loaded=tuple(fits),
        missing=tuple(name for name in needed if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(
            f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
            for name in state
            if name in own and name not in fits
        ),
    )
    found = sum(name in fits for name in needed)
    if found < least * len(needed) or (least >= 1 and (report.unexpected or report.mismatched)):
        raise CheckpointError(
            f"{source}: does not fit the model: {report}. At least {least:.0%} of the model's {len(needed)} tensors "
            "must match; check that the configuration (backbone, sizes, classes) is the one the weights were made with"
        )
    module.load_state_dict(fits, strict=False)
    return report


# The names of transformers' Mask2FormerForUniversalSegmentation and ours, applied in order.
_TRANSFORMERS_NAMES = (
    (r"^model\.pixel_level_module\.encoder\.", "backbone.net."),
    (r"^model\.pixel_level_module\.decoder\.adapter_1\.", "pixel_decoder.lateral."),
    (r"^model\.pixel_level_module\.decoder\.layer_1\.", "pixel_decoder.output."),
    (r"^model\.pixel_level_module\.decoder\.level_embed$", "pixel_decoder.level_embedding.weight"),
    (r"^model\.pixel_level_module\.decoder\.encoder\.", "pixel_decoder."),
    (r"^model\.pixel_level_module\.decoder\.", "pixel_decoder."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(pixel_decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.attention_norm."),
    (r"^model\.transformer_module\.queries_embedder\.", "decoder.query_positions."),
    (r"^model\.transformer_module\.queries_features\.", "decoder.query_features."),
    (r"^model\.transformer_module\.level_embed\.", "decoder.level_embedding."),
    (r"^model\.transformer_module\.decoder\.layernorm\.", "decoder.norm."),
    (r"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.0\.0\.", "decoder.mask_embedder.0."),
    (r"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.1\.0\.", "decoder.mask_embedder.2."),
    (r"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.2\.0\.", "decoder.mask_embedder.4."),
    (r"^model\.transformer_module\.decoder\.", "decoder."),
    (r"^(decoder\.layers\.\d+)\.cross_attn_layer_norm\.", r"\1.cross_norm."),
    (r"^(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.self_norm."),
    (r"^(decoder\.layers\.\d+)\.cross_attn\.", r"\1.cross_attention."),
    (r"^(decoder\.layers\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"^(.*decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.final_norm."),
    (r"^class_predictor\.", "decoder.class_head."),
)


def convert_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of transformers' ``Mask2FormerForUniversalSegmentation`` under the names of `VideoMask2Former`.

    The image model's weights are those of the video model: its decoder has no parameter that depends on time.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("criterion."):
            continue
        for pattern, replacement in _TRANSFORMERS_NAMES:
            name = re.sub(pattern, replacement, name)
        stem, _, kind = name.rpartition(".in_proj_")
        if stem:
            for projection, part in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                converted[f"{stem}.{projection}.{kind}"] = part
        else:
            converted[name] = value
    return converted
