"""Flags of ``mfvis demo``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from mfvis.data.config import ClipConfig, SyntheticConfig
from mfvis.errors import require
from mfvis.losses.config import LossConfig
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.predict.config import InferConfig
from mfvis.train.config import TrainConfig
from mfvis.train.optim_config import OptimConfig

T = TypeVar("T")
Hidden = Annotated[T, tyro.conf.Suppress]
"""A part whose flags no help text lists."""


@dataclass(frozen=True)
class BoxPromptedConfig:
    """The box-prompted network and its training."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    dim: int = 24
    """Channels of the features that enter the head."""
    width: int = 32
    """Channels of the head."""
    batch_size: int = 4
    """Clips per step."""
    seed: int = 0
    """Random seed of the initial weights and the clips."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the losses. The network does not predict classes, so the classification weight has no effect."""

    def __post_init__(self) -> None:
        rules = {name: (getattr(self, name) >= 1, "1 or more") for name in ("dim", "batch_size")}
        rules["width"] = (self.width >= 4 and self.width % 4 == 0, "a multiple of 4")
        require(self, rules)


@dataclass(frozen=True)
class DemoConfig:
    """Run the whole pipeline on the CPU: masks from the boxes of synthetic videos, box-only training, an HTML report.

    --dry-run shows the settings of data, models and training; each can be a flag, such as --train.steps.
    """

    out: Path = Path("demo")
    """Directory for data, runs and report.html; files of an earlier demo are replaced."""
    twin: bool = False
    """Also train the mask-supervised twin and a box-only model without TK-Loss, and compare all three."""
    label_preset: str = "demo-label"
    """Preset of the first act, which runs mfvis label."""
    label_videos: Hidden[SyntheticConfig] = field(default_factory=SyntheticConfig)
    """Videos of the first act; val_videos has no effect."""
    synthetic: Hidden[SyntheticConfig] = field(default_factory=SyntheticConfig)
    """Videos of the trainings."""
    model: Hidden[ModelConfig] = field(default_factory=ModelConfig)
    clip: Hidden[ClipConfig] = field(default_factory=ClipConfig)
    loss: Hidden[LossConfig] = field(default_factory=LossConfig)
    train: Hidden[TrainConfig] = field(default_factory=TrainConfig)
    infer: Hidden[InferConfig] = field(default_factory=InferConfig)
    box_prompted: Hidden[BoxPromptedConfig] = field(default_factory=BoxPromptedConfig)
    """The box-prompted network, trained twice: with these losses, and without TK-Loss."""
