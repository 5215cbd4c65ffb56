"""Settings of the pairwise loss, BoxInst eq. 7: `mfvis_ext.pairwise_loss`."""

from __future__ import annotations

from dataclasses import dataclass

from mfvis.errors import require


@dataclass(frozen=True)
class PairwiseConfig:
    """Which neighbors count; the defaults are BoxInst's and the paper's."""

    weight: float = 5.0
    """On -log of the probability that the two of a pair have one label."""
    start: int = 0
    """Delay in steps before the loss starts; without it, training from scratch can collapse to empty masks."""
    warmup: int = 0
    """Steps after these in which the weight rises."""
    kernel_size: int = 3
    """Side of the neighborhood, odd."""
    dilation: int = 2
    """Cells of the stride-4 grid between neighbors."""
    threshold: float = 0.3
    """Least color similarity exp(-|difference in LAB| / 2) of a pair that counts."""

    def __post_init__(self) -> None:
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "start": (self.start >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "kernel_size": (self.kernel_size >= 3 and self.kernel_size % 2 == 1, "an odd number, 3 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, wanted)
