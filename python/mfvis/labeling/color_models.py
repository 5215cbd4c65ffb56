"""Color models of an object and its surroundings: histograms of the pixels in and around the boxes of one track.

A color can belong to the object on one side of the box and to the background on the other. Large objects therefore also
get local models, in a grid of cells that moves with the box. A bin of a local model holds the share of the object among
the pixels of its color and position in adjacent frames; with few pixels, it falls back on the global model. This is the
bilateral grid of Maerki et al. (Bilateral Space Video Segmentation, CVPR 2016). Small objects have no local models:
their cells would be no larger than those of the network, and would only repeat its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.types import present

BINS = 12
"""Bins per LAB axis."""
MIN_RANGE = (24.0, 16.0, 16.0)
"""Minimum range of each LAB axis that the bins divide. Gray and dark videos thus have bins of their own size, but not
of the size of noise."""
OUTLIERS = 0.01
"""Share of the pixels that may lie below the range of an axis, and above it."""
SAMPLE = 20_000
"""Number of pixels from which the range is taken."""
LOCAL_SIZES = (16.0, 24.0)
"""Object sizes, sqrt(width x height) in cells of the mask grid, up to which there are no local models and from which
there are only these."""
MIN_LOCAL_CELL = 5.0
"""Minimum side of a local model's cell, in cells of the mask grid."""
MAX_LOCAL_CELLS = 8
"""Maximum number of cells of local models along each side."""
LOCAL_MARGIN = 0.2
"""Margin of their grid around the box, as a share of the box's sides. Pixels beyond it belong to its border cells."""
GLOBAL_PIXELS = 5.0
"""Weight of the global model in each bin of a local model, as a number of pixels."""
RARE = 1e-4
"""Smallest share of a color, so that log ratios are finite."""


@dataclass(frozen=True)
class ColorModels:
    """Colors in windows around the M boxes of one track, and the weight and size of its local models."""

    frames: list[int]
    """Frame of each box."""
    bins_M: list[Tensor]
    """int64 ``[H, W]``: bin of each pixel's color."""
    positions_M: list[tuple[Tensor, Tensor]]
    """float ``[H]`` and ``[W]``: rows and columns on the grid of local models."""
    cells: int
    """Cells of this grid along each side."""
    local: float
    """Weight of the local models, 0 to 1; the global model has the rest."""

    def logits(self, soft_M: Sequence[Tensor], reach: int) -> list[Tensor]:
        """float ``[H, W]``: logits of the object by color, in each window.

        Args:
            soft_M: the object's probabilities ``[H, W]`` in each window, from which the models are made.
            reach: Number of frames before and after a frame that contribute; twice as many for local models.
        """
        ratio_TB = _log_ratio(self._counts(self.bins_M, soft_M, BINS**3), reach)
        logits_M = [ratio_TB[t].take(bins_HW) for t, bins_HW in zip(self.frames, self.bins_M, strict=True)]
        if self.local == 0:
            return logits_M
        cells_M = [
            (rows_H.long()[:, None] * self.cells + columns_W.long()) * BINS**3 for rows_H, columns_W in self.positions_M
        ]
        local_bins_M = [cells + bins for cells, bins in zip(cells_M, self.bins_M, strict=True)]
        counts_2TB = self._counts(local_bins_M, soft_M, self.cells**2 * BINS**3)
        sums_2TB = F.pad(counts_2TB.cumsum(1), (0, 0, 1, 0))
        last = counts_2TB.shape[1]
        for i, t in enumerate(self.frames):
            around_2B = sums_2TB[:, min(last, t + 2 * reach + 1)] - sums_2TB[:, max(0, t - 2 * reach)]
            local_CCB = self._local_logits(around_2B, ratio_TB[t])
            local_HW = _interpolated(local_CCB, self.bins_M[i], *self.positions_M[i])
            logits_M[i] = self.local * local_HW + (1 - self.local) * logits_M[i]
        return logits_M

    def _counts(self, bins_M: Sequence[Tensor], soft_M: Sequence[Tensor], length: int) -> Tensor:
        """float ``[2, T, length]``: pixels of the object and of its surroundings in each bin, up to the last frame."""
        counts_2TB = soft_M[0].new_zeros(2, self.frames[-1] + 1, length)
        for t, bins_HW, soft_HW in zip(self.frames, bins_M, soft_M, strict=True):
            bins, soft = bins_HW.flatten(), soft_HW.flatten()
            counts_2TB[0, t] = torch.bincount(bins, soft, length)
            counts_2TB[1, t] = torch.bincount(bins, 1 - soft, length)
        return counts_2TB

    def _local_logits(self, counts_2B: Tensor, ratio_B: Tensor) -> Tensor:
        """float ``[cells, cells, BINS ** 3]``: log odds of the object for each cell and color."""
        counts = counts_2B.view(2, self.cells, self.cells, BINS, BINS, BINS)
        for axis in range(1, counts.dim()):
            counts = _blurred(counts, axis)
        object_CCB, all_CCB = counts[0].flatten(2), counts.sum(0).flatten(2)
        share_CCB = (object_CCB + GLOBAL_PIXELS * ratio_B.sigmoid()) / (all_CCB + GLOBAL_PIXELS)
        return share_CCB.logit(RARE)


