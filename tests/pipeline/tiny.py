"""A model and settings of label mode that are small enough to be run in every test, untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mfvis.labeling.config import LabelConfig, RefineConfig
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train.optim_config import OptimConfig
from mfvis.types import Category, Prediction
from mfvis.weights.files import save_safetensors
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


def tiny_label_config(data: Path, folder: Path, **settings: Any) -> LabelConfig:
    """Settings of a run over `data` with one step and a frozen backbone, whose weights are written to `folder`."""
    torch.manual_seed(0)
    weights = folder / "tiny.safetensors"
    save_safetensors(weights, Backbone(BackboneConfig("tiny")).net.state_dict())
    small: dict[str, Any] = {
        "device": "cpu",
        "overlays": False,
        "num_models": 1,
        "shared_steps": 2,
        "short_side": 64,
        "clip": 2,
        "backbone": BackboneConfig("tiny", weights=str(weights), frozen=True),
        "optim": OptimConfig(steps=1),
        "propagation": BackgroundPropagationConfig(weight=0),
        "refine": RefineConfig(steps=0),
    }
    return LabelConfig(data, **small | {"out": folder / "labels"} | settings)


def every_mask(prediction: Prediction) -> Tensor:
    """Mask logits ``[L, B, Q, T, H, W]`` of all queries, at all layers."""
    layers, clips = prediction.logits_LBQK.shape[:2]
    return torch.stack(
        [torch.stack([prediction.masks.all_queries(layer, clip) for clip in range(clips)]) for layer in range(layers)]
    )
