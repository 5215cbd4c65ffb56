"""Flags of ``mfvis convert``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.errors import ConfigError, require


@dataclass(frozen=True)
class ConvertConfig:
    """Convert weights from and to other frameworks: detectron2, transformers, MaskFreeVIS, SeqFormer, and backbones."""

    source: Annotated[str, tyro.conf.Positional]
    """A file (.safetensors, .pth, .pkl), a run or checkpoint of mfvis, a transformers folder, or a model of the hub."""
    out: Path
    """Output file: .safetensors, or .pkl or .pth for others. With --classes: a run directory, as written by train."""
    to: Literal["mfvis", "detectron2", "seqformer"] = "mfvis"
    """Framework whose tensor names are written. detectron2: Mask2Former's and MaskFreeVIS', for a SeqFormer VNext's;
    seqformer: those of SeqFormer's own repository."""
    classes: str | None = None
    """Classes that the weights were trained for: the JSON or the name of a data set. Writes a run for
    `mfvis predict --checkpoint`."""
    num_heads: int = 8
    """Number of attention heads, the only size that cannot be derived from the weights."""

    def __post_init__(self) -> None:
        if self.classes is not None and (self.to != "mfvis" or self.out.suffix):
            raise ConfigError("classes is given, so a run of mfvis is written; name a directory with --out")
        endings = (".safetensors",) if self.to == "mfvis" else (".pkl", ".pth", ".safetensors")
        right = self.classes is not None or self.out.suffix in endings
        expected = f"a file that ends in {' or '.join(endings)}"
        require(self, {"num_heads": (self.num_heads >= 1, "1 or more"), "out": (right, expected)})
