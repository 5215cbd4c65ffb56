"""Losses of the mask-supervised twin: cross-entropy and dice at sampled points, as in Mask2Former."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.losses.classification import sigmoid_focal_loss
from mfvis.losses.config import MaskConfig


def point_sample(maps_MHW: Tensor, points_MP2: Tensor) -> Tensor:
    """Bilinear samples ``[M, P]`` of maps at points (x, y) in 0..1; zero outside."""
    sampled = F.grid_sample(maps_MHW[:, None], (2 * points_MP2 - 1)[:, None], align_corners=False)
    return sampled[:, 0, 0]


@torch.no_grad()
def uncertain_points(logits_MHW: Tensor, points: int, config: MaskConfig) -> Tensor:
    """``[M, points, 2]`` in 0..1: a share where |logit| is smallest among random candidates, the rest uniform.

    PointRend, section 3.1.
    """
    maps = logits_MHW.shape[0]
    candidates = torch.rand(maps, int(points * config.oversample), 2, device=logits_MHW.device)
    num_uncertain = int(points * config.importance)
    nearest = point_sample(logits_MHW, candidates).abs().topk(num_uncertain, dim=1, largest=False).indices
    uncertain = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, torch.rand(maps, points - num_uncertain, 2, device=logits_MHW.device)], 1)


def mask_losses(
    masks_LNTHW: Tensor, truth_NTHW: Tensor, config: MaskConfig, normalizer: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice (Mask2Former, eq. 3) at points, summed over layers, objects and frames.

    The sums are divided by `normalizer`, the number of objects, as in Mask2Former for videos. The losses of a clip
    therefore grow with its number of frames.

    masks: logits on the stride-4 grid; truth: bool at the size of the padded frames.
    """
    layers, objects, frames, height, width = masks_LNTHW.shape
    logits = masks_LNTHW.float().reshape(-1, height, width)
    if not logits.numel():
        return logits.sum(), logits.sum()
    points = uncertain_points(logits, config.points, config)
    predicted = point_sample(logits, points)
    # The points of all layers are concatenated, so that the ground truth is not copied per layer.
    per_truth = points.view(layers, objects * frames, -1, 2).transpose(0, 1).flatten(1, 2)
    true = point_sample(truth_NTHW.flatten(0, 1).float(), per_truth)
    true = true.view(objects * frames, layers, -1).transpose(0, 1).reshape(predicted.shape)
    bce = F.binary_cross_entropy_with_logits(predicted, true, reduction="none").mean(1)
    probability = predicted.sigmoid()
    dice = 1 - (2 * (probability * true).sum(1) + 1) / (probability.sum(1) + true.sum(1) + 1)
    return bce.sum() / normalizer, dice.sum() / normalizer


def dense_mask_losses(masks_LNTHW: Tensor, truth_NTHW: Tensor, normalizer: Tensor | float) -> tuple[Tensor, Tensor]:
    """Focal loss and dice over every cell of the tubes, summed over layers and objects, as in SeqFormer.

    masks: logits on the stride-4 grid; truth: bool at the size of the padded frames. Padding counts as background.
    """
    logits = masks_LNTHW.float()
    target = truth_NTHW[..., 2::4, 2::4].float().expand_as(logits)
    focal = sigmoid_focal_loss(logits, target).mean((2, 3, 4))
    p, tube = logits.sigmoid(), (2, 3, 4)
    dice = 1 - (2 * (p * target).sum(tube) + 1) / (p.sum(tube) + target.sum(tube) + 1)
    return focal.sum() / normalizer, dice.sum() / normalizer
