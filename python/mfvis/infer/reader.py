"""The small model that label mode trains from scratch on one window: a pyramid of features, one readout per track.

The tracks are given, so nothing has to be found: each simply has its own linear readout of the pixel embeddings, where
a query decoder would first have to learn what a query is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.losses.criterion import PADDING_COLOUR
from mfvis.models.backbone import Backbone


class TrackReader(nn.Module):
    """Backbone features and colours in, a mask tube for every track out.

    Args:
        backbone: Whose features are read; shared, and trained along unless it is frozen.
        tracks: How many readouts.
        dim: Channels of the pixel embeddings.
    """

    num_classes = 1

    def __init__(self, backbone: Backbone, tracks: int, dim: int):
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in backbone.channels)
        self.colours = nn.Conv2d(3, dim, 3, padding=1)
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1)
        self.mix = nn.Conv2d(dim, dim, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(4, dim), dim) for _ in range(2))
        self.readout = nn.Conv2d(dim, tracks, 1)
        nn.init.constant_(self.readout.bias, -1.0)  # most pixels are background

    def forward(self, features: tuple[Tensor, ...], lab_TCHW: Tensor) -> Tensor:
        """Mask logits ``[N, T, H, W]`` on the grid of the colours, from features of any resolutions."""
        grid = lab_TCHW.shape[-2:]
        content = lab_TCHW[:, :1] < PADDING_COLOUR
        mean_C11 = (lab_TCHW * content).sum((0, 2, 3), keepdim=True)[0] / content.sum().clamp(min=1)
        x = self.colours((lab_TCHW - mean_C11) * content / 30)
        for lateral, level in zip(self.laterals, features, strict=True):
            read = lateral(level)
            if read.shape[-2:] != grid:
                read = F.interpolate(read, grid, mode="bilinear", align_corners=False)
            x = x + read
        x = F.relu(self.norms[0](x))
        x = F.relu(self.norms[1](self.smooth(x)) + x)
        x = x + F.relu(self.mix(x))
        return self.readout(x).transpose(0, 1)


def standardised(level_TCHW: Tensor) -> Tensor:
    """Every channel with mean 0 and deviation 1 over the frames: pretrained features differ wildly in scale."""
    deviation, mean = torch.std_mean(level_TCHW, (0, 2, 3), keepdim=True)
    return (level_TCHW - mean) / (deviation + 1e-3)


def at_most(level_TCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """A level that is finer than the grid, on the grid; the reader's 1x1 convolutions come to the same afterwards."""
    if level_TCHW.shape[-1] <= grid[1]:
        return level_TCHW
    return F.interpolate(level_TCHW, grid, mode="bilinear", align_corners=False)
