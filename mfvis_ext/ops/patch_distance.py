from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward, forbid_forward_mode

__all__ = ["patch_distance"]


def patch_distance(target: Tensor, source: Tensor, patch_size: int = 3, radius: int = 5, dilation: int = 1) -> Tensor:
    """Distances between every patch of one frame and the patches around it in another: a differentiable cost volume.

    Entry ``[b, (dy + radius)·S + (dx + radius), i, j]``, S = 2·radius + 1, is the L2 norm, over all channels and
    patch_size² pixels, of the difference between the patch of `target` centered at (i, j) and that of `source` centered
    at (i + dilation·dy, j + dilation·dx); pixels outside the frame count as 0 in both. The patches are never unfolded.
    `temporal_topk` finds the nearest patches without a volume.

    Args:
        target: ``[B, C, H, W]``, float16, bfloat16, float32 or float64.
        source: of the same shape and dtype.
        patch_size: odd side of a patch in pixels.
        radius: candidates on each side of the center, 0 to 90.
        dilation: pixels from one candidate to the next.

    Returns:
        ``[B, S², H, W]``, float64 for float64 frames, else float32; +inf where the candidate's center lies outside the
        frame. Differentiable in both frames, with their dtype; the gradient of a distance that is 0 or +inf is 0. A
        second derivative is an error.

    Raises:
        ValueError: a wrong shape, dtype, device or range, naming the argument.
    """
    forbid_forward_mode("mfvis::patch_distance", target, source)
    return torch.ops.mfvis.patch_distance(target, source, patch_size, radius, dilation)


@torch.library.register_fake("mfvis::patch_distance")
def _(target: Tensor, source: Tensor, patch_size: int = 3, radius: int = 5, dilation: int = 1) -> Tensor:
    batch, _, height, width = target.shape
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    return target.new_empty((batch, (2 * radius + 1) ** 2, height, width), dtype=dtype)


@torch.library.register_fake("mfvis::patch_distance_backward")
def _(grad_distance, distance, target, source, patch_size, radius, dilation, of_source) -> Tensor:
    return target.new_empty(target.shape)


def _setup_context(ctx, inputs, output) -> None:
    target, source, *ctx.window = inputs
    ctx.save_for_backward(output, target, source)


def _backward(ctx, grad_distance: Tensor) -> tuple[Tensor | None, ...]:
    # Once for both frames: the gradient of a sum is an expanded scalar, and checkpointing unpacks saved tensors once.
    grad_distance, saved = grad_distance.contiguous(), ctx.saved_tensors
    gradients = (
        torch.ops.mfvis.patch_distance_backward(grad_distance, *saved, *ctx.window, of_source) if needed else None
        for of_source, needed in zip((False, True), ctx.needs_input_grad[:2], strict=True)
    )
    return (*gradients, None, None, None)


torch.library.register_autograd("mfvis::patch_distance", _backward, setup_context=_setup_context)
forbid_backward(
    "mfvis::patch_distance_backward", "cannot be differentiated: the distance has no second derivative here"
)
