"""Weight of the position prior (`mfvis.losses.box_positions`) for each track."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import mfvis_ext
from mfvis.losses.background_propagation import camera_motion, inside_boxes
from mfvis.losses.box_positions import radius
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.types import present

REFINE_WEIGHT = 7.0
"""Largest logit of the prior in the refinement."""
KNOWN_SHAPE = 0.15
"""Confidence up to which the refinement ignores the prior, as the shape is known."""
POWER = 2.5
"""Exponent of the superellipse in the refinement."""
COVERAGE = 0.07
"""Share of a track's boxes covered by propagated background at which the prior's weight has fallen to 1 / e."""
SMALL_CELLS = 5.0
"""Shorter side of a track's boxes, in grid cells, at which the prior's weight for small objects has fallen to 1 / e."""
CORE = 0.3
"""Radius of a box's core, as in `mfvis.losses.box_positions.radius`, which is object except in rare shapes."""
CORE_SHARE, EXPLAINED = 0.5, 0.3
"""Propagated background is reliable if its density in the core is below this share of that in the corners, or if the
position in the box explains this share of its variance."""
CONTRADICTION = 4.0
"""Reduction of `CORE_SHARE`, times the share of the boxes' rows and columns that are background altogether."""
NEAR_BY_CHANCE = 1.1
"""Frames are neighbors if more matches than this multiple of chance lie within one cell of the predicted position."""
BOX_CELLS = 8
"""Cells along each side of a box for this variance."""


def ellipses(boxes_NT4: Tensor, height: int, width: int) -> Tensor:
    """bool ``[N, T, H, W]``: the inscribed ellipses, or the box itself where no cell's center lies in its ellipse."""
    inside_NTHW = inside_boxes(boxes_NT4, height, width)
    ellipse_NTHW = (radius(boxes_NT4, height, width) <= 1) & inside_NTHW
    return torch.where(ellipse_NTHW.any((2, 3), keepdim=True), ellipse_NTHW, inside_NTHW)


def are_neighbors(lab_TCHW: Tensor, background_THW: Tensor, config: BackgroundPropagationConfig) -> bool:
    """True where adjacent frames of a window are neighbors in time, so that background can be followed between them.

    Matches of background then lie near the positions that the camera motion predicts, rather than anywhere.
    """
    frames = len(lab_TCHW)
    if frames < 2 or config.radius < 2:
        return True
    pairs_P2 = torch.stack([torch.arange(frames - 1), torch.arange(1, frames)], 1).to(lab_TCHW.device)
    motion_P2 = camera_motion(lab_TCHW, background_THW, pairs_P2)
    _, offset = mfvis_ext.temporal_topk(lab_TCHW[None], pairs_P2, 3, config.radius, 1, 1, motion_P2[None])
    side = 2 * config.radius + 1
    down, across = offset[0, :, 0] // side - config.radius, offset[0, :, 0] % side - config.radius
    near_PHW = torch.maximum(down.abs(), across.abs()) <= 1
    background_PHW = background_THW[:-1]
    share = (near_PHW & background_PHW).sum() / background_PHW.sum().clamp(min=1)
    return bool(share > NEAR_BY_CHANCE * 9 / side**2)


def reliable_propagation(propagated_NTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """bool ``[N]``: tracks whose propagated background can be trusted, judged without ground-truth masks.

    True background is found in the corners of the boxes rather than in their core, or else at the same positions of
    the box in all frames. Where an object looks like its surroundings, or frames are not neighbors in time, matches
    are found anywhere, even in whole rows and columns of the boxes, each of which contains a part of the object.
    """
    height, width = propagated_NTHW.shape[-2:]
    radius_NTHW = radius(boxes_NT4, height, width)
    inside_NTHW = inside_boxes(boxes_NT4, height, width)

    def share(region_NTHW: Tensor) -> Tensor:
        return (propagated_NTHW & region_NTHW).sum((1, 2, 3)) / region_NTHW.sum((1, 2, 3)).clamp(min=1)

    core_N, corners_N = share(inside_NTHW & (radius_NTHW < CORE)), share(inside_NTHW & (radius_NTHW > 1))
    explained_N = torch.stack(
        [
            _explained_by_position(track_THW, boxes_T4)
            for track_THW, boxes_T4 in zip(propagated_NTHW, boxes_NT4, strict=True)
        ]
    )
    largest_N = CORE_SHARE - CONTRADICTION * _covered_lines(inside_NTHW, propagated_NTHW)
    return (core_N < largest_N * corners_N) | (explained_N >= EXPLAINED)


def _covered_lines(inside_NTHW: Tensor, known_NTHW: Tensor) -> Tensor:
    """float ``[N]``: share of the boxes' rows and columns whose cells are all known background."""
    open_NTHW = inside_NTHW & ~known_NTHW
    lines_N = sum(inside_NTHW.any(axis).sum((1, 2)) for axis in (2, 3))
    return 1 - sum(open_NTHW.any(axis).sum((1, 2)) for axis in (2, 3)) / lines_N.clamp(min=1)


def _explained_by_position(known_THW: Tensor, boxes_T4: Tensor) -> Tensor:
    """Share of the variance of a bool map that the position in the box explains, from 0 to 1."""
    frames = torch.nonzero(present(boxes_T4))[:, 0]
    if len(frames) == 0:
        return boxes_T4.new_zeros(())
    x1, y1, x2, y2 = boxes_T4[frames, :, None].unbind(1)
    steps = (torch.arange(BOX_CELLS, device=boxes_T4.device) + 0.5) / BOX_CELLS
    height, width = known_THW.shape[-2:]
    x, y = (x1 + (x2 - x1) * steps) / width * 2 - 1, (y1 + (y2 - y1) * steps) / height * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    known_MHW = F.grid_sample(known_THW[frames, None].to(boxes_T4.dtype), grid, align_corners=False)[:, 0]
    mean = known_MHW.mean()
    return known_MHW.mean(0).var() / (mean * (1 - mean)).clamp(min=1e-6)


def confidence(propagated_NTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """float ``[N]``: weight of the prior for each track, from 0 to 1.

    It is small for objects of many grid cells whose shape is known from propagated background.

    Args:
        propagated_NTHW: bool, reliable propagated background.
        boxes_NT4: on its grid.
    """
    inside_NTHW = inside_boxes(boxes_NT4, *propagated_NTHW.shape[-2:])
    covered_N = (propagated_NTHW & inside_NTHW).sum((1, 2, 3)) / inside_NTHW.sum((1, 2, 3)).clamp(min=1)
    return torch.maximum((-covered_N / COVERAGE).exp(), smallness(boxes_NT4))


def smallness(boxes_NT4: Tensor) -> Tensor:
    """float ``[N]``: near 1 for tracks whose boxes are a few grid cells wide or high, 0 for large ones."""
    shorter_NT = (boxes_NT4[..., 2:] - boxes_NT4[..., :2]).amin(-1)
    present_NT = present(boxes_NT4)
    shorter_N = (shorter_NT * present_NT).sum(1) / present_NT.sum(1).clamp(min=1)
    return (-((shorter_N / SMALL_CELLS) ** 2)).exp()


def refinement_logits(box_4: Tensor, height: int, width: int, confidence: float) -> Tensor:
    """float ``[H, W]``: the prior's logits for the refinement of one box, in pixels."""
    radius_HW = radius(box_4[None, None], height, width, POWER)[0, 0]
    weight = REFINE_WEIGHT * max(0.0, confidence - KNOWN_SHAPE) / (1 - KNOWN_SHAPE)
    return weight * (1 - radius_HW).clamp(min=-1)
