"""Classification costs and losses for a softmax with "no object" and for independent sigmoids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.types import Batch, Match, Prediction

ALPHA, GAMMA = 0.25, 2.0
"""Parameters of the focal loss (Lin et al., ICCV 2017, eq. 5)."""


def classification_cost(logits_LQK: Tensor, labels_N: Tensor, no_object: bool) -> Tensor:
    """Classification cost ``[L, Q, N]`` of assigning each query to each object of one clip.

    With "no object" the cost is 1 - p, which ranks assignments as DETR's -p does and is never negative. With sigmoids
    it is the difference of the focal losses of a positive and a negative target for the object's class (Deformable
    DETR).
    """
    if no_object:
        return 1 - logits_LQK.softmax(-1)[..., labels_N]
    p = logits_LQK.sigmoid()[..., labels_N]
    positive = ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
    negative = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
    return positive - negative


def classification_loss(
    prediction: Prediction, matched: Match, batch: Batch, no_object_weight: float
) -> tuple[Tensor, Tensor | None]:
    """Loss of all queries, summed over the layers, and its divisor for one layer (None: the number of objects).

    With "no object" it is the cross-entropy, where unmatched queries have the label "no object", to be divided by the
    sum of weights (DETR). With sigmoids it is the focal loss over all queries and classes, to be divided by the number
    of objects (Deformable DETR).
    """
    logits_LBQK = prediction.logits_LBQK.float()
    layer = torch.arange(len(logits_LBQK), device=logits_LBQK.device)[:, None]
    matched_LN = (layer, batch.video_index_N, matched.query_LN)
    if not prediction.no_object:
        target_LBQK = torch.zeros_like(logits_LBQK)
        target_LBQK[(*matched_LN, batch.labels_N)] = 1
        return sigmoid_focal_loss(logits_LBQK, target_LBQK).sum(), None
    classes = logits_LBQK.shape[-1] - 1
    target_LBQ = torch.full(logits_LBQK.shape[:3], classes, device=logits_LBQK.device)
    target_LBQ[matched_LN] = batch.labels_N
    weight_K = logits_LBQK.new_ones(classes + 1)
    weight_K[-1] = no_object_weight
    loss = F.cross_entropy(logits_LBQK.flatten(0, 2), target_LBQ.flatten(), weight_K, reduction="sum")
    # All layers have the same labels, hence the same sum of weights.
    return loss, weight_K[target_LBQ[0]].sum()


def sigmoid_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of each logit; `target` has the same shape, 0 or 1."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_true = p * target + (1 - p) * (1 - target)
    alpha = ALPHA * target + (1 - ALPHA) * (1 - target)
    return alpha * (1 - p_true) ** GAMMA * cross_entropy
