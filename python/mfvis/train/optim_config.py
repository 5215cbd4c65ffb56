"""Optimizer and schedule of every training, apart from the training's data, so that help texts appear at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mfvis.errors import require


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    steps: int = 6000
    """Optimizer steps."""
    lr: float = 1e-4
    """Learning rate of all parameters without a factor of their own."""
    backbone_lr_multiplier: float = 0.1
    """Factor on the learning rate of the backbone; 0 freezes it."""
    sampling_lr_multiplier: float = 1.0
    """Factor on the learning rate of sampling offsets and reference points."""
    weight_decay: float = 0.05
    """Weight decay; not applied to norms and embeddings."""
    clip_norm: float = 0.01
    """Maximum gradient norm over all parameters; 0 disables clipping."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["step", "linear", "cosine", "constant"] = "step"
    """Learning rate after the warm-up: "step" divides it by 10 at `lr_milestones`; "linear", "cosine" decay to 0."""
    lr_milestones: tuple[float, ...] = (2 / 3,)
    """Fractions of `steps` at which "step" multiplies the learning rate by 0.1."""

    def __post_init__(self) -> None:
        require(self, self.rules())

    def rules(self) -> dict[str, tuple[bool, str]]:
        """For each field, whether it is valid and the expected value."""
        return {
            "steps": (self.steps >= 1, "1 or more"),
            "lr": (math.isfinite(self.lr) and self.lr > 0, "a positive number"),
            "backbone_lr_multiplier": (
                math.isfinite(self.backbone_lr_multiplier) and self.backbone_lr_multiplier >= 0,
                "0 or more",
            ),
            "sampling_lr_multiplier": (
                math.isfinite(self.sampling_lr_multiplier) and self.sampling_lr_multiplier >= 0,
                "0 or more",
            ),
            "weight_decay": (math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or more"),
            "clip_norm": (math.isfinite(self.clip_norm) and self.clip_norm >= 0, "0 or more"),
            "warmup": (0 <= self.warmup <= max(self.steps, 0), f"0 to {self.steps}, the number of steps"),
            "lr_milestones": (
                all(0 < share <= 1 for share in self.lr_milestones),
                "fractions of the training, above 0 and up to 1",
            ),
        }
