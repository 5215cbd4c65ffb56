"""Full-size masks from mask logits, refined by color models of each object and by smoothness.

The network works on cells of four pixels and more, whereas colors are known for every pixel. As in GrabCut (Rother et
al., SIGGRAPH 2004), the object and its surroundings each get a color model, here histograms over a few adjacent frames.
As in the fully connected CRF (Kraehenbuehl and Koltun, NeurIPS 2011), but on a small neighborhood, mean-field steps
smooth the labels of neighboring pixels of similar color. Where evidence is weak, a position prior decides
(`mfvis.label.box_prior`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.grid import STRIDE
from mfvis.label.box_prior import refinement_logits
from mfvis.label.config import RefineConfig

BINS = 12
"""Bins per LAB axis in the color models."""
NEIGHBORS = tuple(
    (step * dy, step * dx) for step in (1, 3) for dy in range(-2, 3) for dx in range(-2, 3) if (dy, dx) != (0, 0)
)
"""Offsets of a pixel's neighbors: a 5 x 5 square, and a sparse one of three times its size."""
REACH = 6
"""Largest offset along either axis."""
NEAR = 4.0
"""Standard deviation of the spatial Gaussian, in pixels."""


@torch.no_grad()
def refine(
    logits_THW: Tensor,
    lab_TCHW: Tensor,
    boxes_T4: Tensor,
    config: RefineConfig,
    confidence: float = 0.0,
    cell: float = STRIDE,
) -> Tensor:
    """Refined masks of one object, bool ``[T, H, W]``, confined to its boxes.

    Args:
        logits_THW: the network's mask logits at full size.
        lab_TCHW: colors at full size.
        boxes_T4: pixels; a frame without a box gets an empty mask.
        confidence: Weight of the position prior (`mfvis.label.box_prior.confidence`).
        cell: Size of the network's grid cells, in pixels.
    """
    frames, height, width = logits_THW.shape
    masks_THW = torch.zeros(logits_THW.shape, dtype=torch.bool, device=logits_THW.device)
    windows = [_surroundings(box, height, width) for box in boxes_T4.tolist()]
    counts_2TM = torch.zeros(2, frames, BINS**3, device=logits_THW.device)
    for t, window in enumerate(windows):
        if window is not None and config.color > 0:
            rows, columns, inner = window
            soft = _confined(logits_THW[t, rows, columns].sigmoid(), inner).flatten()
            bins = _color_bins(lab_TCHW[t, :, rows, columns]).flatten()
            counts_2TM[0, t].scatter_add_(0, bins, soft)
            counts_2TM[1, t].scatter_add_(0, bins, 1 - soft)
    ratio_TM = _log_ratio(counts_2TM, config.frames)
    for t, window in enumerate(windows):
        if window is None:
            continue
        rows, columns, inner = window
        lab_CHW = lab_TCHW[t, :, rows, columns]
        logits_HW = logits_THW[t, rows, columns]
        if config.steps > 0:
            box_4 = boxes_T4[t].cpu() - torch.tensor([columns.start, rows.start] * 2)
            prior_HW = refinement_logits(box_4, *logits_HW.shape, confidence, cell).to(logits_HW)
            unary_HW = config.network * logits_HW + config.color * ratio_TM[t][_color_bins(lab_CHW)] + prior_HW
            logits_HW = _mean_field(unary_HW, (logits_HW + prior_HW).sigmoid(), lab_CHW, inner, config)
        masks_THW[t, rows, columns] = _confined(logits_HW > 0, inner)
    return masks_THW


def _surroundings(box: list[float], height: int, width: int) -> tuple[slice, slice, tuple[int, int, int, int]] | None:
    """Rows and columns of a window around a box, and the box's position in it: top, bottom, left, right."""
    x1, y1, x2, y2 = (round(side) for side in box)
    x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    if x2 <= x1 or y2 <= y1:
        return None
    margin = 8 + max(x2 - x1, y2 - y1) // 6
    top, left = max(0, y1 - margin), max(0, x1 - margin)
    window = slice(top, min(height, y2 + margin)), slice(left, min(width, x2 + margin))
    return *window, (y1 - top, y2 - top, x1 - left, x2 - left)


def _confined(values_HW: Tensor, inner: tuple[int, int, int, int]) -> Tensor:
    top, bottom, left, right = inner
    confined = torch.zeros_like(values_HW)
    confined[top:bottom, left:right] = values_HW[top:bottom, left:right]
    return confined


def _color_bins(lab_CHW: Tensor) -> Tensor:
    lightness, a, b = lab_CHW
    places = [lightness / 100, (a + 60) / 120, (b + 60) / 120]
    lightness, a, b = ((place * BINS).long().clamp(0, BINS - 1) for place in places)
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
    return ((share[0] + 1e-4) / (share[1] + 1e-4)).log().T


def _mean_field(
    unary_HW: Tensor, start_HW: Tensor, lab_CHW: Tensor, inner: tuple[int, int, int, int], config: RefineConfig
) -> Tensor:
    """Logits after the mean-field steps; pixels outside the box always remain background."""
    height, width = unary_HW.shape

    def shifted(padded: Tensor, dy: int, dx: int) -> Tensor:
        return padded[..., REACH + dy : REACH + dy + height, REACH + dx : REACH + dx + width]

    padded_lab = F.pad(lab_CHW[None], (REACH,) * 4, mode="replicate")[0]
    weights = []
    for dy, dx in NEIGHBORS:
        unlike = (lab_CHW - shifted(padded_lab, dy, dx)).square().sum(0) / config.similar**2
        weights.append((-(unlike + (dy * dy + dx * dx) / NEAR**2) / 2).exp())
    total = sum(weights) + 1e-6
    probability, logits = _confined(start_HW, inner), unary_HW
    for _ in range(config.steps):
        padded = F.pad(probability, (REACH,) * 4)
        around = sum(w * shifted(padded, dy, dx) for w, (dy, dx) in zip(weights, NEIGHBORS, strict=True)) / total
        logits = unary_HW + 2 * config.smooth * (2 * around - 1)
        probability = _confined(logits.sigmoid(), inner)
    return logits
