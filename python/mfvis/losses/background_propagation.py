"""Propagates known background from other frames into boxes, using camera motion.

The camera and the object move, so background behind the object in one frame lies outside its box in another. A pixel
inside the box that matches a pixel outside the object's box in another frame cannot belong to the object. The matching
is that of the TK-Loss; here it yields negatives inside the boxes directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

import mfvis_ext
from mfvis.losses.background import box_spans
from mfvis.losses.propagation import BackgroundPropagationConfig

LEAST_OVERLAP = 0.35
"""Minimum overlap of two frames' backgrounds for a valid camera motion, as a share of the smaller background."""
SHARE_OF_BOX = 3
"""A match may deviate from the predicted position by the box's shorter side divided by this, at least by one cell."""
PAIRS_AT_ONCE = 16
"""Pairs of frames processed at a time; bounds the memory."""
CORE_SHARE = 0.01
"""Share of the centers of a track's boxes from which propagated background is doubtful, so that closer matches are
required: the center belongs to the object, except in rare shapes."""
LEAST_DISTANCE = 4.0
"""Smallest distance that still counts as close, in LAB units, for videos without noise."""
RING = 0.3
"""Width of the ring around a box, as a share of the box's longer side."""


def inside_boxes(boxes_NT4: Tensor, height: int, width: int) -> Tensor:
    """bool ``[N, T, H, W]``: True at pixels whose centers lie in the box."""
    rows, columns = box_spans(boxes_NT4, height, width)
    return rows[..., None] & columns[..., None, :]


def ring_around(boxes_NT4: Tensor, height: int, width: int) -> Tensor:
    """bool ``[N, T, H, W]``: True outside the box within `RING` of its longer side; all False without a box."""
    x1, y1, x2, y2 = boxes_NT4.unbind(-1)
    side = RING * torch.maximum(x2 - x1, y2 - y1).clamp(min=0)
    larger = torch.stack([x1 - side, y1 - side, x2 + side, y2 + side], -1)
    return inside_boxes(larger, height, width) & ~inside_boxes(boxes_NT4, height, width)


@torch.no_grad()
def camera_motion(lab_TCHW: Tensor, background_THW: Tensor, pairs_P2: Tensor) -> Tensor:
    """int64 ``[P, 2]`` (dy, dx): background motion from the first to the second frame of each pair, in whole cells.

    The translation with the least mean squared difference over pixels that are background in both frames. All
    translations are evaluated at once by Fourier transforms (masked correlation, Padfield, CVPR 2010). At least
    `LEAST_OVERLAP` of the smaller background must remain in view.
    """
    height, width = lab_TCHW.shape[-2:]
    size = (2 * height, 2 * width)
    seen = background_THW.to(lab_TCHW.dtype)
    masked = lab_TCHW * seen[:, None]
    mask_f = torch.fft.rfft2(seen, size)
    square_f = torch.fft.rfft2((masked**2).sum(1), size)
    color_f = torch.fft.rfft2(masked, size)
    area_T = seen.sum((1, 2))
    moves = []
    for a, b in (pairs.unbind(1) for pairs in pairs_P2.split(PAIRS_AT_ONCE) if len(pairs)):
        overlap = torch.fft.irfft2(mask_f[a].conj() * mask_f[b], size)
        difference = square_f[a].conj() * mask_f[b] + mask_f[a].conj() * square_f[b]
        difference = difference - 2 * (color_f[a].conj() * color_f[b]).sum(1)
        cost = torch.fft.irfft2(difference, size) / overlap.clamp(min=1)
        least = LEAST_OVERLAP * torch.minimum(area_T[a], area_T[b])
        best = cost.masked_fill(overlap < least.clamp(min=1)[:, None, None], torch.inf).flatten(1).argmin(1)
        dy, dx = best // size[1], best % size[1]
        moves.append(torch.stack([(dy + height) % size[0] - height, (dx + width) % size[1] - width], 1))
    return torch.cat(moves) if moves else pairs_P2.new_zeros(0, 2)


def outside_all_boxes(boxes_NT4: Tensor, content_HW: Tensor) -> Tensor:
    """bool ``[T, H, W]``: True outside the boxes of all objects and outside the padding. Boxes: on the grid."""
    return content_HW & ~inside_boxes(boxes_NT4, *content_HW.shape).any(0)


def frame_pairs(frames: int, gaps: tuple[int, ...], device: torch.device) -> Tensor:
    """int64 ``[P, 2]``: frames t and t + gap, for each gap. Made on the device: a copy to it would synchronize."""
    pairs = [
        torch.arange(frames - gap, device=device)[:, None] + gap * torch.arange(2, device=device)
        for gap in gaps
        if gap < frames
    ]
    return torch.cat([torch.zeros(0, 2, dtype=torch.int64, device=device), *pairs])


