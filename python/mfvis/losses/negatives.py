"""Loss on pixels known to be background from the boxes of all frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def negatives_loss(
    masks_NTHW: Tensor, negatives_NTHW: Tensor, normalizer: Tensor | float, smoothing_N: Tensor | float = 0.0
) -> Tensor:
    """Mean of -log(1 - σ(logit)) over each object's negatives, summed over the objects, divided by `normalizer`.

    masks: logits; negatives: bool, of the same shape. Objects without negatives contribute 0. smoothing: added
    to each object's number of negatives in the mean, so that a few negatives, which may be errors, weigh less.
    """
    cost_N = (F.softplus(masks_NTHW.float()) * negatives_NTHW).sum((1, 2, 3))
    return (cost_N / (negatives_NTHW.sum((1, 2, 3)) + smoothing_N).clamp(min=1)).sum() / normalizer
