"""Pairwise loss: neighboring pixels of similar color have the same label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mfvis.errors import require
from mfvis.losses.schedule import ramp

if TYPE_CHECKING:
    from torch import Tensor

    from mfvis.losses.inputs import MaskLossInputs


@dataclass(frozen=True)
class PairwiseConfig:
    """Pairwise loss: weight, schedule and selection of neighbors."""

    weight: float = 5.0
    """Weight of -log of the probability that both pixels of a pair have the same label."""
    start: int = 0
    """Delay in steps before the loss starts; without it, training from scratch can collapse to empty masks."""
    warmup: int = 0
    """Steps after `start` over which the weight rises linearly from 0."""
    kernel_size: int = 3
    """Side of the neighborhood; odd."""
    dilation: int = 2
    """Distance between neighbors, in cells of the stride-4 grid."""
    threshold: float = 0.3
    """Minimum color similarity exp(-|difference in LAB| / 2) of a pair."""

    def __post_init__(self) -> None:
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "start": (self.start >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "kernel_size": (self.kernel_size >= 3 and self.kernel_size % 2 == 1, "an odd number, 3 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, rules)

    def weight_at(self, step: int) -> float:
        """The weight after this many steps."""
        return self.weight * ramp(step, self.start, self.warmup)

    def term(self, inputs: MaskLossInputs) -> Tensor:
        """The loss (BoxInst, eq. 5 to 7), averaged over the pairs of similar color in the boxes."""
        terms = inputs.box_terms
        return inputs.mean(terms.pairwise_sum, terms.pairwise_count)
