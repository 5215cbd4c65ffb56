from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward, forbid_forward_mode, private

__all__ = ["tk_loss", "tk_loss_terms"]


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
    """The temporal KNN-patch loss: matched pixels have the same label (Ke et al., MaskFreeVIS, CVPR 2023, eq. 3 to 5).

    With a, b the logits of a target pixel and of its match, their disagreement is
    ``-log(σ(a)σ(b) + σ(-a)σ(-b)) = softplus(a) + softplus(b) - softplus(a + b)``. A target pixel counts for an instance
    iff it is inside one of the instance's boxes in any frame of the clip.

    Args:
        mask_logits: ``[N, T, H, W]``, float16, bfloat16, float32 or float64; N runs over all videos and decoder layers.
        offset: int16 ``[B, P, K, H, W]`` of `temporal_topk`.
        weight: float32 ``[B, P, K, H, W]``, see `match_weight`; 0 means "no match". A constant: no gradient.
        pairs: int64 ``[P, 2]``, (target frame, source frame).
        boxes: float32 ``[N, T, 4]``, ``(x1, y1, x2, y2)`` in the logits' pixels; ``x2 <= x1`` or ``y2 <= y1``: absent.
        video_index: int64 ``[N]``, the video of each instance.
        radius, dilation, shift: the same as for `temporal_topk`.

    Returns:
        A scalar, ``sum over pairs of sum(weight · disagreement) / max(sum(weight), 1)``, the sums over all instances,
        counted pixels and matches: float64 for float64 logits, else float32; 0 if nothing counts. The gradient
        flows to both ends of every match, in the dtype of the logits. A second derivative is an error.

    Raises:
        ValueError: a wrong shape, dtype, device or range, naming the argument; a weight that requires a gradient.
    """
    return MeanOfMatches.apply(mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift)


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
    """The sums of `tk_loss` before the division, for other normalizations or for sums across processes.

    Arguments and errors as `tk_loss`.

    Returns:
        ``(sum(weight · disagreement), sum(weight))``, each ``[N, P]``, float64 for float64 logits, else float32. Only
        the first depends on the logits.
    """
    forbid_forward_mode("mfvis::tk_loss_terms", mask_logits)
    loss_sum, weight_sum, _ = torch.ops.mfvis.tk_loss_sums(
        mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift
    )
    return loss_sum, weight_sum


class MeanOfMatches(torch.autograd.Function):
    """The loss as a single node of the graph, because every small node adds to the cost of a call."""

    @staticmethod
    def forward(ctx, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift):
        constant_weight(ctx.needs_input_grad[2], "tk_loss")
        pairs, boxes, video_index, shift = map(private, (pairs, boxes, video_index, shift))
        loss, divisor, counted = torch.ops.mfvis.tk_loss_mean(
            mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift
        )
        ctx.radius, ctx.dilation = radius, dilation
        ctx.save_for_backward(divisor, counted, mask_logits, offset, weight, pairs, boxes, video_index, shift)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        *tensors, shift = ctx.saved_tensors
        grad_logits = torch.ops.mfvis.tk_loss_mean_backward(grad_loss, *tensors, ctx.radius, ctx.dilation, shift)
        return (grad_logits,) + (None,) * 8


ARGUMENTS = (
    "(Tensor mask_logits, Tensor offset, Tensor weight, Tensor pairs, Tensor boxes, Tensor video_index, "
    "int radius=5, int dilation=1, Tensor? shift=None)"
)
torch.library.define("mfvis::tk_loss", f"{ARGUMENTS} -> Tensor")
torch.library.impl("mfvis::tk_loss", "CompositeImplicitAutograd", tk_loss)
torch.library.define("mfvis::tk_loss_terms", f"{ARGUMENTS} -> (Tensor, Tensor)")
torch.library.impl("mfvis::tk_loss_terms", "CompositeImplicitAutograd", tk_loss_terms)


def constant_weight(weight_requires_grad: bool, operator: str) -> None:
    """Raise ValueError if the weight requires a gradient."""
    if weight_requires_grad:
        raise ValueError(f"mfvis::{operator}: weight requires a gradient; expected a constant, see weight.detach()")


def _fake_counted(mask_logits: Tensor) -> Tensor:
    """`[N / 32, H, W]`: bit n of a pixel says that it counts for instance n. Kept by the CUDA kernels only."""
    instances, _, height, width = mask_logits.shape
    masks = 0 if mask_logits.device.type == "cpu" else (instances + 31) // 32
    return mask_logits.new_empty((masks, height, width), dtype=torch.int32)


@torch.library.register_fake("mfvis::tk_loss_sums")
def _(mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift):
    dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
    shape = (mask_logits.shape[0], pairs.shape[0])
    return (
        mask_logits.new_empty(shape, dtype=dtype),
        mask_logits.new_empty(shape, dtype=dtype),
        _fake_counted(mask_logits),
    )


@torch.library.register_fake("mfvis::tk_loss_sums_backward")
def _(grad_loss_sum, counted, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift):
    return mask_logits.new_empty(mask_logits.shape)


@torch.library.register_fake("mfvis::tk_loss_mean")
def _(mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift):
    dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
    return (
        mask_logits.new_empty((), dtype=dtype),
        mask_logits.new_empty(pairs.shape[:1], dtype=dtype),
        _fake_counted(mask_logits),
    )


@torch.library.register_fake("mfvis::tk_loss_mean_backward")
def _(grad_loss, divisor, counted, mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift):
    return mask_logits.new_empty(mask_logits.shape)


def _setup_context(ctx, inputs, output) -> None:
    constant_weight(ctx.needs_input_grad[2], "tk_loss_terms")
    *large, pairs, boxes, video_index, ctx.radius, ctx.dilation, shift = inputs
    _, weight_sum, counted = output
    ctx.mark_non_differentiable(weight_sum, counted)
    ctx.save_for_backward(counted, *large, *map(private, (pairs, boxes, video_index, shift)))


def _backward(ctx, grad_loss_sum: Tensor, *_of_constants: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, shift = ctx.saved_tensors
    grad_logits = torch.ops.mfvis.tk_loss_sums_backward(grad_loss_sum, *tensors, ctx.radius, ctx.dilation, shift)
    return (grad_logits,) + (None,) * 8


torch.library.register_autograd("mfvis::tk_loss_sums", _backward, setup_context=_setup_context)
for operator in ("mfvis::tk_loss_sums_backward", "mfvis::tk_loss_mean_backward"):
    forbid_backward(operator, "cannot be differentiated: the loss has no second derivative here")
