from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward, private

__all__ = ["pairwise_loss", "pairwise_loss_terms"]


def pairwise_loss(
    mask_logits: Tensor,
    frames: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
) -> Tensor:
    """Pairwise loss: neighbors of similar color have the same label (Tian et al., BoxInst, CVPR 2021, eq. 5 to 7).

    For every pixel inside the instance's box in its frame, and each of the kernel_size² - 1 neighbors that exist, the
    disagreement of their logits (see `tk_loss`), counted iff ``exp(-‖c_p - c_q‖ / 2) >= threshold``.

    Args:
        mask_logits: ``[N, T, H, W]``, float16, bfloat16, float32 or float64.
        frames: float32 ``[B, T, 3, H, W]``, LAB colors, see `rgb_to_lab`. Constants: no gradient.
            RGB is not detected: in 0..255 few neighbors would count, in 0..1 all.
        boxes: float32 ``[N, T, 4]``, ``(x1, y1, x2, y2)`` in the logits' pixels; ``x2 <= x1`` or ``y2 <= y1``: absent.
        video_index: int64 ``[N]``, the video of each instance.
        kernel_size: odd side of the neighborhood.
        dilation: pixels from one neighbor to the next.
        threshold: smallest color similarity of a pair that counts.

    Returns:
        A scalar, the sum over everything divided by ``max(count, 1)``: float64 for float64 logits, else float32. The
        gradient has the dtype of the logits. A second derivative is an error.

    Raises:
        ValueError: a wrong shape, dtype, device or range, naming the argument; frames that require a gradient.
    """
    return MeanOfPairs.apply(mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold)[0]


def pairwise_loss_terms(
    mask_logits: Tensor,
    frames: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """The sum and the count of `pairwise_loss` before the division, to normalize otherwise or across processes.

    Arguments and errors as `pairwise_loss`.

    Returns:
        Two scalars, float64 for float64 logits, else float32. Only the sum depends on the logits.
    """
    return sum_and_count(*MeanOfPairs.apply(mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold))


def sum_and_count(loss: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """The terms of a mean and its divisor ``[1]``."""
    # No pair is divided by 1, as one pair is; a single one whose loss is 0 adds nothing to the sum either.
    count = torch.where((divisor > 1) | (loss.detach() != 0), divisor, 0).squeeze()
    return loss * divisor.squeeze(), count


class MeanOfPairs(torch.autograd.Function):
    """The loss as a single node of the graph, because every small node adds to the cost of a call."""

    @staticmethod
    def forward(ctx, mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold):
        constant_frames(ctx.needs_input_grad[1])
        boxes, video_index = private(boxes), private(video_index)
        loss, divisor = torch.ops.mfvis.pairwise_loss_mean(
            mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold
        )
        ctx.kernel_size, ctx.dilation, ctx.threshold = kernel_size, dilation, threshold
        ctx.save_for_backward(divisor, mask_logits, frames, boxes, video_index)
        ctx.mark_non_differentiable(divisor)
        return loss, divisor

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _of_constant: Tensor):
        grad_logits = torch.ops.mfvis.pairwise_loss_mean_backward(
            grad_loss, *ctx.saved_tensors, ctx.kernel_size, ctx.dilation, ctx.threshold
        )
        return (grad_logits,) + (None,) * 6


def constant_frames(requires_grad: bool) -> None:
    """Raise ValueError if the frames require a gradient."""
    if requires_grad:
        raise ValueError("mfvis::pairwise_loss: frames require a gradient; expected constants, see frames.detach()")


ARGUMENTS = (
    "(Tensor mask_logits, Tensor frames, Tensor boxes, Tensor video_index, int kernel_size=3, int dilation=2, "
    "float threshold=0.3)"
)
torch.library.define("mfvis::pairwise_loss", f"{ARGUMENTS} -> Tensor")
torch.library.impl("mfvis::pairwise_loss", "CompositeImplicitAutograd", pairwise_loss)
torch.library.define("mfvis::pairwise_loss_terms", f"{ARGUMENTS} -> (Tensor, Tensor)")
torch.library.impl("mfvis::pairwise_loss_terms", "CompositeImplicitAutograd", pairwise_loss_terms)


@torch.library.register_fake("mfvis::pairwise_loss_mean")
def _(mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold):
    dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
    return mask_logits.new_empty((), dtype=dtype), mask_logits.new_empty(1, dtype=dtype)


@torch.library.register_fake("mfvis::pairwise_loss_mean_backward")
def _(grad_loss, divisor, mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold):
    return mask_logits.new_empty(mask_logits.shape)


@torch.library.register_fake("mfvis::pairwise_loss_mean_add_gradient")
def _(grad_logits, grad_loss, divisor, mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold):
    return None


forbid_backward(
    "mfvis::pairwise_loss_mean_backward", "cannot be differentiated: the loss has no second derivative here"
)
