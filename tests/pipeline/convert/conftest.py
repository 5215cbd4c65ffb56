"""The small backbones that all of these tests convert, and transformers' Mask2Former, their oracle."""

from functools import partial

import pytest
import torch
from foreign_models import CLASSES, DEPTHS, STAGES, SWIN, WIDTHS, shaken
from mfvis.models import backbone as backbones
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch):
    monkeypatch.setitem(backbones.SWINS, "swin-t", SWIN)
    monkeypatch.setitem(backbones.RESNETS, "resnet50", DEPTHS)
    monkeypatch.setattr(backbones, "ResNetConfig", partial(ResNetConfig, **WIDTHS))


@pytest.fixture(scope="module", params=["swin-t", "resnet50"])
def theirs(request):
    """``(name of the backbone, transformers' Mask2Former with it)``."""
    torch.manual_seed(0)
    if request.param == "swin-t":
        config = SwinConfig(**SWIN, out_features=STAGES)
    else:
        config = ResNetConfig(depths=DEPTHS, out_features=STAGES, **WIDTHS)
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=config, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=48,
            dim_feedforward=40, encoder_layers=2, decoder_layers=4, num_attention_heads=4, num_queries=6,
            num_labels=CLASSES,
        )
    )  # fmt: skip
    return request.param, shaken(model)
