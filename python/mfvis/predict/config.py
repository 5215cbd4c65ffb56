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
    """How a video goes through the model."""

    short_side: int | None = None
    """Frames are scaled to this short side, aspect kept; by default the least one of the model's training."""
    max_side: int = 1333
    """The long side is at most this; the short side gives way."""
    max_tracks: int = 10
    """Tracks per video: the best pairs of query and class. In windows those are best that score high and are long."""
    chunk: int = 8
    """Frames that go through the backbone at a time. It changes memory and speed, not the result."""
    window: int | None = None
    """Frames that the decoder sees at once: what bounds the memory for long videos. By default all, as in the paper."""
    stride: int | None = None
    """Frames from one window to the next, by default half a window. In what they share objects are recognized."""
    memory: int = 5
    """Windows for which an object that went out of sight is looked for."""

    def __post_init__(self) -> None:
        names = ("short_side", "max_side", "max_tracks", "chunk", "window", "stride", "memory")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        checks = {name: (value >= 1, "1 or more") for name, value in given.items()}
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
    """A checkpoint of `mfvis train`."""
    out: Path = Path("predictions")
    """Directory for results.json, results.zip (for evaluation servers), tracks.json, the overlays, and the state from
    which an interrupted run resumes; of bdd100k-mots also bdd100k.json, which its own evaluation takes."""
    overlays: bool = True
    """Write an MP4 per video, a JPEG where it has one frame, with the tracks drawn over it."""
    min_score: float = 0.3
    """Tracks below this are not drawn and not in tracks.json and bdd100k.json; results.json has them all."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one and the operators were built for it."""
    infer: InferConfig = field(default_factory=InferConfig)

    def __post_init__(self) -> None:
        wanted = {"min_score": (0 <= self.min_score <= 1, "0 to 1")}
        require(self, wanted | {"sources": (len(self.sources) > 0, "one or more videos or data sets")})