@torch.no_grad()
def propagated_background(
    lab_TCHW: Tensor, background_THW: Tensor, boxes_NT4: Tensor, config: BackgroundPropagationConfig
) -> Tensor:
    """bool ``[N, T, H, W]``: True at pixels in an object's box that other frames show outside all boxes.

    Parts of an object that looks like its surroundings match them, too. If background is found in the center of a
    track's boxes, its matches must be as close as `config.quantile` of those of known background around the boxes.

    Args:
        lab_TCHW: colors on the mask grid.
        background_THW: bool, True outside all boxes and outside the padding.
        boxes_NT4: on the mask grid. For objects of a few cells, matches must lie closer to the position that the camera
            motion predicts: otherwise parts of the object match the background next to it.
    """
    frames, _, height, width = lab_TCHW.shape
    inside_NTHW = inside_boxes(boxes_NT4, height, width)
    targets = [t for gap in config.frame_gaps for t in range(frames - gap)]
    targets += [t + gap for gap in config.frame_gaps for t in range(frames - gap)]
    if not targets:
        return torch.zeros_like(inside_NTHW)
    ring_THW = ring_around(boxes_NT4, height, width).any(0) & background_THW
    distance_PHW, off_PHW, known = _background_matches(lab_TCHW, background_THW, ring_THW, config)
    close = _quantile(known, config.quantile).clamp(min=LEAST_DISTANCE).clamp(max=config.distance)
    shorter_NT = (boxes_NT4[..., 2:] - boxes_NT4[..., :2]).amin(-1)
    reach_NT11 = (shorter_NT / SHARE_OF_BOX).floor().clamp(1)[..., None, None]
    found_2NTHW = torch.zeros(2, *inside_NTHW.shape, dtype=torch.int16, device=lab_TCHW.device)
    for target, distance_HW, off_HW in zip(targets, distance_PHW, off_PHW, strict=True):
        near_NHW = off_HW <= reach_NT11[:, target]
        found_2NTHW[0, :, target] += near_NHW & (distance_HW <= config.distance)
        found_2NTHW[1, :, target] += near_NHW & (distance_HW <= close)
    all_NTHW, close_NTHW = (found_2NTHW >= config.min_frames) & inside_NTHW
    core_NTHW = inside_boxes(_centers(boxes_NT4), height, width)
    doubtful_N = (all_NTHW & core_NTHW).sum((1, 2, 3)) > CORE_SHARE * core_NTHW.sum((1, 2, 3))
    return torch.where(doubtful_N[:, None, None, None], close_NTHW, all_NTHW)


def _centers(boxes_NT4: Tensor) -> Tensor:
    """Boxes of half the width and height in the center of these."""
    x1, y1, x2, y2 = boxes_NT4.unbind(-1)
    x, y = (x2 - x1) / 4, (y2 - y1) / 4
    return torch.stack([x1 + x, y1 + y, x2 - x, y2 - y], -1)


def _background_matches(
    lab_TCHW: Tensor, background_THW: Tensor, ring_THW: Tensor, config: BackgroundPropagationConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The closest match of each pixel in the other frame of each pair, in both directions.

    Returns:
        float ``[P, H, W]``, the distance of the match, infinite unless it is background; int8 ``[P, H, W]``, how many
        cells it is off the position that the camera motion predicts; and the distances of a sample of the pixels whose
        match should be background, as they are in the ring and predicted outside all boxes (infinite for all others).
    """
    pairs_P2 = frame_pairs(len(lab_TCHW), config.frame_gaps, lab_TCHW.device)
    motion_P2 = camera_motion(lab_TCHW, background_THW, pairs_P2)
    pairs_P2, motion_P2 = torch.cat([pairs_P2, pairs_P2.flip(1)]), torch.cat([motion_P2, -motion_P2])
    height, width = lab_TCHW.shape[-2:]
    side = 2 * config.radius + 1
    y = torch.arange(height, device=lab_TCHW.device)[:, None]
    x = torch.arange(width, device=lab_TCHW.device)
    parts = []
    # The motion stays on the device: reading it would wait for the device at every step of a training.
    for pairs, motion in zip(pairs_P2.split(PAIRS_AT_ONCE), motion_P2.split(PAIRS_AT_ONCE), strict=True):
        distance, offset = mfvis_ext.temporal_topk(lab_TCHW[None], pairs, 3, config.radius, 1, 1, motion[None])
        distance_PHW, offset_PHW = distance[0, :, 0], offset[0, :, 0].long()
        target, source = pairs[:, 0], pairs[:, 1, None, None]
        row, column = y + motion[:, 0, None, None], x + motion[:, 1, None, None]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        predicted = background_THW[source, row.clamp(0, height - 1), column.clamp(0, width - 1)] & inside
        down, across = offset_PHW // side - config.radius, offset_PHW % side - config.radius
        matched = background_THW[source, (row + down).clamp(0, height - 1), (column + across).clamp(0, width - 1)]
        off = torch.maximum(down.abs(), across.abs()).to(torch.int8)
        known_PHW = distance_PHW.masked_fill(~(ring_THW[target] & predicted), torch.inf)[:, ::2, ::2].flatten()
        parts.append((distance_PHW.masked_fill(~matched, torch.inf), off, known_PHW))
    distance_PHW, off_PHW, known = map(torch.cat, zip(*parts, strict=True))
    return distance_PHW, off_PHW, known


def _quantile(values: Tensor, quantile: float) -> Tensor:
    """Quantile of the finite values; infinite for a quantile of 1 and where no value is finite."""
    ordered = torch.cat([values.sort().values, values.new_full((1,), torch.inf)])
    return ordered.take((quantile * values.isfinite().sum()).long())  # an index would wait for the device
