"""Pixel decoder of Mask2Former (Cheng et al., CVPR 2022), applied to each frame independently: deformable attention
over feature maps at strides 32, 16 and 8 (Zhu et al., "Deformable DETR", ICLR 2021), then one step of a feature pyramid
to stride 4."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.models.deformable_attention import DeformableAttention, Levels

LEVELS = 3
"""Number of feature maps in the attention: strides 32, 16, 8, always in this order."""


@dataclass(frozen=True)
class PixelFeatures:
    """Output of the pixel decoder for N frames."""

    coarse_NHWC: Tensor
    """Attended features at stride 32."""
    middle_NHWC: Tensor
    """At stride 16."""
    fine_NHWC: Tensor
    """At stride 8."""
    mask_NCHW: Tensor
    """Per-pixel embeddings at stride 4; their dot product with a query's mask embedding is its mask logit."""

    @property
    def levels_NHWC(self) -> tuple[Tensor, ...]:
        """Strides 32, 16, 8."""
        return self.coarse_NHWC, self.middle_NHWC, self.fine_NHWC

    @property
    def levels_NSC(self) -> tuple[Tensor, ...]:
        """The same, the cells of a level in one list."""
        return tuple(level.flatten(1, 2) for level in self.levels_NHWC)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each level."""
        return tuple((level.shape[1], level.shape[2]) for level in self.levels_NHWC)


def sine_encoding(angle: Tensor, features: int) -> Tensor:
    """Sines and cosines of an angle at decreasing frequencies: ``[...]`` radians -> ``[..., features]``.

    The temperature is 10000, with sines at even and cosines at odd indices (Vaswani et al., 2017; DETR's normalized
    form has angles up to 2 pi).
    """
    index = torch.arange(features, device=angle.device)
    frequency = 10000.0 ** (-2 * (index // 2) / features)
    phase = angle.float()[..., None] * frequency
    return torch.where(index % 2 == 0, phase.sin(), phase.cos())


def grid_positions(height: int, width: int, features: int, device: torch.device) -> Tensor:
    """2-D sine positions of a grid, ``[h, w, features]``: the first half from y, the second from x."""
    y = torch.arange(1, height + 1, device=device) * (2 * math.pi / (height + 1e-6))
    x = torch.arange(1, width + 1, device=device) * (2 * math.pi / (width + 1e-6))
    half = features // 2
    return torch.cat(
        (
            sine_encoding(y, half)[:, None].expand(height, width, half),
            sine_encoding(x, half)[None].expand(height, width, half),
        ),
        dim=-1,
    )


class EncoderLayer(nn.Module):
    """Deformable attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, dim: int, heads: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, LEVELS, points)
        self.attention_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens_NSC: Tensor, positions_SC: Tensor, reference_1SL2: Tensor, levels: Levels) -> Tensor:
        attended = self.attention(tokens_NSC + positions_SC, tokens_NSC, reference_1SL2, levels)
        tokens = self.attention_norm(tokens_NSC + self.dropout(attended))
        return self.final_norm(tokens + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(tokens))))))


class PixelDecoder(nn.Module):
    """Computes attended features at strides 32, 16, 8 and mask embeddings at stride 4 from backbone features.

    Args:
        channels: Channels of the backbone's four maps, strides 4, 8, 16, 32.
        dim: C, channels of the output.
        layers: Number of deformable attention layers.
    """

    def __init__(
        self, channels: tuple[int, ...], dim: int, heads: int, layers: int, points: int, ffn_dim: int, dropout: float
    ):
        super().__init__()
        groups = math.gcd(32, dim)
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(groups, dim)) for width in channels[:0:-1]
        )
        self.level_embedding = nn.Embedding(LEVELS, dim)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, points, ffn_dim, dropout) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, 1, bias=False), nn.GroupNorm(groups, dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(groups, dim), nn.ReLU(inplace=True)
        )
        self.mask_projection = nn.Conv2d(dim, dim, 1)
        for projection, _ in self.input_projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for conv in (self.lateral[0], self.output[0], self.mask_projection):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, features: tuple[Tensor, ...]) -> PixelFeatures:
        """Decode ``features``, the backbone's maps ``[N, channels[i], H / s, W / s]``, s = 4, 8, 16, 32."""
        maps = [project(x) for project, x in zip(self.input_projections, features[:0:-1], strict=True)]
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        device, dim = maps[0].device, maps[0].shape[1]
        levels = Levels.of(shapes, device)

        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        positions, reference = [], []
        for (height, width), level in zip(shapes, self.level_embedding.weight, strict=True):
            positions.append(grid_positions(height, width, dim, device).flatten(0, 1) + level)
            y = (torch.arange(height, device=device) + 0.5) / height
            x = (torch.arange(width, device=device) + 0.5) / width
            reference.append(torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).flatten(0, 1))
        positions_SC, reference_S2 = torch.cat(positions), torch.cat(reference)
        reference_1SL2 = reference_S2[None, :, None].expand(-1, -1, LEVELS, -1)
        for layer in self.layers:
            tokens = layer(tokens, positions_SC, reference_1SL2, levels)
        attended = tokens.split(levels.lengths, dim=1)

        finest = attended[-1].transpose(1, 2).unflatten(2, shapes[-1])
        lateral = self.lateral(features[0])
        merged = lateral + F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        coarse, middle, fine = (x.unflatten(1, shape) for x, shape in zip(attended, shapes, strict=True))
        return PixelFeatures(coarse, middle, fine, self.mask_projection(self.output(merged)))
