from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["match_weight"]


def match_weight(
    distance: Tensor, threshold: float = 0.05, affinity: str = "exponential", sigma: float = 1.0, weighted: bool = False
) -> Tensor:
    """Weights of the matches for the TK-Loss (Ke et al., MaskFreeVIS, CVPR 2023, section 3.2: the threshold D).

    The affinity of a match at distance d is ``exp(-d / (2σ))`` ("exponential", as in the authors' code) or
    ``exp(-d² / (2σ²))`` ("gaussian").

    Args:
        distance: float32 of any shape, as `temporal_topk` returns it; +inf: no match.
        threshold: the smallest affinity that counts.
        affinity: "exponential" or "gaussian".
        sigma: the scale of the distances, positive.
        weighted: use the affinity as the weight instead of 1.

    Returns:
        float32 of the shape of `distance`: 0 below the threshold, else 1 or the affinity. Not differentiable.

    Raises:
        ValueError: a wrong dtype or range, naming the argument.
    """
    return torch.ops.mfvis.match_weight(distance, threshold, affinity, sigma, weighted)


@torch.library.register_fake("mfvis::match_weight")
def _(
    distance: Tensor, threshold: float = 0.05, affinity: str = "exponential", sigma: float = 1.0, weighted: bool = False
) -> Tensor:
    return distance.new_empty(distance.shape)


forbid_backward("mfvis::match_weight", "is not differentiable; call it under torch.no_grad() or on detached distances")
