from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.reference import accumulation


def box_tube_dice(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Dice `[A, B]` of box tubes `[A, T, 4]` and `[B, T, 4]`: twice the summed intersections over the summed areas."""
    a, b = accumulation(boxes_a)[:, None], accumulation(boxes_b)[None]
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1).sum(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1).sum(-1)
    total = area_a + area_b
    return torch.where(total > 0, 2 * size.prod(-1).sum(-1) / total, 0.0)
