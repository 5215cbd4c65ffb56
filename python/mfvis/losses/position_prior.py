"""Position prior: masks agree with where in its box an object usually lies, at the start of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mfvis.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from mfvis.losses.inputs import MaskLossInputs


@dataclass(frozen=True)
class PositionPriorConfig:
    """Position prior: weight and schedule.

    The projection loss of an untrained model is satisfied by the outline of an object, whose inside then becomes
    background. This loss fills the masks first. The losses that know colors and motion shape them afterwards.
    """

    weight: float = 0.0
    """Weight of the cross-entropy with the prior inside the boxes, at step 0; 0 disables the loss."""
    steps: int = 600
    """Steps over which the weight falls linearly to 0."""

    def __post_init__(self) -> None:
        require(self, {"weight": (self.weight >= 0, "0 or more"), "steps": (self.steps >= 1, "1 or more")})

    def weight_at(self, step: int) -> float:
        """The weight after this many steps."""
        return self.weight * max(0.0, 1 - step / self.steps)

    def term(self, inputs: MaskLossInputs) -> Tensor:
        """The loss, averaged over the objects."""
        from mfvis.losses.box_positions import position_cost

        return position_cost(inputs.masks_MTHW, inputs.boxes_MT4).sum() / inputs.objects
