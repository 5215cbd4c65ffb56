"""Loss on background that other frames of a clip show inside the boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mfvis.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from mfvis.losses.inputs import MaskLossInputs


@dataclass(frozen=True)
class BackgroundPropagationConfig:
    """Propagation of known background from other frames into boxes, and its weight in the loss."""

    weight: float = 1.0
    """Weight of the loss on propagated background and on the ring around the boxes; 0 disables the propagation."""
    smoothing: float = 0.1
    """Share of the box's pixels added to the divisor of the loss. A few propagated pixels, which may be errors, thus
    weigh less."""
    frame_gaps: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 11, 15, 20, 26)
    """Distances in frames to the other frames, in both directions. Distant frames help with slow objects."""
    radius: int = 3
    """Search radius around the position that the camera motion predicts, in grid cells."""
    distance: float = 16.0
    """Largest LAB distance between the 3 x 3 patches of a match."""
    min_frames: int = 2
    """Minimum number of other frames in which a pixel must match background outside the box."""
    quantile: float = 0.75
    """Quantile of the distances of the matches of known background around the boxes. If background is found in the
    center of an object's boxes, its matches must be as close. 1 disables this limit."""

    def __post_init__(self) -> None:
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "frame_gaps": (
                len(self.frame_gaps) > 0 and min(self.frame_gaps) >= 1,
                "one or more numbers of frames, each 1 or more",
            ),
            "radius": (self.radius >= 0, "0 or more"),
            "distance": (self.distance >= 0, "0 or more"),
            "min_frames": (self.min_frames >= 1, "1 or more"),
            "quantile": (0 <= self.quantile <= 1, "0 to 1"),
        }
        require(self, rules)

    def weight_at(self, step: int) -> float:
        """The weight, the same at every step."""
        return self.weight

    def term(self, inputs: MaskLossInputs) -> Tensor:
        """The mean of -log(1 - p) over each object's propagated background."""
        from mfvis.losses.negatives import negatives_loss

        known_MTHW, pixels_M = inputs.propagated_background(self)
        return negatives_loss(inputs.masks_MTHW, known_MTHW, inputs.objects, self.smoothing * pixels_M)
