"""Flags of ``mfvis demo``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from mfvis.data.config import ClipConfig, SyntheticConfig
from mfvis.losses.config import LossConfig
from mfvis.models.config import ModelConfig
from mfvis.predict.config import InferConfig
from mfvis.train.config import TrainConfig

T = TypeVar("T")
Hidden = Annotated[T, tyro.conf.Suppress]
"""A part whose flags no help text lists."""


@dataclass(frozen=True)
class DemoConfig:
    """Run the whole pipeline on the CPU: masks from the boxes of synthetic videos, box-only training, an HTML report.

    --dry-run shows the settings of data, models and training; each can be a flag, such as --train.steps.
    """

    out: Path = Path("demo")
    """Directory for data, runs and report.html; files of an earlier demo are replaced."""
    twin: bool = False
    """Also train the mask-supervised twin, and compare all three."""
    label_preset: str = "demo-label"
    """Preset of the first act, which runs mfvis label."""
    label_videos: Hidden[SyntheticConfig] = field(default_factory=SyntheticConfig)
    """Videos of the first act; val_videos has no effect."""
    synthetic: Hidden[SyntheticConfig] = field(default_factory=SyntheticConfig)
    """Videos of the trainings."""
    model: Hidden[ModelConfig] = field(default_factory=ModelConfig)
    clip: Hidden[ClipConfig] = field(default_factory=ClipConfig)
    loss: Hidden[LossConfig] = field(default_factory=LossConfig)
    """Losses of the second training; the first one has all but TK-Loss."""
    train: Hidden[TrainConfig] = field(default_factory=TrainConfig)
    infer: Hidden[InferConfig] = field(default_factory=InferConfig)
