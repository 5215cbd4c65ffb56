"""Full-size masks from mask logits, refined by color models of each object and by smoothness.

The network works on cells of four pixels and more, whereas colors are known for every pixel. As in GrabCut (Rother et
al., SIGGRAPH 2004), the object and its surroundings each get a color model (`mfvis.labeling.color_models`), which is
made again from the refined mask. As in the fully connected CRF (Kraehenbuehl and Koltun, NeurIPS 2011), but on a small
neighborhood, mean-field steps smooth the labels of neighboring pixels of similar color. Where evidence is weak, a
position prior decides (`mfvis.labeling.box_prior`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.labeling.box_prior import refinement_logits
from mfvis.labeling.color_models import color_models
from mfvis.labeling.config import RefineConfig

ROUNDS = 2
"""Rounds of refinement of objects with local color models, which are made again from the masks of the first round."""
NEIGHBORS = tuple(
    (step * dy, step * dx) for step in (1, 3) for dy in range(-2, 3) for dx in range(-2, 3) if (dy, dx) != (0, 0)
)
"""Offsets of a pixel's neighbors: a 5 x 5 square, and a sparse one of three times its size."""
REACH = 6
"""Largest offset along either axis."""
NEAR = 4.0
"""Standard deviation of the spatial Gaussian, in pixels."""
PIXELS = 100_000
"""Number of pixels in and around an object up to which it is smoothed at full size."""
SMALL_PIXELS = 8_000
"""Number of pixels in and around an object to which smaller ones are enlarged before they are smoothed."""
LARGEST_SCALE = 3
"""Largest factor of this enlargement."""
Inner = tuple[int, int, int, int]
"""Position of a box in its window: top, bottom, left, right."""
Window = tuple[slice, slice, Inner]
"""Rows and columns of a window around a box, and the box's position in it."""


@torch.no_grad()
def refine(
    logits_THW: Tensor,
    lab_TCHW: Tensor,
    boxes_T4: Tensor,
    config: RefineConfig,
    confidence: float = 0.0,
    difference_THW: Tensor | None = None,
    cell: float = 4.0,
) -> Tensor:
    """Refined masks of one object, bool ``[T, H, W]``, confined to its boxes.

    Large objects are smoothed at a fraction of their size, small ones at a multiple of it (`_scale`), since the
    neighborhood is chosen for objects of medium size; colors are always compared at full size.

    Args:
        logits_THW: the network's mask logits at full size.
        lab_TCHW: colors at full size.
        boxes_T4: pixels; a frame without a box gets an empty mask.
        confidence: Weight of the position prior (`mfvis.labeling.box_prior.confidence`).
        difference_THW: logits of the background difference at full size (`mfvis.labeling.background_difference`).
        cell: side of a cell of the mask grid in pixels.
    """
    height, width = logits_THW.shape[1:]
    masks_THW = torch.zeros(logits_THW.shape, dtype=torch.bool, device=logits_THW.device)
    windows = [_surroundings(box, height, width) for box in boxes_T4.tolist()]
    boxed = [(t, *window) for t, window in enumerate(windows) if window is not None]
    if not boxed or config.steps == 0:
        for t, rows, columns, inner in boxed:
            masks_THW[t, rows, columns] = _confined(logits_THW[t, rows, columns] > 0, inner)
        return masks_THW
    evidence_THW = logits_THW if difference_THW is None else logits_THW + difference_THW
    evidence_M = [evidence_THW[t, rows, columns] for t, rows, columns, _ in boxed]
    start_M = []
    for (t, rows, columns, _), evidence_HW in zip(boxed, evidence_M, strict=True):
        box_4 = boxes_T4[t].cpu() - torch.tensor([columns.start, rows.start] * 2)
        start_M.append(evidence_HW + refinement_logits(box_4, *evidence_HW.shape, confidence).to(evidence_HW))
    models = color_models(lab_TCHW, boxes_T4, [window[:3] for window in boxed], cell) if config.color > 0 else None
    local = models.local if models else 0.0
    scale, refined_M = _scale(windows), evidence_M
    for _ in range(ROUNDS if local > 0 else 1):
        soft_M = [
            _confined((local * refined_HW + (1 - local) * evidence_HW).sigmoid(), inner)
            for refined_HW, evidence_HW, (_, _, _, inner) in zip(refined_M, evidence_M, boxed, strict=True)
        ]
        colors_M = models.logits(soft_M, config.frames) if models else [torch.zeros_like(soft) for soft in soft_M]
        refined_M = []
        for (t, rows, columns, inner), start_HW, colors_HW in zip(boxed, start_M, colors_M, strict=True):
            network_HW = (1 - config.network) * logits_THW[t, rows, columns]
            unary_HW = start_HW - network_HW + config.color * colors_HW
            lab_CHW = lab_TCHW[t, :, rows, columns]
            refined_M.append(unary_HW + _smoothness(unary_HW, start_HW, lab_CHW, inner, scale, config))
    for (t, rows, columns, inner), refined_HW in zip(boxed, refined_M, strict=True):
        masks_THW[t, rows, columns] = _confined(refined_HW > 0, inner)
    return masks_THW


