from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.reference import accumulation


def mask_to_boxes(mask_logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Smallest half-open boxes, float32 `[N, T, 4]`, around `mask_logits > threshold`; zeros where empty.

    mask_logits: `[N, T, H, W]`. The threshold is not rounded to their half precision.
    """
    mask = accumulation(mask_logits) > threshold
    height, width = mask.shape[-2:]
    if mask.numel() == 0:
        return torch.zeros(*mask.shape[:2], 4, device=mask.device)
    columns, rows = mask.any(2).float(), mask.any(3).float()
    x1, y1 = columns.argmax(-1), rows.argmax(-1)
    x2, y2 = width - columns.flip(-1).argmax(-1), height - rows.flip(-1).argmax(-1)
    boxes = torch.stack([x1, y1, x2, y2], -1).float()
    return torch.where(mask.flatten(2).any(-1, keepdim=True), boxes, 0.0)
