"""The pixel decoder of Mask2Former (Cheng et al., CVPR 2022): deformable attention over the feature maps at strides 32,
16 and 8 (Zhu et al., "Deformable DETR", ICLR 2021), then one step of a feature pyramid to stride 4. Frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis_ext import ms_deform_attn

LEVELS = 3
"""Feature maps that are attended to: strides 32, 16, 8, in this order everywhere."""


@dataclass(frozen=True)
class PixelFeatures:
    """What the pixel decoder hands on, for N frames."""

    levels_NSC: tuple[Tensor, ...]
    """Per level ``[N, h * w, C]``, strides 32, 16, 8."""
    shapes: tuple[tuple[int, int], ...]
    """(h, w) of each level."""
    mask_NCHW: Tensor
    """Per-pixel embeddings at stride 4; their dot product with a query's mask embedding is its mask logit."""


def sine_encoding(angle: Tensor, features: int) -> Tensor:
    """Sines and cosines of an angle at falling frequencies: ``[...]`` radians -> ``[..., features]``.

    Temperature 10000, sines at the even and cosines at the odd places (Vaswani et al., 2017; DETR's normalised form
    takes angles up to 2 pi).
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


class DeformableAttention(nn.Module):
    """Each token attends to a few points around its own place in each level, found by a linear layer."""

    def __init__(self, dim: int, heads: int, points: int):
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * LEVELS * points * 2)
        self.attention_weights = nn.Linear(dim, heads * LEVELS * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        # The points start on rays, one direction per head, at 1, 2, ... cells from the token.
        theta = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack((theta.cos(), theta.sin()), dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = ray[:, None, None] * steps[:, None]
        self.sampling_offsets.bias.copy_(start.expand(self.heads, LEVELS, self.points, 2).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        tokens_NSC: Tensor,
        positions_SC: Tensor,
        reference_S2: Tensor,
        sizes_L2: Tensor,
        shapes_L2: Tensor,
        starts_L: Tensor,
    ) -> Tensor:
        count, length, dim = tokens_NSC.shape
        query = tokens_NSC + positions_SC
        offsets = self.sampling_offsets(query).view(count, length, self.heads, LEVELS, self.points, 2)
        weights = self.attention_weights(query).view(count, length, self.heads, LEVELS * self.points).softmax(-1)
        attended = ms_deform_attn(
            self.value_proj(tokens_NSC).view(count, length, self.heads, dim // self.heads),
            shapes_L2,
            starts_L,
            reference_S2[:, None, None, None] + offsets / sizes_L2[:, None],
            weights.view(count, length, self.heads, LEVELS, self.points),
        )
        return self.output_proj(attended)


class EncoderLayer(nn.Module):
    """Deformable attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, dim: int, heads: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, points)
        self.attention_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens_NSC: Tensor, *places: Tensor) -> Tensor:
        tokens = self.attention_norm(tokens_NSC + self.dropout(self.attention(tokens_NSC, *places)))
        return self.final_norm(tokens + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(tokens))))))


class PixelDecoder(nn.Module):
    """Backbone features in, attended features at strides 32, 16, 8 and mask embeddings at stride 4 out.

    Args:
        channels: Of the backbone's four maps, strides 4, 8, 16, 32.
        dim: C, the width of everything that follows.
        layers: Of deformable attention.
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
        """``features``: the backbone's maps ``[N, channels[i], H / s, W / s]``, s = 4, 8, 16, 32."""
        maps = [project(x) for project, x in zip(self.input_projections, features[:0:-1], strict=True)]
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        lengths = [height * width for height, width in shapes]
        device, dim = maps[0].device, maps[0].shape[1]

        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        positions, reference = [], []
        for (height, width), level in zip(shapes, self.level_embedding.weight, strict=True):
            positions.append(grid_positions(height, width, dim, device).flatten(0, 1) + level)
            y = (torch.arange(height, device=device) + 0.5) / height
            x = (torch.arange(width, device=device) + 0.5) / width
            reference.append(torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).flatten(0, 1))
        # Nothing is copied to the device, which would have to be waited for: the operator reads shapes and starts on
        # the CPU, and the levels' (w, h) are written where they are needed.
        shapes_L2 = torch.tensor(shapes, device="cpu")
        starts_L = torch.tensor([sum(lengths[:level]) for level in range(LEVELS)], device="cpu")
        sizes = [torch.full((), float(side), device=device) for height, width in shapes for side in (width, height)]
        sizes_L2 = torch.stack(sizes).view(LEVELS, 2)
        places = (torch.cat(positions), torch.cat(reference), sizes_L2, shapes_L2, starts_L)
        for layer in self.layers:
            tokens = layer(tokens, *places)
        levels = tokens.split(lengths, dim=1)

        finest = levels[-1].transpose(1, 2).unflatten(2, shapes[-1])
        lateral = self.lateral(features[0])
        merged = lateral + F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(levels, shapes, self.mask_projection(self.output(merged)))