def color_models(
    lab_TCHW: Tensor, boxes_T4: Tensor, windows: Sequence[tuple[int, slice, slice]], cell: float
) -> ColorModels:
    """The colors of one track, without models yet.

    Args:
        lab_TCHW: colors at full size.
        boxes_T4: pixels.
        windows: frame, rows and columns of each box with its surroundings; at least one.
        cell: side of a cell of the mask grid in pixels.
    """
    seen = [lab_TCHW[t, :, rows, columns] for t, rows, columns in windows]
    low_C, range_C = _color_range(seen)
    sides_T2 = (boxes_T4[:, 2:] - boxes_T4[:, :2])[present(boxes_T4)]
    size = float(sides_T2.prod(1).sqrt().median()) / cell
    cells = min(max(1, round((1 + 2 * LOCAL_MARGIN) * size / MIN_LOCAL_CELL)), MAX_LOCAL_CELLS)

    def positions(span: slice, first: float, last: float) -> Tensor:
        along = (torch.arange(span.start, span.stop, device=lab_TCHW.device) + 0.5 - first) / (last - first)
        return ((along + LOCAL_MARGIN) * (cells / (1 + 2 * LOCAL_MARGIN))).clamp(0, cells - 1e-3)

    boxes = boxes_T4.tolist()
    min_size, max_size = LOCAL_SIZES
    return ColorModels(
        frames=[t for t, _, _ in windows],
        bins_M=[_color_bins(lab_CHW, low_C, range_C) for lab_CHW in seen],
        positions_M=[
            (positions(rows, boxes[t][1], boxes[t][3]), positions(columns, boxes[t][0], boxes[t][2]))
            for t, rows, columns in windows
        ],
        cells=cells,
        local=min(1.0, max(0.0, (size - min_size) / (max_size - min_size))),
    )


def _color_range(seen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """float ``[3]`` each: minimum and range of each LAB axis, without outliers."""
    colors_CP = torch.cat([lab_CHW.flatten(1) for lab_CHW in seen], 1)
    colors_CP = colors_CP[:, :: max(1, colors_CP.shape[1] // SAMPLE)]
    low_C, high_C = colors_CP.quantile(colors_CP.new_tensor([OUTLIERS, 1 - OUTLIERS]), 1)
    range_C = torch.maximum(high_C - low_C, low_C.new_tensor(MIN_RANGE))
    return (low_C + high_C - range_C) / 2, range_C


def _color_bins(lab_CHW: Tensor, low_C: Tensor, range_C: Tensor) -> Tensor:
    """int64 ``[H, W]``: bin of each color."""
    shares_CHW = (lab_CHW - low_C[:, None, None]) / range_C[:, None, None]
    lightness, a, b = (shares_CHW * BINS).long().clamp(0, BINS - 1)
    return (lightness * BINS + a) * BINS + b


def _log_ratio(counts_2TM: Tensor, neighbors: int) -> Tensor:
    """float ``[T, M]``: log ratio of object to surroundings for each color, smoothed over colors and frames."""
    frames = counts_2TM.shape[1]
    cube = counts_2TM.view(2 * frames, 1, BINS, BINS, BINS)
    kernel = cube.new_tensor([0.25, 0.5, 0.25])
    cube = F.conv3d(cube, torch.einsum("i,j,k->ijk", kernel, kernel, kernel)[None, None], padding=1)
    series = cube.view(2, frames, -1).transpose(1, 2)
    series = F.avg_pool1d(series, 2 * neighbors + 1, 1, neighbors)
    share = series / series.sum(1, keepdim=True).clamp(min=1)
    return ((share[0] + RARE) / (share[1] + RARE)).log().T


def _blurred(values: Tensor, axis: int) -> Tensor:
    """The values, smoothed by 1/4, 1/2, 1/4 along an axis; values at an end repeat."""
    last = values.shape[axis] - 1
    padded = torch.cat([values.narrow(axis, 0, 1), values, values.narrow(axis, last, 1)], axis)
    pairs = padded.narrow(axis, 0, last + 2) + padded.narrow(axis, 1, last + 2)
    return (pairs.narrow(axis, 0, last + 1) + pairs.narrow(axis, 1, last + 1)) / 4


def _interpolated(local_CCB: Tensor, bins_HW: Tensor, rows_H: Tensor, columns_W: Tensor) -> Tensor:
    """float ``[H, W]``: values of each pixel's color, interpolated bilinearly between the cells' centers."""
    cells, _, length = local_CCB.shape

    def neighbors(position_L: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        first_L = (position_L - 0.5).floor().clamp(0, cells - 1)
        share_L = (position_L - 0.5 - first_L).clamp(0, 1)
        first_L = first_L.long()
        return (first_L, 1 - share_L), ((first_L + 1).clamp(max=cells - 1), share_L)

    parts = [
        local_CCB.take((row_H[:, None] * cells + column_W) * length + bins_HW) * (row_share_H[:, None] * share_W)
        for row_H, row_share_H in neighbors(rows_H)
        for column_W, share_W in neighbors(columns_W)
    ]
    return torch.stack(parts).sum(0)