def _scale(windows: Sequence[Window | None]) -> Fraction:
    """Relative size at which a track is smoothed: below 1 if its largest window has more than about `PIXELS`, above 1
    if it has less than about half of `SMALL_PIXELS`."""
    areas = [(w[0].stop - w[0].start) * (w[1].stop - w[1].start) for w in windows if w is not None]
    area = max(areas, default=PIXELS)
    if area > PIXELS:
        return Fraction(1, max(1, round((area / PIXELS) ** 0.5)))
    return Fraction(min(max(1, round((SMALL_PIXELS / area) ** 0.5)), LARGEST_SCALE))


def _surroundings(box: list[float], height: int, width: int) -> Window | None:
    """Rows and columns of a window around a box, and the box's position in it: top, bottom, left, right."""
    x1, y1, x2, y2 = (round(side) for side in box)
    x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    if x2 <= x1 or y2 <= y1:
        return None
    margin = 8 + max(x2 - x1, y2 - y1) // 6
    top, left = max(0, y1 - margin), max(0, x1 - margin)
    window = slice(top, min(height, y2 + margin)), slice(left, min(width, x2 + margin))
    return *window, (y1 - top, y2 - top, x1 - left, x2 - left)


def _confined(values_HW: Tensor, inner: Inner) -> Tensor:
    top, bottom, left, right = inner
    confined = torch.zeros_like(values_HW)
    confined[top:bottom, left:right] = values_HW[top:bottom, left:right]
    return confined


def _smoothness(
    unary_HW: Tensor, start_HW: Tensor, lab_CHW: Tensor, inner: Inner, scale: Fraction, config: RefineConfig
) -> Tensor:
    """Logits that the neighbors of each pixel add after the mean-field steps, computed at another scale.

    Pixels outside the box always remain background.
    """
    full = unary_HW.shape
    size = tuple(math.ceil(side * scale) for side in full)

    def resized(maps_CHW: Tensor) -> Tensor:
        if scale == 1:
            return maps_CHW
        return F.interpolate(maps_CHW[None], size, mode="area" if scale < 1 else "bilinear")[0]

    inside_HW = _confined(torch.ones_like(unary_HW), inner)
    unary_HW, start_HW, inside_HW = resized(torch.stack([unary_HW, start_HW, inside_HW]))
    if scale > 1:
        inside_HW = inside_HW.round()
    neighbors = _neighbors(resized(lab_CHW), config.similar)
    total_HW = sum(forward + backward for _, forward, backward in neighbors) + 1e-6
    padded = F.pad(start_HW.sigmoid() * inside_HW, (REACH,) * 4)
    probability_HW = _shifted(padded, 0, 0)
    for step in range(config.steps):
        around_HW = torch.zeros_like(unary_HW)
        for (dy, dx), forward, backward in neighbors:
            around_HW.addcmul_(forward, _shifted(padded, dy, dx)).addcmul_(backward, _shifted(padded, -dy, -dx))
        added_HW = 2 * config.smooth * (2 * around_HW / total_HW - 1)
        if step + 1 < config.steps:
            probability_HW.copy_((unary_HW + added_HW).sigmoid_().mul_(inside_HW))
    if scale == 1:
        return added_HW
    return F.interpolate(added_HW[None, None], full, mode="area" if scale > 1 else "bilinear")[0, 0]


def _neighbors(lab_CHW: Tensor, similar: float) -> list[tuple[tuple[int, int], Tensor, Tensor]]:
    """Half of the offsets, each with the weights ``[H, W]`` of the neighbors at the offset and at its opposite.

    Both are views of one tensor, since the weight of two pixels does not depend on their order.
    """
    padded_CHW = F.pad(lab_CHW[None], (REACH,) * 4, mode="replicate")[0]
    rows, columns = padded_CHW.shape[1:]
    height, width = lab_CHW.shape[1:]
    neighbors = []
    for dy, dx in NEIGHBORS:
        if (dy, dx) < (0, 0):
            continue
        left, right = max(0, -dx), max(0, dx)
        near, far = padded_CHW[:, : rows - dy, left : columns - right], padded_CHW[:, dy:, right : columns - left]
        unlike = (near - far).square_().sum(0).mul_(-0.5 / similar**2)
        weight = unlike.sub_((dy * dy + dx * dx) / NEAR**2 / 2).exp_()
        top, start = REACH, REACH - left
        forward = weight[top : top + height, start : start + width]
        backward = weight[top - dy : top - dy + height, start - dx : start - dx + width]
        neighbors.append(((dy, dx), forward, backward))
    return neighbors


def _shifted(padded_HW: Tensor, dy: int, dx: int) -> Tensor:
    """View of a map that was padded by `REACH`, moved by an offset."""
    height, width = (side - 2 * REACH for side in padded_HW.shape)
    return padded_HW[REACH + dy : REACH + dy + height, REACH + dx : REACH + dx + width]
