"""Deformable attention over several feature levels (Zhu et al., "Deformable DETR", ICLR 2021, eq. 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfvis_ext import ms_deform_attn


@dataclass(frozen=True)
class Levels:
    """Sizes of the feature maps whose cells are concatenated to S tokens."""

    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level."""
    shapes_L2: Tensor
    """int64 copy of `shapes` on the CPU, where the operator reads it."""
    starts_L: Tensor
    """int64 on the CPU: index of the first token of each level."""
    sizes_L2: Tensor
    """float (width, height) of each level, on the device."""

    @staticmethod
    def of(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Levels:
        """Create the levels from their shapes."""
        lengths = [height * width for height, width in shapes]
        # The sizes are filled on the device, as a copy to it would synchronize.
        sizes = [torch.full((), float(side), device=device) for height, width in shapes for side in (width, height)]
        return Levels(
            shapes,
            torch.tensor(shapes, device="cpu"),
            torch.tensor([sum(lengths[:level]) for level in range(len(shapes))], device="cpu"),
            torch.stack(sizes).view(len(shapes), 2),
        )

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each level."""
        return [height * width for height, width in self.shapes]


class DeformableAttention(nn.Module):
    """Attention of each query to a few points per level around its reference; a linear layer predicts their offsets.

    Args:
        dim: C, channels of queries and tokens.
        heads: Number of attention heads; must divide `dim`.
        levels: Number of feature levels.
        points: Points per head and level.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        # Initially the points are on rays, one direction per head, at 1, 2, ... cells from the reference.
        theta = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack((theta.cos(), theta.sin()), dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = ray[:, None, None] * steps[:, None]
        self.sampling_offsets.bias.copy_(start.expand(self.heads, self.levels, self.points, 2).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query_NQC: Tensor,
        tokens_NSC: Tensor,
        reference_NQL4: Tensor,
        levels: Levels,
        padding_NS: Tensor | None = None,
    ) -> Tensor:
        """Attend to the tokens: `sample`, then the output projection, ``[N, Q, C]``."""
        return self.output_proj(self.sample(query_NQC, tokens_NSC, reference_NQL4, levels, padding_NS))

    def sample(
        self,
        query_NQC: Tensor,
        tokens_NSC: Tensor,
        reference_NQL4: Tensor,
        levels: Levels,
        padding_NS: Tensor | None = None,
    ) -> Tensor:
        """Weighted sums of the sampled values, ``[N, Q, C]``.

        Args:
            query_NQC: Queries including their positions.
            tokens_NSC: Tokens of all levels.
            reference_NQL4: Reference of each query in each level, 0..1 over the padded map: points (x, y), or boxes
                (cx, cy, w, h), for which offsets are relative to half the box size. N may be 1.
            levels: Sizes of the levels.
            padding_NS: bool; the values of these tokens are 0.
        """
        count, length, dim = query_NQC.shape
        offsets = self.sampling_offsets(query_NQC).view(count, length, self.heads, self.levels, self.points, 2)
        logits = self.attention_weights(query_NQC).view(count, length, self.heads, self.levels, self.points)
        reference = reference_NQL4[:, :, None, :, None]
        if reference.shape[-1] == 2:
            locations = reference + offsets / levels.sizes_L2[:, None]
        else:
            locations = reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        value_NSC = self.value_proj(tokens_NSC)
        if padding_NS is not None:
            value_NSC = value_NSC.masked_fill(padding_NS[..., None], 0)
        return ms_deform_attn(
            value_NSC.view(count, -1, self.heads, dim // self.heads),
            levels.shapes_L2,
            levels.starts_L,
            locations,
            logits,
            softmax=True,
        )
