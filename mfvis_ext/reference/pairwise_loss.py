from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis_ext.reference import accumulation, disagreement, inside_boxes


def pairwise_loss(
    mask_logits: Tensor,
    frames: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
) -> Tensor:
    """Mean disagreement between box pixels and those of their neighbors that have a similar color. BoxInst, eq. 7.

    Arguments as `pairwise_loss_terms`. Returns a scalar; 0 if nothing is counted.
    """
    total, count = pairwise_loss_terms(mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold)
    return total / count.clamp(min=1)


def pairwise_loss_terms(
    mask_logits: Tensor,
    frames: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """Summed disagreement and number of the pairs that count, two scalars.

    mask_logits: `[N, T, H, W]`; frames: `[B, T, 3, H, W]` in LAB; boxes: `[N, T, 4]`; video_index: `[N]`.
    """
    logits = accumulation(mask_logits)
    height, width = logits.shape[-2:]
    center = kernel_size**2 // 2

    def neighbors(x: Tensor) -> Tensor:
        unfolded = F.unfold(x.flatten(0, 1), kernel_size, dilation, padding=dilation * (kernel_size // 2))
        unfolded = unfolded.view(*x.shape[:3], kernel_size**2, height, width)
        return torch.cat([unfolded[:, :, :, :center], unfolded[:, :, :, center + 1 :]], dim=3)

    colors = frames.float()
    exists = neighbors(torch.ones_like(colors[:1, :1, :1]))[:, :, 0] > 0
    distance = torch.linalg.vector_norm(colors[:, :, :, None] - neighbors(colors), dim=2)
    similar = (torch.exp(-distance / 2) >= threshold) & exists
    counted = similar[video_index] & inside_boxes(boxes, height, width)[:, :, None]
    terms = disagreement(logits[:, :, None], neighbors(logits[:, :, None])[:, :, 0])
    total = torch.where(counted, terms, 0.0).sum()
    return total, counted.sum().to(total.dtype)
