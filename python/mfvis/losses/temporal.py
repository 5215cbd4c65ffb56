"""Settings of the temporal KNN-patch loss (TK-Loss), Ke et al. 2023, section 3.2: `mfvis_ext.TKLoss`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mfvis_ext
from mfvis.errors import require


@dataclass(frozen=True)
class TemporalConfig:
    """Search for matches between frames; the defaults are the paper's."""

    weight: float = 0.5
    """5, the weight of the mask losses, times the 0.1 of the paper; the term is summed over the pairs of frames."""
    warmup: int = 200
    """Steps in which the weight rises from 0."""
    tube: Literal["cyclic", "chain", "dense"] = "cyclic"
    """Pairs of frames: neighbors and last with first, neighbors only, or each with each."""
    radius: int = 5
    """Candidates lie up to this many steps away in both directions."""
    dilation: int = 1
    """Cells of the stride-4 grid in such a step."""
    patch_size: int = 3
    """Side of the compared patches, odd."""
    k: int = 5
    """Nearest candidates kept for each pixel."""
    threshold: float = 0.05
    """Least similarity exp(-distance / 2) of a match that counts."""

    def __post_init__(self) -> None:
        candidates = (2 * self.radius + 1) ** 2
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "patch_size": (self.patch_size >= 1 and self.patch_size % 2 == 1, "an odd number, 1 or more"),
            "k": (1 <= self.k <= candidates, f"1 to {candidates}, the candidates within radius {self.radius}"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, wanted)

    def tk_loss(self) -> mfvis_ext.TKLoss:
        """The loss with these settings, on frames in LAB of the size of the masks."""
        return mfvis_ext.TKLoss(
            self.patch_size, self.radius, self.dilation, self.k, self.threshold, self.tube, rgb=False
        )
