"""How training clips are drawn and augmented, and synthetic videos made; free of torch and scipy, so that help texts
appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.errors import require


@dataclass(frozen=True)
class ClipConfig:
    """How training clips are drawn from videos and augmented. Defaults: Ke et al. 2023, section 4.1."""

    frames: int = 5
    """T, frames of a clip."""
    sampling: Literal["random", "consecutive"] = "random"
    """random: a frame and T - 1 others around it, drawn with replacement, shuffled. consecutive: in order."""
    range: int = 5
    """random: how far from the first frame the others may lie."""
    stride: int = 1
    """consecutive: steps between the frames."""
    short_sides: tuple[int, ...] = (360, 480)
    """The short side of a clip in pixels is one of these."""
    max_side: int = 1333
    """The long side is at most this; the short side gives way."""
    flip: float = 0.5
    """Probability that a clip is mirrored left to right."""
    smallest_crop: float = 1.0
    """The least share of each side that a random crop keeps; 1 never crops."""
    rotation: float = 15.0
    """Of a video of a single frame, a picture, a clip of several is made by turning it: up to so many degrees."""
    smallest_pan: float = 0.7
    """... and by moving a window over it: the least share of each side that the window has."""

    def __post_init__(self) -> None:
        wanted = {name: (getattr(self, name) >= 1, "1 or more") for name in ("frames", "range", "stride", "max_side")}
        for name in ("smallest_crop", "smallest_pan"):
            wanted[name] = (0 < getattr(self, name) <= 1, "more than 0 and at most 1")
        wanted |= {
            "sampling": (self.sampling in ("random", "consecutive"), "random or consecutive"),
            "short_sides": (min(self.short_sides, default=0) >= 1, "one or more sizes in pixels"),
            "flip": (0 <= self.flip <= 1, "a probability"),
            "rotation": (0 <= self.rotation <= 180, "0 to 180 degrees"),
        }
        require(self, wanted)


@dataclass(frozen=True)
class SyntheticConfig:
    """How many synthetic videos, of which size."""

    videos: int = 60
    """Videos of train.json."""
    val_videos: int = 16
    """Videos of val.json."""
    frames: int = 8
    """Of each video."""
    height: int = 96
    """Of the pictures, in pixels."""
    width: int = 160
    """The same."""
    min_objects: int = 2
    """Objects per video, at least."""
    max_objects: int = 4
    """Objects per video, at most."""
    seed: int = 0
    """Another number, other videos."""

    def __post_init__(self) -> None:
        least = {"videos": 1, "val_videos": 1, "frames": 1, "height": 32, "width": 32, "min_objects": 1, "seed": 0}
        wanted = {name: (getattr(self, name) >= bound, f"{bound} or more") for name, bound in least.items()}
        require(
            self,
            wanted
            | {"max_objects": (self.max_objects >= self.min_objects, f"min_objects, {self.min_objects}, or more")},
        )


@dataclass(frozen=True, kw_only=True)
class DirectoryConfig(SyntheticConfig):
    """Write synthetic videos with boxes and masks, in the YouTube-VIS layout."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Where to; files of the same names are replaced."""
