"""Models that are small enough to be converted in every test, and what it means that two agree."""

import torch
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.types import Category
from tiny import every_mask
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation

CLASSES = 5
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
DEPTHS, WIDTHS = (2, 1, 1, 1), {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64]}
CATEGORIES = [Category(n + 1, f"class {n}") for n in range(CLASSES)]


def shaken(module: nn.Module) -> nn.Module:
    """With numbers in every tensor that a mistake would show in."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.8, 1.2)
    return module.eval()


def ours(name: str, classes: int = CLASSES) -> VideoMask2Former:
    config = ModelConfig(
        backbone=BackboneConfig(name), hidden_dim=32, num_heads=4, encoder_layers=2, encoder_ffn_dim=48,
        decoder_layers=3, decoder_ffn_dim=40, num_queries=6,
    )  # fmt: skip
    return VideoMask2Former(config, classes).eval()


def assert_same_outputs(model: VideoMask2Former, theirs: Mask2FormerForUniversalSegmentation) -> None:
    frames = torch.randint(0, 256, (2, 1, 3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs((frames[:, 0] - model.backbone.mean) / model.backbone.std)
        prediction = model(frames, last_only=True)
    masks = expected.masks_queries_logits
    assert masks.std() > 0.1 and expected.class_queries_logits.std() > 0.1
    torch.testing.assert_close(prediction.logits_LBQK[0], expected.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(every_mask(prediction)[0, :, :, 0], masks, atol=1e-4, rtol=0)


def assert_same(feature: torch.Tensor, expected: torch.Tensor) -> None:
    """Sums in another order differ in the last bits of the largest values."""
    assert expected.std() > 0.1
    torch.testing.assert_close(feature, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
