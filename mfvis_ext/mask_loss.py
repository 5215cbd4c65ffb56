"""The mask-free losses of the same masks as one node of autograd's graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mfvis_ext.modules import Matches
from mfvis_ext.ops import private
from mfvis_ext.ops.pairwise_loss import constant_frames, sum_and_count
from mfvis_ext.ops.tk_loss import constant_weight


class MaskLossTerms(NamedTuple):
    """Losses of `mask_loss_terms`: float64 for float64 logits, else float32; None for those not asked for."""

    projection: Tensor | None
    """Scalar: `box_projection_loss`, the mean over instances and frames."""
    pairwise_sum: Tensor | None
    """Scalar: the sum of `pairwise_loss_terms`."""
    pairwise_count: Tensor | None
    """Scalar: the count of `pairwise_loss_terms`. A constant."""
    tk_sum: Tensor | None
    """``[N, P]``: the losses of `tk_loss_terms`."""
    tk_weight: Tensor | None
    """``[N, P]``: the weights of `tk_loss_terms`. A constant."""


def mask_loss_terms(
    mask_logits: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    *,
    projection: bool = True,
    frames: Tensor | None = None,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
    matches: Matches | None = None,
) -> MaskLossTerms:
    """`box_projection_loss`, `pairwise_loss_terms` and `tk_loss_terms` of the same masks, with one gradient.

    The values are those of the separate functions. Each of these has a gradient of the size of the logits, and autograd
    adds the three. Here the first loss writes the gradient, and the others add to the pixels that they touch, which
    saves most of the memory traffic. In float16 and bfloat16 the sum is rounded after each loss, as autograd's is.

    Args:
        mask_logits: ``[N, T, H, W]``, float16, bfloat16, float32 or float64; N runs over all videos and decoder layers.
        boxes: float32 ``[N, T, 4]``, ``(x1, y1, x2, y2)`` in the logits' pixels; ``x2 <= x1`` or ``y2 <= y1``: absent.
        video_index: int64 ``[N]``, the video of each instance.
        projection: whether to compute `box_projection_loss`.
        frames: float32 ``[B, T, 3, H, W]``, LAB colors of `pairwise_loss`; None leaves it out.
        kernel_size, dilation, threshold: as for `pairwise_loss`.
        matches: of `TKLoss.match`, for `tk_loss`; None leaves it out.

    Raises:
        ValueError: a wrong shape, dtype, device or range, naming the argument; frames or weights of matches that
            require a gradient.
    """
    if not (matches is None or isinstance(matches, Matches)):
        raise TypeError(f"matches is a {type(matches).__name__}; expected what TKLoss.match returns")
    matched: tuple[Any, ...] = (None,) * 6
    if matches is not None:
        matched = (matches.offset, matches.weight, matches.pairs, matches.radius, matches.dilation, matches.shift)
    loss, mean, divisor, tk_sum, tk_weight = OneGradient.apply(
        mask_logits, boxes, video_index, projection, frames, kernel_size, dilation, threshold, *matched
    )
    pairwise_sum, count = (None, None) if frames is None else sum_and_count(mean, divisor)
    return MaskLossTerms(loss, pairwise_sum, count, tk_sum, tk_weight)


class OneGradient(torch.autograd.Function):
    """The losses as a single node, whose backward pass makes a single gradient."""

    @staticmethod
    def forward(
        ctx, mask_logits, boxes, video_index, projection, frames, kernel_size, dilation, threshold,
        offset, weight, pairs, radius, tk_dilation, shift,
    ):  # fmt: skip
        constant_frames(ctx.needs_input_grad[4])
        constant_weight(ctx.needs_input_grad[9], "tk_loss_terms")
        if not torch.compiler.is_compiling():  # which makes zeros of the gradients of unused losses
            ctx.set_materialize_grads(False)
        boxes, video_index, pairs, shift = map(private, (boxes, video_index, pairs, shift))
        loss = slope = position = mean = divisor = tk_sum = tk_weight = counted = None
        if projection:
            loss, slope, position = torch.ops.mfvis.box_projection_terms(mask_logits, boxes)
        if frames is not None:
            mean, divisor = torch.ops.mfvis.pairwise_loss_mean(
                mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold
            )
        if offset is not None:
            tk_sum, tk_weight, counted = torch.ops.mfvis.tk_loss_sums(
                mask_logits, offset, weight, pairs, boxes, video_index, radius, tk_dilation, shift
            )
        ctx.of_neighbors, ctx.of_search = (kernel_size, dilation, threshold), (radius, tk_dilation)
        ctx.save_for_backward(
            mask_logits, boxes, video_index, slope, position, divisor, frames, counted, offset, weight, pairs, shift
        )
        ctx.mark_non_differentiable(*(constant for constant in (divisor, tk_weight) if constant is not None))
        return loss, mean, divisor, tk_sum, tk_weight

    @staticmethod
    def backward(ctx, grad_loss, grad_mean, _of_divisor, grad_tk_sum, _of_tk_weight):
        logits, boxes, video_index, slope, position, divisor, frames, *of_matches, shift = ctx.saved_tensors
        counted, offset, weight, pairs = of_matches
        gradient = None
        # TK-Loss touches the most pixels, so it is the one that writes them all. The projection touches the fewest.
        if grad_tk_sum is not None:
            gradient = torch.ops.mfvis.tk_loss_sums_backward(
                grad_tk_sum, counted, logits, offset, weight, pairs, boxes, video_index, *ctx.of_search, shift
            )
        if grad_mean is not None:
            arguments = (grad_mean, divisor, logits, frames, boxes, video_index, *ctx.of_neighbors)
            if gradient is None:
                gradient = torch.ops.mfvis.pairwise_loss_mean_backward(*arguments)
            else:
                torch.ops.mfvis.pairwise_loss_mean_add_gradient(gradient, *arguments)
        if grad_loss is not None:
            if gradient is None:
                gradient = torch.ops.mfvis.box_projection_terms_backward(grad_loss, logits, slope, position)
            else:
                torch.ops.mfvis.box_projection_terms_add_gradient(gradient, grad_loss, slope, position)
        return (gradient,) + (None,) * 13
