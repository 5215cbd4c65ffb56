"""What ``mfvis label`` can be told: its flags, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.config import OptimConfig
from mfvis.errors import require
from mfvis.losses.config import LossConfig
from mfvis.models.config import BackboneConfig


@dataclass(frozen=True)
class BackgroundPropagationConfig:
    """How background inside the boxes is found in other frames, and what it weighs in training."""

    weight: float = 1.0
    """Of the escaped pixels' term in the loss, and of the ring's around the boxes; 0 looks for none."""
    smoothing: float = 0.1
    """Share of the box's pixels that the escaped ones are averaged over in addition: few of them may be errors."""
    frame_gaps: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 11, 15, 20, 26)
    """How many frames away the other frames are, both ways. Far ones show what slow objects cover for long."""
    radius: int = 3
    """Cells of the grid around the place where the camera's motion takes a pixel."""
    distance: float = 16.0
    """Farthest patch distance (3 x 3 cells of LAB) of the same place seen again."""
    min_frames: int = 2
    """Other frames in which a pixel must be found outside the box."""

    def __post_init__(self) -> None:
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "frame_gaps": (
                len(self.frame_gaps) > 0 and min(self.frame_gaps) >= 1,
                "one or more numbers of frames, each 1 or more",
            ),
            "radius": (self.radius >= 0, "0 or more"),
            "distance": (self.distance >= 0, "0 or more"),
            "min_frames": (self.min_frames >= 1, "1 or more"),
        }
        require(self, wanted)


@dataclass(frozen=True)
class RefineConfig:
    """How the edges of the masks are fitted to the picture."""

    steps: int = 5
    """Mean-field steps; 0 leaves the network's masks as they are."""
    network: float = 0.2
    """Factor on the network's logits."""
    color: float = 1.0
    """Factor on the log ratio of the two color models."""
    smooth: float = 2.0
    """Weight of the neighbors."""
    similar: float = 8.0
    """LAB distance at which a neighbor's say has fallen to exp(-1/2)."""
    frames: int = 4
    """Frames before and after that share their color models."""

    def __post_init__(self) -> None:
        names = ("steps", "network", "color", "smooth", "frames")
        wanted = {name: (getattr(self, name) >= 0, "0 or more") for name in names}
        require(self, wanted | {"similar": (self.similar > 0, "a positive number")})


@dataclass(frozen=True)
class LabelConfig:
    """Give box tracks their masks: trains on the boxes of each video, then fills them."""

    data: Annotated[Path, tyro.conf.Positional]
    """YouTube-VIS JSON with the videos and their box tracks; masks in it are not looked at."""
    out: Path = Path("labels")
    """Directory for the completed JSON, the overlay videos and the state that a killed run goes on from."""
    frames: Path | None = None
    """Directory of the frames; by default JPEGImages beside the JSON, else the JSON's own directory."""
    checkpoint: Path | None = None
    """A checkpoint of `mfvis train` to start each video from; without one, from scratch on the backbone's weights."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one and the operators were built for it."""
    overlays: bool = True
    """Write an MP4 per video, a JPEG where it has one frame, with the masks drawn over it."""
    seed: int = 0
    """Another number, other random numbers throughout."""
    window: int = 40
    """Frames of a video that are trained on and labeled together; longer videos are cut into such windows."""
    clip: int = 5
    """Frames of a training clip, and of a prediction."""
    strides: tuple[int, ...] = (1, 2)
    """Steps between the frames of a training clip, drawn anew each time."""
    short_side: int = 360
    """Frames are scaled to this short side, aspect kept."""
    max_side: int = 960
    """The long side is at most this; the short side gives way."""
    zoom: int = 2
    """How much larger the backbone sees them. Without a checkpoint; one is shown what it was trained on."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Whose features are read without a checkpoint."""
    dim: int = 32
    """Channels of the model trained from scratch."""
    num_models: int = 1
    """Models trained from scratch on each window, each from a seed of its own. A track's mask is the mean
    of those that fill its boxes."""
    shared_steps: int = 0
    """Steps of one more network, which learns from the masks of all videos what they have in common; then every mask is
    found again with its help. 0: without. Only of several videos, without a checkpoint, on a frozen backbone."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and steps, per window."""
    loss: LossConfig = field(default_factory=LossConfig)
    propagation: BackgroundPropagationConfig = field(default_factory=BackgroundPropagationConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        sizes = ("window", "clip", "short_side", "max_side", "zoom", "dim", "num_models")
        wanted = {name: (getattr(self, name) >= 1, "1 or more") for name in sizes}
        wanted |= {name: (getattr(self, name) >= 0, "0 or more") for name in ("seed", "shared_steps")}
        wanted["strides"] = (min(self.strides, default=0) >= 1, "one or more steps, each 1 or more")
        random = self.checkpoint is None and self.backbone.frozen and self.backbone.weights is None
        remedy = f'a file or "hub": a frozen {self.backbone.name} would stay random. Or train it: --backbone.no-frozen'
        require(self, wanted | {"backbone.weights": (not random, remedy)})
