"""Queries made from box tubes: query n represents the object in tube n, so no matching is needed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mfvis.models.decoder import Queries
from mfvis.models.pixel_decoder import PixelFeatures, sine_encoding
from mfvis.types import BoxPrompts


def _overlap(low: Tensor, high: Tensor, cells: int, size: float) -> Tensor:
    """``[...] -> [..., cells]``: fraction of each of the equal cells of ``0..size`` that lies in ``low..high``."""
    edge = torch.arange(cells + 1, device=low.device) * (size / cells)
    covered = torch.minimum(high[..., None], edge[1:]) - torch.maximum(low[..., None], edge[:-1])
    return covered.clamp(min=0) * (cells / size)


class BoxPromptEncoder(nn.Module):
    """Encodes box tubes as queries.

    Features are a learned embedding plus a projection of the stride-8 features, averaged inside the tube by exact area.
    Positions are a projection of the sine encodings of center and size, averaged over the frames with a box. The first
    decoder layer attends to the inside of the tube.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(1, dim)
        self.feature_projection = nn.Linear(dim, dim)
        self.position_projection = nn.Linear(2 * dim, dim)

    def forward(self, prompts: BoxPrompts, pixels: PixelFeatures, height: int, width: int) -> Queries:
        """Encode the prompts. ``height``, ``width``: size of the frames in pixels, the unit of the prompts' boxes."""
        x1, y1, x2, y2 = prompts.boxes_BQT4.float().unbind(-1)
        x1, x2, y1, y2 = x1.clamp(min=0), x2.clamp(max=width), y1.clamp(min=0), y2.clamp(max=height)
        present_BQT = (x2 > x1) & (y2 > y1) & prompts.valid_BQ[..., None]
        batch, _, frames = present_BQT.shape

        def inside(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
            rows_BQTH = _overlap(y1, y2, shape[0], height) * present_BQT[..., None]
            return rows_BQTH, _overlap(x1, x2, shape[1], width)

        rows, columns = inside(pixels.shapes[-1])
        features_BTHWC = pixels.levels_NSC[-1].unflatten(1, pixels.shapes[-1]).unflatten(0, (batch, frames))
        area = torch.einsum("bqth,bqtw->bq", rows, columns)
        pooled = torch.einsum("bqth,bqtw,bthwc->bqc", rows, columns, features_BTHWC)
        pooled = pooled / area.clamp(min=1e-6)[..., None]

        half = self.embedding.embedding_dim // 2
        coordinates = ((y1 + y2) / (2 * height), (x1 + x2) / (2 * width), (y2 - y1) / height, (x2 - x1) / width)
        encoded = torch.cat([sine_encoding(2 * math.pi * coordinate, half) for coordinate in coordinates], dim=-1)
        count = present_BQT.sum(-1, keepdim=True).clamp(min=1)
        position = (encoded * present_BQT[..., None]).sum(2) / count

        rows, columns = inside(pixels.shapes[0])
        attend = (rows[..., :, None] > 0) & (columns[..., None, :] > 0)
        return Queries(
            self.embedding.weight + self.feature_projection(pooled),
            self.position_projection(position),
            attend.flatten(2),
        )
