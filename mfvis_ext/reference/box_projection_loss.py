from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.reference import accumulation


def box_projection_loss(mask_logits: Tensor, boxes: Tensor) -> Tensor:
    """Dice loss between the projections of mask and box on each axis, mean over instances and frames. BoxInst, eq. 3.

    A box that contains no pixel center projects to nothing on both axes.
    mask_logits: `[N, T, H, W]`; boxes: `[N, T, 4]`. Returns a scalar. 0 for an instance without any box.
    """
    logits = accumulation(mask_logits)
    instances, frames, height, width = logits.shape
    if logits.numel() == 0:
        return logits.sum()
    x1, y1, x2, y2 = boxes.to(logits.dtype)[..., None].unbind(2)
    present = (x2 > x1) & (y2 > y1)
    x = torch.arange(width, device=logits.device) + 0.5
    y = torch.arange(height, device=logits.device) + 0.5

    def dice_loss(p: Tensor, b: Tensor) -> Tensor:
        return 1 - 2 * (p * b).sum(-1) / ((p * p).sum(-1) + b.sum(-1) + 1e-5)

    in_x, in_y = present & (x1 <= x) & (x < x2), present & (y1 <= y) & (y < y2)
    on_x = dice_loss(logits.max(2).values.sigmoid(), (in_x & in_y.any(-1, keepdim=True)).to(logits.dtype))
    on_y = dice_loss(logits.max(3).values.sigmoid(), (in_y & in_x.any(-1, keepdim=True)).to(logits.dtype))
    ever = present.any(1)
    return torch.where(ever, on_x + on_y, 0.0).sum() / (instances * frames)
