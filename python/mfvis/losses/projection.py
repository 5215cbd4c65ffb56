"""Projection loss: the projections of a mask onto both axes must equal those of its box."""

from __future__ import annotations

from torch import Tensor

import mfvis_ext


def projection_loss(masks_NTHW: Tensor, boxes_NT4: Tensor, normalizer: Tensor | float) -> Tensor:
    """Dice loss between the projections of masks and boxes onto x and y, BoxInst eq. 2, averaged over frames.

    masks: logits; boxes: on the grid of the masks. The sum over the objects is divided by `normalizer`.
    """
    return mfvis_ext.box_projection_loss(masks_NTHW, boxes_NT4) * (masks_NTHW.shape[0] / normalizer)
