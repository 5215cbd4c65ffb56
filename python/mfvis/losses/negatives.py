"""Pixels of which the boxes of the whole video say that they are not the object."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def negatives_loss(
    masks_NTHW: Tensor, negatives_NTHW: Tensor, normaliser: Tensor | float, doubt_N: Tensor | float = 0.0
) -> Tensor:
    """Mean of -log(1 - σ(logit)) over each object's negatives, summed over the objects, divided by `normaliser`.

    masks: logits; negatives: bool, of the same shape. An object without any adds nothing. doubt: added to the number of
    negatives that the mean is taken over, so that a handful, which may be errors, does not weigh as much as many.
    """
    cost_N = (F.softplus(masks_NTHW.float()) * negatives_NTHW).sum((1, 2, 3))
    return (cost_N / (negatives_NTHW.sum((1, 2, 3)) + doubt_N).clamp(min=1)).sum() / normaliser
