"""Positions in a box, and how well masks agree with where in its box an object usually lies.

A box touches its object on all four sides. Objects therefore cover the center of their boxes far more often than the
corners, whatever their shape. The inscribed ellipse is the mean of this knowledge.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.losses.background_propagation import inside_boxes

STEEPNESS = 3.0
"""Logit of the prior at the center of a box. On the inscribed ellipse it is 0."""


def radius(boxes_NT4: Tensor, height: int, width: int, power: float = 2.0) -> Tensor:
    """float ``[N, T, H, W]``: 0 at a box's center, 1 on its inscribed superellipse, 2 in its corners.

    power: 2 for an ellipse, more for a shape that is closer to the box.
    """
    x1, y1, x2, y2 = (side[..., None, None] for side in boxes_NT4.unbind(-1))
    x = torch.arange(width, device=boxes_NT4.device) + 0.5
    y = torch.arange(height, device=boxes_NT4.device)[:, None] + 0.5
    across = (2 * x - x1 - x2).abs() / (x2 - x1).clamp(min=1)
    down = (2 * y - y1 - y2).abs() / (y2 - y1).clamp(min=1)
    return across**power + down**power


def position_cost(masks_NTHW: Tensor, boxes_NT4: Tensor, ignored_NTHW: Tensor | None = None) -> Tensor:
    """float ``[N]``: mean cross-entropy with the prior over the pixels inside each object's boxes.

    masks: logits; boxes: on their grid; ignored: bool, pixels that are left out. Objects without pixels have cost 0.
    """
    height, width = masks_NTHW.shape[-2:]
    prior_NTHW = (STEEPNESS * (1 - radius(boxes_NT4, height, width))).sigmoid()
    counted_NTHW = inside_boxes(boxes_NT4, height, width)
    if ignored_NTHW is not None:
        counted_NTHW = counted_NTHW & ~ignored_NTHW
    cost_NTHW = F.binary_cross_entropy_with_logits(masks_NTHW.float(), prior_NTHW, reduction="none") * counted_NTHW
    return cost_NTHW.sum((1, 2, 3)) / counted_NTHW.sum((1, 2, 3)).clamp(min=1)
