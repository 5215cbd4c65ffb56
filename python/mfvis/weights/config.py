"""Flags of ``mfvis convert``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.errors import ConfigError, require


@dataclass(frozen=True)
class ConvertConfig:
    """Convert weights of detectron2's or transformers' Mask2Former, MaskFreeVIS or a backbone, or give ours to them."""

    source: Annotated[str, tyro.conf.Positional]
    """A file (.safetensors, .pth, .pkl), a run or checkpoint of mfvis, a folder of transformers, a model of the hub."""
    out: Path
    """A .safetensors file, or for detectron2 a .pkl; with --classes the directory of a run, as train makes it."""
    to: Literal["mfvis", "detectron2"] = "mfvis"
    """Whose names the tensors get."""
    classes: str | None = None
    """The classes that the weights were trained for: the JSON or the name of a data set. Writes a run
    that `mfvis predict --checkpoint` takes."""
    num_heads: int = 8
    """Attention heads, the one size that weights do not show."""

    def __post_init__(self) -> None:
        if self.classes is not None and (self.to != "mfvis" or self.out.suffix):
            raise ConfigError("classes is given, so a run of mfvis is written; name a directory with --out")
        endings = (".safetensors",) if self.to == "mfvis" else (".pkl", ".pth", ".safetensors")
        right = self.classes is not None or self.out.suffix in endings
        expected = f"a file that ends in {' or '.join(endings)}"
        require(self, {"num_heads": (self.num_heads >= 1, "1 or more"), "out": (right, expected)})
