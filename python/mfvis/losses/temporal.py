"""TK-Loss: matching patches of different frames have the same label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mfvis.errors import require
from mfvis.losses.schedule import ramp

if TYPE_CHECKING:
    from torch import Tensor

    import mfvis_ext
    from mfvis.losses.inputs import MaskLossInputs


@dataclass(frozen=True)
class TemporalConfig:
    """TK-Loss: weight and search for matches between frames."""

    weight: float = 0.5
    """Weight of the loss, which is summed over pairs of frames. The default is the paper's 0.1 times 5, the weight of
    the mask losses."""
    start: int = 0
    """Delay in steps before the loss starts. A model whose masks are still empty learns from it to keep them so."""
    warmup: int = 200
    """Steps after `start` over which the weight rises linearly from 0."""
    tube: Literal["cyclic", "chain", "dense"] = "cyclic"
    """Pairs of frames: cyclic (adjacent frames, and last with first), chain (adjacent frames), or dense (all pairs)."""
    radius: int = 5
    """Search radius along each axis, in steps of `dilation` cells."""
    dilation: int = 1
    """Distance between candidates, in cells of the stride-4 grid."""
    patch_size: int = 3
    """Side of the compared patches; odd."""
    k: int = 5
    """Number of best candidates kept for each pixel."""
    threshold: float = 0.05
    """Minimum similarity exp(-distance / 2) of a match."""
    camera_motion: bool = False
    """Center each search on the position that the camera's motion predicts, instead of on the same position."""

    def __post_init__(self) -> None:
        candidates = (2 * self.radius + 1) ** 2
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "start": (self.start >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "patch_size": (self.patch_size >= 1 and self.patch_size % 2 == 1, "an odd number, 1 or more"),
            "k": (1 <= self.k <= candidates, f"1 to {candidates}, the candidates within radius {self.radius}"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, rules)

    def tk_loss(self) -> mfvis_ext.TKLoss:
        """The loss with these settings; it takes LAB frames at the size of the masks."""
        import mfvis_ext

        return mfvis_ext.TKLoss(
            self.patch_size, self.radius, self.dilation, self.k, self.threshold, self.tube, rgb=False
        )

    def match(self, inputs: MaskLossInputs) -> mfvis_ext.Matches:
        """The matches of the clips."""
        lab_BTCHW, _ = inputs.colors
        return self.tk_loss().match(lab_BTCHW, inputs.camera_motion(self.tube) if self.camera_motion else None)

    def weight_at(self, step: int) -> float:
        """The weight after this many steps."""
        return self.weight * ramp(step, self.start, self.warmup)

    def term(self, inputs: MaskLossInputs) -> Tensor:
        """The loss (Ke et al. 2023, eq. 3 to 5), averaged over the matches of each pair of frames."""
        terms = inputs.box_terms
        return inputs.mean(terms.tk_sum.sum(0), terms.tk_weight.sum(0)).sum()
