"""Configuration of training clips and of synthetic videos. The module does not import torch or scipy, so that help
texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.errors import require


@dataclass(frozen=True)
class ClipConfig:
    """Sampling and augmentation of training clips."""

    frames: int = 5
    """Number of frames per clip, T."""
    sampling: Literal["random", "consecutive"] = "random"
    """Sampling of the frames of a clip. random: a frame and T - 1 others around it, drawn with replacement, shuffled.
    consecutive: frames in order."""
    range: int = 5
    """Largest distance of the other frames from the first one, in frames. Only for random sampling."""
    stride: int = 1
    """Distance between consecutive frames, in frames. Only for consecutive sampling."""
    short_sides: tuple[int, ...] = (360, 480)
    """Short sides of a clip in pixels; each clip is scaled to one of them at random."""
    max_side: int = 1333
    """Maximum long side in pixels. The short side becomes smaller if necessary."""
    flip: float = 0.5
    """Probability that a clip is mirrored left to right."""
    smallest_crop: float = 1.0
    """Smallest fraction of each side that a random crop keeps. 1 disables cropping."""
    rotation: float = 15.0
    """Maximum rotation in degrees of the pseudo-clip that is made from a single image."""
    smallest_pan: float = 0.7
    """Smallest fraction of each side that is visible in the moving window of a pseudo-clip from a single image."""

    def __post_init__(self) -> None:
        rules = {name: (getattr(self, name) >= 1, "1 or more") for name in ("frames", "range", "stride", "max_side")}
        for name in ("smallest_crop", "smallest_pan"):
            rules[name] = (0 < getattr(self, name) <= 1, "more than 0 and at most 1")
        rules |= {
            "sampling": (self.sampling in ("random", "consecutive"), "random or consecutive"),
            "short_sides": (min(self.short_sides, default=0) >= 1, "one or more sizes in pixels"),
            "flip": (0 <= self.flip <= 1, "a probability"),
            "rotation": (0 <= self.rotation <= 180, "0 to 180 degrees"),
        }
        require(self, rules)


@dataclass(frozen=True)
class SyntheticConfig:
    """Number and size of synthetic videos."""

    videos: int = 60
    """Number of videos in train.json."""
    val_videos: int = 16
    """Number of videos in val.json."""
    frames: int = 8
    """Number of frames per video."""
    height: int = 96
    """Height of the frames in pixels."""
    width: int = 160
    """Width of the frames in pixels."""
    min_objects: int = 2
    """Minimum number of objects per video."""
    max_objects: int = 4
    """Maximum number of objects per video."""
    shared_colors: bool = True
    """Every object shares a color with the ground. Otherwise objects have two colors that the ground lacks."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        least = {"videos": 1, "val_videos": 1, "frames": 1, "height": 32, "width": 32, "min_objects": 1, "seed": 0}
        rules = {name: (getattr(self, name) >= bound, f"{bound} or more") for name, bound in least.items()}
        require(
            self,
            rules
            | {"max_objects": (self.max_objects >= self.min_objects, f"min_objects, {self.min_objects}, or more")},
        )


@dataclass(frozen=True, kw_only=True)
class DirectoryConfig(SyntheticConfig):
    """Write synthetic videos with boxes and masks, in the YouTube-VIS layout."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Output folder. Files of the same names are replaced."""
