"""Projection loss: the projections of a mask onto both axes must equal those of its box."""

from __future__ import annotations

from torch import Tensor

from mfvis.losses.inputs import MaskLossInputs


def projection_loss(inputs: MaskLossInputs) -> Tensor:
    """Dice loss of the projections of masks and boxes (BoxInst, eq. 2), averaged over the frames and the objects."""
    return inputs.box_terms.projection * (len(inputs.masks_MTHW) / inputs.objects)
