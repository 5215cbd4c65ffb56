"""Masked-attention decoder of Mask2Former over all frames of a clip (Cheng et al., "Mask2Former for Video Instance
Segmentation", arXiv 2112.10764). A query represents one object in all frames, and its mask is one tube."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.models.pixel_decoder import LEVELS, PixelFeatures, grid_positions, sine_encoding
from mfvis.types import Prediction


@dataclass(frozen=True)
class Queries:
    """Initial queries of the decoder."""

    features_BQC: Tensor
    positions_BQC: Tensor
    attend_BQS: Tensor | None = None
    """bool, attention mask of the first layer over S = T h w positions at stride 32; None: from the queries' masks."""


def clip_positions(frames: int, height: int, width: int, features: int, device: torch.device) -> Tensor:
    """3-D sine positions of a clip, ``[T, h, w, features]``: the 2-D positions plus an encoding of the frame index.

    At T = 1 the encoding of the frame is constant over all keys. It shifts all attention logits of a query equally and
    cancels in the softmax, so the outputs are those of the image model without it.
    """
    t = torch.arange(1, frames + 1, device=device) * (2 * math.pi / (frames + 1e-6))
    return grid_positions(height, width, features, device) + sine_encoding(t, features)[:, None, None]


class Attention(nn.Module):
    """Multi-head attention in one fused call."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, query_BQC: Tensor, key_BSC: Tensor, value_BSC: Tensor, attend_BQS: Tensor | None = None
    ) -> Tensor:
        """Attend to the keys. ``attend_BQS``: bool, True where a query may attend; None: everywhere."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query_BQC), (self.k_proj, key_BSC), (self.v_proj, value_BSC))
        )
        mask = None if attend_BQS is None else attend_BQS[:, None]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network, each with a residual and a layer norm."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.cross_attention = Attention(dim, heads, dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, features_BQC: Tensor, positions_BQC: Tensor, key_BSC: Tensor, value_BSC: Tensor, attend_BQS: Tensor
    ) -> Tensor:
        x = features_BQC
        x = self.cross_norm(x + self.dropout(self.cross_attention(x + positions_BQC, key_BSC, value_BSC, attend_BQS)))
        placed = x + positions_BQC
        x = self.self_norm(x + self.dropout(self.self_attention(placed, placed, x)))
        return self.final_norm(x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(x))))))


@dataclass(frozen=True)
class DotProductMasks:
    """`MaskSource` of dot products of a query's mask embedding with the pixel embeddings of its clip."""

    embeddings_LBQC: Tensor
    clips_BTHWC: tuple[Tensor, ...]
    """Pixel embeddings ``[T, H, W, C]`` of each clip. The gradient of one tensor for all clips would be filled with
    zeros for each of them."""

    def select(self, clip: int, query_LM: Tensor, frames: slice = slice(None)) -> Tensor:
        layer = torch.arange(len(query_LM), device=query_LM.device)[:, None]
        return self._masks(self.embeddings_LBQC[layer, clip, query_LM], self.clips_BTHWC[clip][frames])

    def all_queries(self, layer: int, clip: int) -> Tensor:
        return self._masks(self.embeddings_LBQC[layer, clip], self.clips_BTHWC[clip])

    @staticmethod
    def _masks(embeddings: Tensor, pixels_THWC: Tensor) -> Tensor:
        # The precision is that of the embeddings, hence of the decoder's autocast.
        return torch.einsum("...c,thwc->...thw", embeddings, pixels_THWC.to(embeddings.dtype))


class MaskedAttentionDecoder(nn.Module):
    """Decodes queries to classes and mask tubes after every layer.

    Args:
        dim: C, channels of queries and pixel features.
        queries: Number of learned queries.
        num_classes: K, without "no object".
    """

    def __init__(self, dim: int, heads: int, layers: int, ffn_dim: int, queries: int, num_classes: int, dropout: float):
        super().__init__()
        self.query_features = nn.Embedding(queries, dim)
        self.query_positions = nn.Embedding(queries, dim)
        self.level_embedding = nn.Embedding(LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn_dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embedder = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        self.class_head = nn.Linear(dim, num_classes + 1)

    def learned_queries(self, batch: int) -> Queries:
        """The learned queries for each of ``batch`` clips."""
        return Queries(
            self.query_features.weight.expand(batch, -1, -1), self.query_positions.weight.expand(batch, -1, -1)
        )

    def forward(self, pixels: PixelFeatures, queries: Queries, last_only: bool = False) -> Prediction:
        """Decode B clips, whose B * T frames are concatenated in ``pixels``.

        Args:
            last_only: Return only the last layer's prediction (L = 1).
        """
        batch = queries.features_BQC.shape[0]
        frames = pixels.mask_NCHW.shape[0] // batch
        values, keys, coarse = [], [], []
        for (height, width), tokens, level in zip(
            pixels.shapes, pixels.levels_NSC, self.level_embedding.weight, strict=True
        ):
            value = (tokens + level).reshape(batch, frames * height * width, -1)
            values.append(value)
            keys.append(value + clip_positions(frames, height, width, value.shape[-1], value.device).flatten(0, 2))
            # Masks and downsampling are linear: downsample the pixel embeddings once instead of every mask.
            with torch.no_grad():
                small = F.interpolate(pixels.mask_NCHW, size=(height, width), mode="bilinear", align_corners=False)
                coarse.append(small.permute(0, 2, 3, 1).reshape(batch, frames * height * width, -1))

        x = queries.features_BQC
        outputs = [self.norm(x)]
        for index, layer in enumerate(self.layers):
            level = index % LEVELS
            if index == 0 and queries.attend_BQS is not None:
                attend = queries.attend_BQS
            else:
                # Detached afterwards, not under no_grad: until torch 2.10 at least, autocast caches weights that it
                # casts there, and the mask embeddings below would then not train them.
                attend = self.mask_embedder(outputs[-1]).detach() @ coarse[level].transpose(1, 2) >= 0
            # A query whose attention mask is empty attends everywhere.
            attend = attend | ~attend.any(-1, keepdim=True)
            x = layer(x, queries.positions_BQC, keys[level], values[level], attend)
            outputs.append(self.norm(x))

        decoded_LBQC = torch.stack(outputs[-1:] if last_only else outputs)
        pixels_BTHWC = pixels.mask_NCHW.permute(0, 2, 3, 1).unflatten(0, (batch, frames))
        masks = DotProductMasks(self.mask_embedder(decoded_LBQC), pixels_BTHWC.unbind())
        return Prediction(self.class_head(decoded_LBQC), masks, decoded_LBQC)
