from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis_ext.reference import accumulation


def patch_distance(target: Tensor, source: Tensor, patch_size: int = 3, radius: int = 5, dilation: int = 1) -> Tensor:
    """L2 distance between every patch of `target` and the patches of `source` in the search window around it.

    target, source: `[B, C, H, W]`; taps outside the frame count as 0. Returns `[B, S², H, W]`, S = 2·radius + 1, in
    ascending (dy, dx); +inf where the candidate's center lies outside the frame. Differentiable in both.
    """
    return shifted_patch_distance(target, source, patch_size, radius, dilation, 0, 0)


def shifted_patch_distance(
    target: Tensor, source: Tensor, patch_size: int, radius: int, dilation: int, shift_y: int, shift_x: int
) -> Tensor:
    """`patch_distance` with the window displaced: candidates centered at (i + shift_y + dilation·dy, j + ...)."""
    batch, channels, height, width = target.shape
    side, reach = 2 * radius + 1, radius * dilation
    # Larger shifts leave no candidate in the frame, and negative padding must not exceed the frame's size.
    dy = max(-height - reach, min(height + reach, shift_y))
    dx = max(-width - reach, min(width + reach, shift_x))

    def patches(frames: Tensor) -> Tensor:
        unfolded = F.unfold(accumulation(frames), patch_size, padding=patch_size // 2)
        return unfolded.view(batch, channels * patch_size**2, height, width)

    def window(x: Tensor) -> Tensor:
        displaced = F.pad(x, (reach - dx, reach + dx, reach - dy, reach + dy))
        unfolded = F.unfold(displaced, side, dilation=dilation)
        return unfolded.view(x.shape[0], x.shape[1], side * side, height, width)

    exists = window(torch.ones_like(target[:1, :1], dtype=torch.float32))[:, 0] > 0
    # Unfolded twice: patches into channels, then the window around each pixel.
    difference = patches(target)[:, :, None] - window(patches(source))
    return torch.linalg.vector_norm(difference, dim=1).masked_fill(~exists, torch.inf)
