from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mfvis_ext.reference import accumulation


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    softmax: bool = False,
) -> Tensor:
    """Multi-scale deformable attention. Deformable DETR, eq. 3.

    value: `[B, S, heads, D]`, the levels one after the other; spatial_shapes: `[L, 2]` (H, W);
    level_start_index: `[L]`; sampling_locations: `[B, Q, heads, L, points, 2]` (x, y) in 0..1;
    attention_weights: `[B, Q, heads, L, points]`, or with `softmax` their logits. Returns `[B, Q, heads·D]`.
    """
    accumulated = accumulation(value)
    batch, _, heads, channels = value.shape
    queries, _, _, points = attention_weights.shape[1:]
    if value.numel() == 0 or attention_weights.numel() == 0:
        nothing = (value.sum() + sampling_locations.sum() + attention_weights.sum()).to(value.dtype)
        return 0 * nothing.expand(batch, queries, heads * channels)
    if softmax:
        logits = attention_weights.to(accumulated.dtype).flatten(3)
        attention_weights = logits.softmax(-1).view(attention_weights.shape)
    output = accumulated.new_zeros(batch * heads, channels, queries)
    for level, ((height, width), start) in enumerate(
        zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    ):
        plane = accumulated[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        locations, weights = sampling_locations[:, :, :, level], attention_weights[:, :, :, level]
        grid = 2 * locations.to(plane.dtype).transpose(1, 2).flatten(0, 1) - 1
        sampled = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = weights.to(plane.dtype).transpose(1, 2).reshape(-1, 1, queries, points)
        output = output + (sampled * weights).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)
