"""A model that is small enough to be run in every test, untrained."""

from __future__ import annotations

import torch
from mfvis.models.backbone import BackboneConfig
from mfvis.models.mask2former import ModelConfig, VideoMask2Former
from mfvis.types import Category

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
