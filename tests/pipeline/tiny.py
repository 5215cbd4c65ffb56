"""A model that is small enough to be run in every test, untrained."""

from __future__ import annotations

import torch
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.types import Category, Prediction
from torch import Tensor

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))
TINY = ModelConfig(
    backbone=BackboneConfig(name="tiny"),
    hidden_dim=16,
    num_heads=2,
    encoder_layers=1,
    encoder_ffn_dim=16,
    decoder_layers=2,
    decoder_ffn_dim=16,
    num_queries=5,
)


def tiny_model() -> VideoMask2Former:
    torch.manual_seed(0)
    return VideoMask2Former(TINY, len(CATEGORIES)).eval()


def every_mask(prediction: Prediction) -> Tensor:
    """Mask logits ``[L, B, Q, T, H, W]`` of all queries, at all layers."""
    layers, clips = prediction.logits_LBQK.shape[:2]
    return torch.stack(
        [torch.stack([prediction.masks.all_queries(layer, clip) for clip in range(clips)]) for layer in range(layers)]
    )
