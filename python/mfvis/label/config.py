"""What ``mfvis label`` can be told: its flags, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.errors import require
from mfvis.label.background_propagation import EvidenceConfig
from mfvis.label.refine import RefineConfig
from mfvis.losses.criterion import LossConfig
from mfvis.models.backbone import BackboneConfig
from mfvis.train.optim import OptimConfig


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
    """Frames of a video that are trained on and labelled together; longer videos are cut into such windows."""
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
    """Optimiser and steps, per window."""
    loss: LossConfig = field(default_factory=LossConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        sizes = ("window", "clip", "short_side", "max_side", "zoom", "dim", "num_models")
        wanted = {name: (getattr(self, name) >= 1, "1 or more") for name in sizes}
        wanted |= {name: (getattr(self, name) >= 0, "0 or more") for name in ("seed", "shared_steps")}
        wanted["strides"] = (min(self.strides, default=0) >= 1, "one or more steps, each 1 or more")
        random = self.checkpoint is None and self.backbone.frozen and self.backbone.weights is None
        remedy = f'a file or "hub": a frozen {self.backbone.name} would stay random. Or train it: --backbone.no-frozen'
        require(self, wanted | {"backbone.weights": (not random, remedy)})
