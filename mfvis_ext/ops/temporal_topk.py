from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["temporal_topk"]


def temporal_topk(
    frames: Tensor,
    pairs: Tensor,
    patch_size: int = 3,
    radius: int = 5,
    dilation: int = 1,
    k: int = 5,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest patches in another frame for every pixel and pair (Ke et al., MaskFreeVIS, CVPR 2023, section 3.2).

    The distance of two patches is the L2 norm of their difference over all channels and patch_size² pixels; pixels
    outside the frame count as 0 in both. Candidates are centered at (i + shift_y + dilation·dy, j + shift_x +
    dilation·dx) with dy, dx in -radius..radius, and only if that is inside the frame. The paper:
    ``radius=5, dilation=1, k=5``; its released code: ``radius=1, dilation=3``.

    Args:
        frames: ``[B, T, C, H, W]``, float16, bfloat16, float32 or float64 (LAB, see `rgb_to_lab`); computed in float32.
        pairs: int64 ``[P, 2]``, (target frame, source frame). On CUDA the values are not checked, because that would
            wait for the device: a pair with an index outside the clip matches nothing.
        patch_size: odd side of a patch in pixels.
        radius: candidates on each side of the center, 0 to 90; S = 2·radius + 1 of them in a row.
        dilation: pixels from one candidate to the next.
        k: matches kept per pixel.
        shift: int64 ``[B, P, 2]``, (dy, dx) in pixels by which the window of a pair is displaced; None is zero.

    Returns:
        ``(distance, offset)``, float32 and int16, both ``[B, P, k, H, W]``: nearest first, ties to the smaller offset,
        which is the window index (dy + radius)·S + (dx + radius). +inf and -1 where fewer than k candidates exist. The
        ``[.., S², H, W]`` volume is never built. Not differentiable.

    Raises:
        ValueError: a wrong shape, dtype, device or range, naming the argument.
    """
    return torch.ops.mfvis.temporal_topk(frames, pairs, patch_size, radius, dilation, k, shift)


@torch.library.register_fake("mfvis::temporal_topk")
def _(
    frames: Tensor,
    pairs: Tensor,
    patch_size: int = 3,
    radius: int = 5,
    dilation: int = 1,
    k: int = 5,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    shape = (frames.shape[0], pairs.shape[0], k, frames.shape[3], frames.shape[4])
    return frames.new_empty(shape, dtype=torch.float32), frames.new_empty(shape, dtype=torch.int16)


forbid_backward("mfvis::temporal_topk", "is not differentiable; call it under torch.no_grad() or on detached frames")
