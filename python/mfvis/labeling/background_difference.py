"""Background difference: whether a pixel looks like the background that other frames show at its position.

Background subtraction for a moving camera. Where the camera motion predicts a position that lies outside all boxes of
another frame, the background at this position is known. A pixel of the object differs from it; a pixel of the
background does not. Differences are relative to those of known background around the boxes, so that noise, compression
and parallax of a video count as such.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import mfvis_ext
from mfvis.grid import STRIDE
from mfvis.labeling.box_prior import CORE, are_neighbors, radius, smallness
from mfvis.labeling.window_inputs import WindowInputs
from mfvis.losses.background_propagation import camera_motion, frame_pairs, inside_boxes
from mfvis.losses.config import BackgroundPropagationConfig

MIN_FRAMES = 2
"""Minimum number of other frames that show the background."""
QUANTILE = 0.3
"""Quantile of the distances to other frames' background that counts."""
USUAL = 0.97
"""Share of the background around the boxes whose distance is usual; larger distances belong to objects."""
LEAST_DISTANCE = 4.0
"""Smallest such distance, in LAB units, for videos without noise."""
LARGEST = 1.5
"""Largest logit, either way."""
CORE_DIFFERENCE = 0.25
"""Mean logit of the boxes' cores from which a track's difference has its full weight."""
PATCH = 3
"""Height and width in cells of the compared patches."""


@torch.no_grad()
def background_difference(view: WindowInputs, config: BackgroundPropagationConfig) -> Tensor:
    """float ``[N, T, H, W]`` on the grid of the masks: logits that are above 0 at pixels unlike the background, below 0
    at pixels like it, and 0 where the background is unknown.

    An object covers the core of its boxes. If the core looks like the background, the object does, too, and the logits
    are 0, as in frames that are not neighbors in time. Objects of a few cells have small logits, as patches reach
    beyond them.
    """
    boxes_NT4 = view.boxes_NT4 / STRIDE
    zeros_NTHW = torch.zeros(view.ring_NTHW.shape, device=boxes_NT4.device)
    if config.weight == 0 or not are_neighbors(view.lab_TCHW, view.background_THW, config):
        return zeros_NTHW
    distance_THW = distance_to_background(view.lab_TCHW, view.background_THW, config)
    known_THW = distance_THW.isfinite()
    around = distance_THW[view.ring_NTHW.any(0) & known_THW]
    if len(around) == 0:
        return zeros_NTHW
    usual = around.kthvalue(max(1, round(USUAL * len(around)))).values.clamp(min=LEAST_DISTANCE)
    logits_THW = (distance_THW / usual).clamp(min=1e-3).log().clamp(-LARGEST, LARGEST).where(known_THW, 0)
    height, width = logits_THW.shape[-2:]
    core_NTHW = inside_boxes(boxes_NT4, height, width) & (radius(boxes_NT4, height, width) < CORE) & known_THW
    core_N = (logits_THW * core_NTHW).sum((1, 2, 3)) / core_NTHW.sum((1, 2, 3)).clamp(min=1)
    weight_N = (core_N / CORE_DIFFERENCE).clamp(0, 1) * (1 - smallness(boxes_NT4))
    return weight_N[:, None, None, None] * logits_THW


def distance_to_background(lab_TCHW: Tensor, background_THW: Tensor, config: BackgroundPropagationConfig) -> Tensor:
    """float ``[T, H, W]``: LAB distance of each pixel to the background of other frames; infinite where fewer than
    `MIN_FRAMES` of them show it.

    The distance of a pixel is the smallest of the patches that contain it, or background next to an object would be as
    distant as the object.

    Args:
        lab_TCHW: colors on the mask grid.
        background_THW: bool, True outside all boxes and outside the padding.
    """
    frames, _, height, width = lab_TCHW.shape
    pairs_P2 = frame_pairs(frames, config.frame_gaps, lab_TCHW.device)
    motion_P2 = camera_motion(lab_TCHW, background_THW, pairs_P2)
    pairs_P2, motion_P2 = torch.cat([pairs_P2, pairs_P2.flip(1)]), torch.cat([motion_P2, -motion_P2])
    side = 2 * config.radius + 1
    y = torch.arange(height, device=lab_TCHW.device)[:, None]
    x = torch.arange(width, device=lab_TCHW.device)
    distance_THW = lab_TCHW.new_full((frames, height, width), torch.inf)
    for target in range(frames):
        own = pairs_P2[:, 0] == target
        pairs, motion = pairs_P2[own], motion_P2[own]
        if len(pairs) < MIN_FRAMES:
            continue
        distance, offset = mfvis_ext.temporal_topk(lab_TCHW[None], pairs, PATCH, config.radius, 1, 1, motion[None])
        source, offset_PHW = pairs[:, 1, None, None], offset[0, :, 0].long()
        row, column = y + motion[:, 0, None, None], x + motion[:, 1, None, None]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
        down, across = offset_PHW // side - config.radius, offset_PHW % side - config.radius
        matched = background_THW[source, (row + down).clamp(0, height - 1), (column + across).clamp(0, width - 1)]
        seen_PHW = inside & background_THW[source, row, column] & matched
        values_PHW = distance[0, :, 0].masked_fill(~seen_PHW, torch.nan)
        enough_HW = seen_PHW.sum(0) >= MIN_FRAMES
        distance_THW[target] = values_PHW.nanquantile(QUANTILE, 0).where(enough_HW, torch.inf)
    nearest_THW = -F.max_pool2d(-distance_THW[:, None], PATCH, 1, PATCH // 2)[:, 0]
    return nearest_THW.where(distance_THW.isfinite(), torch.inf)
