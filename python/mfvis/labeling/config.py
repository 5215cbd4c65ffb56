"""Flags of ``mfvis label`` and their checks; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.errors import require
from mfvis.losses.config import LossConfig
from mfvis.losses.pairwise import PairwiseConfig
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.models.config import BackboneConfig
from mfvis.train.optim_config import OptimConfig


@dataclass(frozen=True)
class RefineConfig:
    """Refinement of mask edges by color."""

    steps: int = 5
    """Mean-field steps; 0 disables the refinement."""
    network: float = 0.2
    """Factor on the network's logits."""
    color: float = 1.0
    """Factor on the log ratio of the two color models."""
    smooth: float = 2.0
    """Weight of the smoothness term between neighboring pixels."""
    similar: float = 8.0
    """Standard deviation of the color Gaussian, as a LAB distance."""
    frames: int = 4
    """Number of frames before and after a frame whose colors contribute to its color models."""

    def __post_init__(self) -> None:
        names = ("steps", "network", "color", "smooth", "frames")
        rules = {name: (getattr(self, name) >= 0, "0 or more") for name in names}
        require(self, rules | {"similar": (self.similar > 0, "a positive number")})


@dataclass(frozen=True)
class LabelLossConfig:
    """Weights of the losses. Tracks are given, so no class is learned and no query searched."""

    projection: float = 1.0
    """Weight of 1 - dice between the projections of mask and box, onto x and onto y."""
    background: float = 1.0
    """Weight of -log(1 - p) of the pixels outside the box."""
    pairwise: PairwiseConfig = field(
        default_factory=lambda: PairwiseConfig(0.5, start=10, kernel_size=3, dilation=1, threshold=0.3)
    )
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig(weight=0.0, camera_motion=True))

    def __post_init__(self) -> None:
        require(self, {name: (getattr(self, name) >= 0, "0 or more") for name in ("projection", "background")})

    def losses(self) -> LossConfig:
        """The same weights for the criterion."""
        return LossConfig(
            classification=0.0,
            projection=self.projection,
            background=self.background,
            pairwise=self.pairwise,
            temporal=self.temporal,
        )


@dataclass(frozen=True)
class LabelConfig:
    """Generate masks for box tracks: train on the boxes of each video, then segment them."""

    data: Annotated[Path, tyro.conf.Positional]
    """YouTube-VIS JSON with the videos and their box tracks. Masks, clicks and scribbles in it are corrections: they
    are kept, and masks are learned from."""
    out: Path = Path("labels")
    """Directory for the completed JSON, report.html (doubtful masks first), the overlay videos, and the state from
    which an interrupted run resumes."""
    frames: Path | None = None
    """Directory of the frames; by default JPEGImages next to the JSON, else the JSON's own directory."""
    checkpoint: Path | None = None
    """Checkpoint of `mfvis train` to finetune on each video. By default models are trained from scratch on top of the
    pretrained backbone."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto uses a GPU if there is one and the operators were built for it."""
    overlays: bool = True
    """Write an MP4 with the masks drawn over each video (a JPEG for a video of one frame)."""
    given_masks: bool = True
    """Keep the masks that the JSON has for some frames, and learn from them. False ignores them, for evaluation."""
    only: tuple[str, ...] = ()
    """Videos to label, by name or id, or single tracks, VIDEO/TRACK id. Everything else keeps the masks of an earlier
    run. By default all videos whose boxes, frames or corrections have changed."""
    shard: str | None = None
    """Label only a part of the videos, I/N with I from 1 to N; a later run without it joins the parts. By default the
    part follows from the variables of torchrun or of a SLURM array, if there are any; 1/1 labels all videos."""
    seed: int = 0
    """Random seed."""
    window: int = 40
    """Frames that are trained on and labeled together; longer videos are split into windows of this length."""
    clip: int = 5
    """Frames per clip, in training and in prediction."""
    strides: tuple[int, ...] = (1, 2)
    """Strides between the frames of a training clip; one is drawn at random for each clip."""
    short_side: int = 270
    """Short side in pixels to which frames are resized, keeping the aspect ratio."""
    max_side: int = 960
    """Maximum long side in pixels; takes precedence over `short_side`."""
    zoom: int = 2
    """Upscaling factor applied to frames before the backbone. Ignored with --checkpoint."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig("mobilenet_v2", weights="hub", frozen=True))
    """Backbone of models trained from scratch. Ignored with --checkpoint."""
    dim: int = 32
    """Channels of models trained from scratch. Ignored with --checkpoint."""
    num_models: int = 3
    """Number of models trained from scratch on each window, each with its own seed. The masks of a track are averaged
    over the models whose masks fill its boxes."""
    shared_steps: int = 150
    """Training steps of a second network, which is trained on the masks of all videos and ensembled with the first in a
    second pass. 0 disables it. Requires several videos, no checkpoint and a frozen backbone."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            steps=80, lr=5e-3, weight_decay=1e-3, clip_norm=1.0, warmup=8, schedule="cosine"
        )
    )
    """Optimizer and number of steps for each window."""
    loss: LabelLossConfig = field(default_factory=LabelLossConfig)
    propagation: BackgroundPropagationConfig = field(default_factory=BackgroundPropagationConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        sizes = ("window", "clip", "short_side", "max_side", "zoom", "dim", "num_models")
        rules = {name: (getattr(self, name) >= 1, "1 or more") for name in sizes}
        rules |= {name: (getattr(self, name) >= 0, "0 or more") for name in ("seed", "shared_steps")}
        rules["strides"] = (min(self.strides, default=0) >= 1, "one or more steps, each 1 or more")
        random = self.checkpoint is None and self.backbone.frozen and self.backbone.weights is None
        remedy = f'a file or "hub": a frozen {self.backbone.name} would stay random. Or train it: --backbone.no-frozen'
        require(self, rules | {"backbone.weights": (not random, remedy)})
