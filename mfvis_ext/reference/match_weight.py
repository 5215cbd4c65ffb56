from __future__ import annotations

import torch
from torch import Tensor


def match_weight(
    distance: Tensor, threshold: float = 0.05, affinity: str = "exponential", sigma: float = 1.0, weighted: bool = False
) -> Tensor:
    """float32 weight of every match: 1 (the affinity itself if `weighted`) where affinity >= threshold, else 0.

    Affinity: exp(-d / (2σ)) ("exponential") or exp(-d² / (2σ²)) ("gaussian"). The weight of a +inf distance is 0.
    """
    d = distance.float()
    similarity = torch.exp(-d / (2 * sigma)) if affinity == "exponential" else torch.exp(-(d**2) / (2 * sigma**2))
    kept = (similarity >= threshold) & d.isfinite()
    return torch.where(kept, similarity if weighted else 1.0, 0.0)
