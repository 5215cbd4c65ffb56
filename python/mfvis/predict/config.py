"""Flags of ``mfvis predict``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.data.datasets import DATASET_NAMES
from mfvis.errors import require


@dataclass(frozen=True)
class InferConfig:
    """Inference settings: frame size, windows, and number of tracks."""

    short_side: int | None = None
    """Short side in pixels to which frames are resized, keeping the aspect ratio. Default: the smallest short side
    used in training."""
    max_side: int = 1333
    """Maximum long side in pixels; takes precedence over `short_side`."""
    max_tracks: int = 10
    """Maximum number of tracks per video: the best pairs of query and class. With windows, tracks are ranked by score
    and length."""
    chunk: int = 8
    """Frames that are encoded, and whose masks are computed, at a time. Affects memory and speed, not the result."""
    window: int | None = None
    """Frames per forward pass of the decoder; bounds the memory for long videos. Default: the whole video, as in the
    paper."""
    stride: int | None = None
    """Frames from one window to the next. Default: half a window. Objects are associated in the overlap."""
    memory: int = 5
    """Number of windows after which an unseen object is no longer associated."""

    def __post_init__(self) -> None:
        names = ("short_side", "max_side", "max_tracks", "chunk", "window", "stride", "memory")
        sizes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        checks = {name: (value >= 1, "1 or more") for name, value in sizes.items()}
        if self.stride is not None and checks["stride"][0]:
            known = "no more than window" if self.window else "none without a window"
            checks["stride"] = (self.stride <= (self.window or 0), known)
        require(self, checks)


@dataclass(frozen=True)
class PredictConfig:
    """Find and segment the objects of videos: files, folders of frames, or all videos of a data set."""

    sources: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="VIDEO|FOLDER|DATA [...]",
            help="Video files, folders of frames, JSONs in the layout of YouTube-VIS or COCO, or data sets by name, "
            "NAME:FOLDER: then the valid split, or another with @split=test. Annotations are not needed. "
            f"Names: {DATASET_NAMES}.",
        ),
    ]
    checkpoint: Path
    """Checkpoint of `mfvis train`."""
    out: Path = Path("predictions")
    """Directory for results.json, results.zip (for evaluation servers), categories.json (the classes of the results),
    tracks.json, the overlays, and the state from which an interrupted run resumes. For bdd100k-mots also bdd100k.json,
    the format of its own evaluation."""
    overlays: bool = True
    """Write an MP4 with the tracks drawn over each video (a JPEG for a video of one frame)."""
    min_score: float = 0.3
    """Minimum score of tracks in overlays, tracks.json and bdd100k.json; results.json contains all tracks."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto uses a GPU if there is one and the operators were built for it."""
    shard: str | None = None
    """Predict only a part of the videos, I/N with I from 1 to N; a later run without it joins the parts. By default the
    part follows from the variables of torchrun or of a SLURM array, if there are any; 1/1 predicts all videos."""
    infer: InferConfig = field(default_factory=InferConfig)

    def __post_init__(self) -> None:
        rules = {"min_score": (0 <= self.min_score <= 1, "0 to 1")}
        require(self, rules | {"sources": (len(self.sources) > 0, "one or more videos or data sets")})
