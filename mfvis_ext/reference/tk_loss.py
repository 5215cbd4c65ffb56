from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.reference import accumulation, disagreement, inside_boxes


def tk_loss_terms(
    mask_logits: Tensor,
    offset: Tensor,
    weight: Tensor,
    pairs: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    radius: int = 5,
    dilation: int = 1,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted disagreement and weight, each summed per instance and pair: `[N, P]` twice.

    mask_logits: `[N, T, H, W]`; offset, weight: `[B, P, K, H, W]`; pairs: `[P, 2]`; boxes: `[N, T, 4]`;
    video_index: `[N]`; shift: `[B, P, 2]` or None. Matches outside the window or the frame, offset -1
    included, are ignored.
    """
    logits = accumulation(mask_logits)
    instances, _, height, width = logits.shape
    side = 2 * radius + 1
    counted = inside_boxes(boxes, height, width).any(1)
    row = torch.arange(height, device=logits.device)[:, None]
    column = torch.arange(width, device=logits.device)
    losses, weights = [], []
    for p, (target, source) in enumerate(pairs.tolist()):
        window = offset[video_index, p].long()
        y = row + dilation * (window.div(side, rounding_mode="floor") - radius)
        x = column + dilation * (window.remainder(side) - radius)
        if shift is not None:
            dy, dx = shift[video_index, p, :, None, None, None].unbind(1)
            y, x = y + dy, x + dx
        matched = (window >= 0) & (window < side**2) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        flat = torch.where(matched, y * width + x, 0).flatten(1)
        b = logits[:, source].flatten(1).gather(1, flat).view(window.shape)
        w = weight[video_index, p].to(logits.dtype) * matched * counted[:, None]
        losses.append((w * disagreement(logits[:, target, None], b)).sum((1, 2, 3)))
        weights.append(w.sum((1, 2, 3)))
    if not losses:
        return logits.sum((1, 2, 3))[:, None][:, :0], logits.new_zeros(instances, 0)
    return torch.stack(losses, 1), torch.stack(weights, 1)


def tk_loss(
    mask_logits: Tensor,
    offset: Tensor,
    weight: Tensor,
    pairs: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    radius: int = 5,
    dilation: int = 1,
    shift: Tensor | None = None,
) -> Tensor:
    """The temporal KNN-patch loss, MaskFreeVIS eq. 3 to 5: mean disagreement of the matches, summed over pairs.

    Arguments as `tk_loss_terms`. Returns a scalar; 0 if nothing is counted.
    """
    loss, total = tk_loss_terms(mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift)
    return (loss.sum(0) / total.sum(0).clamp(min=1)).sum()
