from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["box_projection_loss"]


def box_projection_loss(mask_logits: Tensor, boxes: Tensor) -> Tensor:
    """Dice loss between the projections of mask and box on each axis (Tian et al., BoxInst, CVPR 2021, eq. 2 and 3).

    With p the maximum of σ(logits) over the rows (columns) and b the indicator of the box on the x (y) axis, the loss
    of a frame is the sum over both axes of ``1 - 2 Σ p b / (Σ p² + Σ b² + 1e-5)``. The loss of an instance
    without any box is 0. In a frame without a box of an instance that has one in another frame, b is 0: the loss is 2,
    without a gradient. The same holds for a box that contains no pixel center, outside the frame or thinner than a
    pixel.

    Args:
        mask_logits: ``[N, T, H, W]``, float16, bfloat16, float32 or float64.
        boxes: float32 ``[N, T, 4]``, ``(x1, y1, x2, y2)`` in pixels of the logits; a pixel is inside iff its center is;
            ``x2 <= x1`` or ``y2 <= y1``: absent.

    Returns:
        A scalar, the mean over instances and frames: float64 for float64 logits, float32 for all others; 0 if there are
        none. The gradient of a maximum goes to its first position and has the dtype of the logits. A second
        derivative is an error.

    Raises:
        ValueError: a wrong shape, dtype or device, naming the argument.
    """
    return BoxProjection.apply(mask_logits, boxes)


class BoxProjection(torch.autograd.Function):
    """An autograd.Function: `torch.library.register_autograd` adds 60 µs to every call when the caches are cold."""

    @staticmethod
    def forward(ctx, mask_logits: Tensor, boxes: Tensor) -> Tensor:
        loss, slope, position = torch.ops.mfvis.box_projection_terms(mask_logits, boxes)
        ctx.save_for_backward(mask_logits, slope, position)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor, None]:
        return torch.ops.mfvis.box_projection_terms_backward(grad_loss, *ctx.saved_tensors), None


torch.library.define("mfvis::box_projection_loss", "(Tensor mask_logits, Tensor boxes) -> Tensor")
torch.library.impl("mfvis::box_projection_loss", "CompositeImplicitAutograd", box_projection_loss)


@torch.library.register_fake("mfvis::box_projection_terms")
def _(mask_logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
    instances, frames, height, width = mask_logits.shape
    slope = mask_logits.new_empty((instances, frames, height + width), dtype=dtype)
    return mask_logits.new_empty((), dtype=dtype), slope, slope.new_empty(slope.shape, dtype=torch.int32)


@torch.library.register_fake("mfvis::box_projection_terms_backward")
def _(grad_loss: Tensor, mask_logits: Tensor, slope: Tensor, position: Tensor) -> Tensor:
    return mask_logits.new_empty(mask_logits.shape)


@torch.library.register_fake("mfvis::box_projection_terms_add_gradient")
def _(grad_logits: Tensor, grad_loss: Tensor, slope: Tensor, position: Tensor) -> None:
    return None


forbid_backward(
    "mfvis::box_projection_terms_backward", "cannot be differentiated: the loss has no second derivative here"
)
