"""Encoder of SeqFormer: that of Deformable DETR, over strides 8, 16, 32 and 64 of each frame independently."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.models.deformable_attention import DeformableAttention, Levels

LEVELS = 4
"""Number of feature maps: strides 8, 16, 32 and 64, always in this order."""


@dataclass(frozen=True)
class EncodedFrames:
    """Attended features of N frames, and their padding."""

    tokens_NSC: Tensor
    levels: Levels
    padding_NS: Tensor
    """bool: tokens outside the frame."""
    valid_NL2: Tensor
    """Share (width, height) of each level's map that lies inside the frame."""


class Encoder(nn.Module):
    """Computes attended tokens of four levels from backbone maps.

    Args:
        channels: Channels of the backbone's maps at strides 8, 16 and 32.
        dim: C, channels of the tokens.
    """

    def __init__(
        self, channels: tuple[int, ...], dim: int, heads: int, layers: int, points: int, ffn_dim: int, dropout: float
    ):
        super().__init__()
        groups = math.gcd(32, dim // 2)  # 32 of the published sizes; at least two channels each
        convolutions = [nn.Conv2d(width, dim, 1) for width in channels]
        convolutions.append(nn.Conv2d(channels[-1], dim, 3, stride=2, padding=1))
        self.input_projections = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(groups, dim)) for conv in convolutions)
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, points, ffn_dim, dropout) for _ in range(layers))
        for conv in convolutions:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: tuple[Tensor, ...], padding_NHW: Tensor) -> EncodedFrames:
        """Encode maps at strides 8, 16 and 32. ``padding_NHW``: bool at the frames' resolution, True in the padding."""
        # The fourth level is computed from the backbone's last map, not from its projection.
        maps = [project(x) for project, x in zip(self.input_projections, (*maps, maps[-1]), strict=True)]
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        levels = Levels.of(shapes, maps[0].device)
        paddings = [F.interpolate(padding_NHW[:, None].float(), size=shape)[:, 0] > 0.5 for shape in shapes]
        positions = [
            sine_positions(padding, maps[0].shape[1]).flatten(1, 2) + level
            for padding, level in zip(paddings, self.level_embedding, strict=True)
        ]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        positions_NSC, padding_NS = torch.cat(positions, 1), torch.cat([p.flatten(1) for p in paddings], 1)
        valid_NL2 = torch.stack([_valid_share(padding) for padding in paddings], 1)
        reference_NSL2 = _references(shapes, valid_NL2)
        for layer in self.layers:
            tokens = layer(tokens, positions_NSC, reference_NSL2, levels, padding_NS)
        return EncodedFrames(tokens, levels, padding_NS, valid_NL2)


class EncoderLayer(nn.Module):
    """Deformable attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, dim: int, heads: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, LEVELS, points)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, ffn_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens_NSC: Tensor, positions_NSC: Tensor, reference_NSL2: Tensor, levels: Levels, padding_NS: Tensor
    ) -> Tensor:
        attended = self.attention(tokens_NSC + positions_NSC, tokens_NSC, reference_NSL2, levels, padding_NS)
        return self.feed_forward(self.attention_norm(tokens_NSC + self.dropout(attended)))


class FeedForward(nn.Module):
    """Two linear layers with a residual and a layer norm."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(x))))))


def sine_positions(padding_NHW: Tensor, features: int) -> Tensor:
    """2-D sine positions ``[N, h, w, features]`` of the cells inside each frame: the first half from y, then x.

    As in Deformable DETR, coordinates start at half a cell (in Mask2Former at one). Rows of only padding have huge
    angles, whose sines depend on the last bit, so the operations are in the order of the original code.
    """
    inside = (~padding_NHW).float()
    index = torch.arange(features // 2, device=inside.device, dtype=torch.float32)
    period = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / (features // 2))
    encoded = []
    for axis in (1, 2):
        count = inside.cumsum(axis)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        phase = ((count - 0.5) / (last + 1e-6) * (2 * math.pi))[..., None] / period
        encoded.append(torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(encoded, -1)


def _valid_share(padding_NHW: Tensor) -> Tensor:
    """Share (width, height) of the map inside the frame, ``[N, 2]``."""
    inside = (~padding_NHW).float()
    return torch.stack([inside[:, 0].mean(1), inside[:, :, 0].mean(1)], 1)


def _references(shapes: tuple[tuple[int, int], ...], valid_NL2: Tensor) -> Tensor:
    """The center of every cell as a point of each level, ``[N, S, L, 2]``, 0..1 over the padded maps."""
    points = []
    for level, (height, width) in enumerate(shapes):
        y = torch.arange(height, device=valid_NL2.device) + 0.5
        x = torch.arange(width, device=valid_NL2.device) + 0.5
        cells = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)
        size = torch.stack([torch.full_like(valid_NL2[:, level, 0], side) for side in (width, height)], -1)
        points.append(cells / (valid_NL2[:, level] * size)[:, None])
    return torch.cat(points, 1)[:, :, None] * valid_NL2[:, None]
