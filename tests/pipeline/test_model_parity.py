"""At T = 1 the model is transformers' Mask2Former: same weights, same numbers, after every decoder layer."""

import pytest
import torch
from mfvis.models import backbone
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.weights.files import load_weights
from mfvis.weights.foreign import from_foreign
from tiny import every_mask
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

CLASSES = 5


@pytest.fixture(scope="module")
def twins():
    """Theirs and ours with the same random weights. Scaled up, so that masks and classes differ from query to query."""
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    swin = SwinConfig(**small, out_features=["stage1", "stage2", "stage3", "stage4"])
    theirs = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=swin, feature_size=64, mask_feature_size=64, hidden_dim=64, encoder_feedforward_dim=96,
            dim_feedforward=80, encoder_layers=2, decoder_layers=5, num_attention_heads=4, num_queries=7,
            num_labels=CLASSES, output_auxiliary_logits=True,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    config = ModelConfig(
        backbone=BackboneConfig("swin-t"), hidden_dim=64, num_heads=4, encoder_layers=2, encoder_ffn_dim=96,
        decoder_layers=4, decoder_ffn_dim=80, num_queries=7,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.SWINS, "swin-t", small)
        ours = VideoMask2Former(config, CLASSES).eval()
    report = load_weights(ours, from_foreign(theirs.state_dict()).tensors, "transformers")
    assert not report.missing and not report.unexpected
    return theirs, ours


def test_one_frame_equals_the_image_model(twins):
    theirs, ours = twins
    frames = torch.randint(0, 256, (2, 1, 3, 96, 128), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        pixels = (frames[:, 0] - ours.backbone.mean) / ours.backbone.std
        expected = theirs(pixels, output_auxiliary_logits=True)
        prediction = ours(frames)
    logits = [a["class_queries_logits"] for a in expected.auxiliary_logits] + [expected.class_queries_logits]
    masks = [a["masks_queries_logits"] for a in expected.auxiliary_logits] + [expected.masks_queries_logits]
    logits, masks = torch.stack(logits), torch.stack(masks)
    assert prediction.logits_LBQK.shape == (5, 2, 7, CLASSES + 1)
    assert every_mask(prediction).shape == (5, 2, 7, 1, 24, 32)
    assert masks.std() > 0.1 and logits.std() > 0.1, "a degenerate model would agree with anything"
    assert (masks > 0).float().mean(dim=(-1, -2)).std() > 0.01, "masked attention must have something to mask"
    torch.testing.assert_close(prediction.logits_LBQK, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(every_mask(prediction)[:, :, :, 0], masks, atol=1e-4, rtol=0)
