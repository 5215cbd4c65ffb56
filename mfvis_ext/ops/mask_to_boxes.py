from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["mask_to_boxes"]


def mask_to_boxes(mask_logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Smallest boxes around ``mask_logits > threshold``.

    Args:
        mask_logits: ``[N, T, H, W]``, float16, bfloat16, float32 or float64.
        threshold: in units of the logits; 0 is probability one half.

    Returns:
        float32 ``[N, T, 4]``, half-open ``(x1, y1, x2, y2)`` in pixels of the logits; zeros if no pixel is above.
        Not differentiable.

    Raises:
        ValueError: a wrong shape or dtype, naming the argument.
    """
    return torch.ops.mfvis.mask_to_boxes(mask_logits, threshold)


@torch.library.register_fake("mfvis::mask_to_boxes")
def _(mask_logits: Tensor, threshold: float = 0.0) -> Tensor:
    return mask_logits.new_empty(*mask_logits.shape[:2], 4, dtype=torch.float32)


forbid_backward("mfvis::mask_to_boxes", "is not differentiable; call it under torch.no_grad() or on detached logits")
