"""Costs and losses of predicted boxes, for models that have a box head (SeqFormer)."""

from __future__ import annotations

import torch
from torch import Tensor

from mfvis.losses.config import BoxConfig
from mfvis.types import Batch, Match, Prediction, present

ABSENT = 1e-6
"""Value that the original code gives to every box coordinate in frames without the object."""


def target_boxes(batch: Batch, config: BoxConfig) -> tuple[Tensor, Tensor]:
    """Target boxes (cx, cy, w, h) ``[N, T, 4]``, 0..1 relative to the unpadded frames, and frame weights ``[N, T]``."""
    boxes_NT4 = batch.boxes_NT4.float()
    size_N4 = batch.sizes_B2[batch.video_index_N].flip(1).repeat(1, 2)
    there_NT = present(boxes_NT4)
    low, high = boxes_NT4[..., :2], boxes_NT4[..., 2:]
    target = torch.cat([(low + high) / 2, high - low], -1) / size_N4[:, None]
    target = torch.where(there_NT[..., None], target, ABSENT)
    return target, torch.ones_like(target[..., 0]) if config.absent_as_corner else there_NT.float()


def box_cost(boxes_LTQ4: Tensor, target_NT4: Tensor, weight_NT: Tensor, config: BoxConfig) -> Tensor:
    """Box cost ``[L, Q, N]`` of assigning each query to each object of one clip."""
    boxes_LQ1T4 = boxes_LTQ4.transpose(1, 2)[:, :, None]
    squared = (boxes_LQ1T4 - target_NT4).square().sum(-1) * weight_NT
    frames = weight_NT.sum(-1).clamp(min=1)
    overlap = (generalized_iou(boxes_LQ1T4, target_NT4) * weight_NT).sum(-1) / frames
    return config.l1 * squared.sum(-1).sqrt() - config.giou * overlap


def box_losses(
    prediction: Prediction, matched: Match, batch: Batch, config: BoxConfig, normalizer: Tensor | float
) -> tuple[Tensor, Tensor]:
    """L1 and generalized IoU losses of the matched boxes, averaged over frames, summed over layers and objects."""
    target_NT4, weight_NT = target_boxes(batch, config)
    layer = torch.arange(len(matched.query_LN), device=target_NT4.device)[:, None]
    boxes_LBQT4 = prediction.boxes_LBTQ4.float().transpose(2, 3)
    boxes_LNT4 = boxes_LBQT4[layer, batch.video_index_N, matched.query_LN]
    frames = weight_NT.sum(-1).clamp(min=1)
    l1 = ((boxes_LNT4 - target_NT4).abs().sum(-1) * weight_NT).sum(-1) / frames
    giou = ((1 - generalized_iou(boxes_LNT4, target_NT4)) * weight_NT).sum(-1) / frames
    return l1.sum() / normalizer, giou.sum() / normalizer


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU ``[...]`` of boxes (cx, cy, w, h) ``[..., 4]`` (Rezatofighi et al., CVPR 2019)."""
    (low_a, high_a), (low_b, high_b) = corners(a), corners(b)
    both = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    either = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - both
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp(min=0).prod(-1)
    return both / either - (hull - either) / hull


def corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Top left and bottom right corners of boxes (cx, cy, w, h)."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return center - half, center + half
