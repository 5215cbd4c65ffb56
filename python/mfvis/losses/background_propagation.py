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

    Args:
        lab_TCHW: colors on the mask grid.
        background_THW: bool, True outside all boxes and outside the padding.
        boxes_NT4: on the mask grid. For objects of a few cells, matches must lie closer to the position that the camera
            motion predicts: otherwise parts of the object match the background next to it.
    """
    frames, _, height, width = lab_TCHW.shape
    shorter_NT = (boxes_NT4[..., 2:] - boxes_NT4[..., :2]).amin(-1)
    reach_NT11 = (shorter_NT / SHARE_OF_BOX).floor().clamp(1)[..., None, None]
    inside_NTHW = inside_boxes(boxes_NT4, height, width)
    pairs = [(t, t + gap) for gap in config.frame_gaps for t in range(frames - gap)]
    pairs_P2 = frame_pairs(frames, config.frame_gaps, lab_TCHW.device)
    motion_P2 = camera_motion(lab_TCHW, background_THW, pairs_P2)
    pairs_P2, motion_P2 = torch.cat([pairs_P2, pairs_P2.flip(1)]), torch.cat([motion_P2, -motion_P2])
    pairs += [(source, target) for target, source in pairs]

    found_NTHW = torch.zeros(inside_NTHW.shape, dtype=torch.int16, device=lab_TCHW.device)
    side = 2 * config.radius + 1
    y = torch.arange(height, device=lab_TCHW.device)[:, None]
    x = torch.arange(width, device=lab_TCHW.device)
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        chunk = slice(first, first + PAIRS_AT_ONCE)
        distance, offset = mfvis_ext.temporal_topk(
            lab_TCHW[None], pairs_P2[chunk], 3, config.radius, 1, 1, motion_P2[None, chunk]
        )
        # The motion stays on the device: reading it would wait for the device at every step of a training.
        for (target, source), (dy, dx), d_HW, o_HW in zip(
            pairs[chunk], motion_P2[chunk], distance[0, :, 0], offset[0, :, 0].long(), strict=True
        ):
            seen = d_HW <= config.distance
            down, across = o_HW // side - config.radius, o_HW % side - config.radius
            row, column = (y + dy + down).clamp(0, height - 1), (x + dx + across).clamp(0, width - 1)
            near_NHW = torch.maximum(down.abs(), across.abs()) <= reach_NT11[:, target]
            found_NTHW[:, target] += near_NHW & seen & background_THW[source, row, column]
    return (found_NTHW >= config.min_frames) & inside_NTHW
