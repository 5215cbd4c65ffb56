from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["box_tube_dice"]


def box_tube_dice(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Pairwise dice between box tubes seen as spatio-temporal masks: 2 · intersection / (area + area), summed over T.

    Exact: computed from the areas of boxes, without rasterizing or sampling. The matching cost of mask-free training is
    ``1 - box_tube_dice(mask_to_boxes(prediction), boxes)``.

    Args:
        boxes_a: float32 ``[A, T, 4]``, ``(x1, y1, x2, y2)`` in pixels; an inverted or empty box has no area.
        boxes_b: float32 ``[B, T, 4]``, on the same device.

    Returns:
        float32 ``[A, B]`` in 0..1; 0 if both tubes are empty. Not differentiable.

    Raises:
        ValueError: a wrong shape, dtype or device, naming the argument.
    """
    return torch.ops.mfvis.box_tube_dice(boxes_a, boxes_b)


@torch.library.register_fake("mfvis::box_tube_dice")
def _(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    return boxes_a.new_empty(boxes_a.shape[0], boxes_b.shape[0])


forbid_backward("mfvis::box_tube_dice", "is not differentiable; call it under torch.no_grad() or on detached boxes")
