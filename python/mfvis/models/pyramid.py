"""Feature pyramid of the small networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.ModuleList):
    """Sums feature levels on one grid, after a 1x1 convolution of each.

    Args:
        channels: Channels of each level.
        dim: C, channels of the sum.
    """

    def __init__(self, channels: Sequence[int], dim: int):
        super().__init__(nn.Conv2d(width, dim, 1) for width in channels)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int], base_NCHW: Tensor | float = 0.0) -> Tensor:
        """`base_NCHW` plus all levels, ``[N, C, *grid]``; levels of other sizes are resized bilinearly."""
        x_NCHW = base_NCHW
        for lateral, level in zip(self, levels, strict=True):
            projected = lateral(level)
            if projected.shape[-2:] != grid:
                projected = F.interpolate(projected, grid, mode="bilinear", align_corners=False)
            x_NCHW = x_NCHW + projected
        return x_NCHW
