"""Every backbone builds, gives its four strides, and follows the configuration's freezing."""

import pytest
import torch
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models.backbone import Backbone, MobileNetV2
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.weights.files import read_state_dict, save_safetensors
from tiny import every_mask
from transformers import MobileNetV2Config, MobileNetV2Model

NAMES = ("tiny", "mobilenet_v2", "resnet50", "resnet101", "swin-t", "swin-s", "swin-b", "swin-l")


@pytest.mark.parametrize("name", NAMES)
def test_every_model_builds_and_runs_on_the_meta_device(name):
    config = ModelConfig(backbone=BackboneConfig(name), encoder_layers=1, decoder_layers=1, num_queries=3)
    with torch.device("meta"):
        model = VideoMask2Former(config, num_classes=4)
        features = model.backbone(torch.empty(2, 3, 64, 96, dtype=torch.uint8))
        prediction = model(torch.empty(1, 2, 3, 64, 96, dtype=torch.uint8))
    strides = [(64 // x.shape[2], 96 // x.shape[3]) for x in features]
    assert strides == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert tuple(x.shape[1] for x in features) == model.backbone.channels
    assert prediction.logits_LBQK.shape == (2, 1, 3, 5)
    assert every_mask(prediction).shape == (2, 1, 3, 2, 16, 24)


def test_tiny_is_tiny():
    assert sum(p.numel() for p in Backbone(BackboneConfig("tiny")).parameters()) < 15_000


@pytest.mark.parametrize("training", [False, True])
def test_mobilenet_equals_transformers(training):
    torch.manual_seed(0)
    theirs = MobileNetV2Model(MobileNetV2Config(tf_padding=True), add_pooling_layer=False)
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    ours = MobileNetV2()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and all(name.startswith("conv_1x1.") for name in unexpected)
    pixels = torch.randn(2, 3, 96, 128)
    theirs.train(training)
    ours.train(training)
    with torch.no_grad():
        states = theirs(pixels, output_hidden_states=True).hidden_states
        features = ours(pixels)
    for index, feature in zip((1, 4, 11, 15), features, strict=True):
        torch.testing.assert_close(feature, states[index], atol=1e-4, rtol=1e-4)


def test_weights_come_from_a_file_and_freeze_the_batch_norms(tmp_path):
    file = tmp_path / "mobilenet.safetensors"
    source = Backbone(BackboneConfig("mobilenet_v2"))
    save_safetensors(file, source.net.state_dict() | {"classifier.weight": torch.zeros(2, 2)})
    backbone = Backbone(BackboneConfig("mobilenet_v2", str(file))).train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(n.training or n.weight.requires_grad or n.bias.requires_grad for n in norms)
    assert backbone.net.layer[0].expand_1x1.convolution.weight.requires_grad
    torch.testing.assert_close(dict(backbone.net.state_dict()), dict(source.net.state_dict()))
    # From scratch there are no statistics worth freezing; and a checkpoint is to be loaded without the file.
    assert all(m.training for m in source.train().modules() if isinstance(m, torch.nn.BatchNorm2d))
    file.unlink()
    assert Backbone(BackboneConfig("mobilenet_v2", str(file)), pretrained=False)
    with pytest.raises(CheckpointError, match="no such weights file"):
        Backbone(BackboneConfig("mobilenet_v2", str(file)))


def test_weights_of_another_backbone_are_refused(tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_safetensors(file, Backbone(BackboneConfig("tiny")).net.state_dict())
    with pytest.raises(CheckpointError, match="does not fit"):
        Backbone(BackboneConfig("mobilenet_v2", str(file)))


def test_frozen_norms_are_frozen_from_birth():
    """Not only after train() or eval() was called: else a new model normalizes by the batch it happens to see."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig("mobilenet_v2", frozen=True))
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    each = [backbone(frames[n : n + 1]) for n in range(2)]
    for together, *single in zip(backbone(frames), *each, strict=True):
        torch.testing.assert_close(together, torch.cat(single), rtol=1e-4, atol=1e-4)


def test_a_frozen_backbone_records_no_gradient():
    backbone = Backbone(BackboneConfig("tiny", frozen=True)).train()
    features = backbone(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    assert not any(x.requires_grad for x in features)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_bytes_and_floats_are_the_same_frames():
    backbone = Backbone(BackboneConfig("tiny"))
    frames = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    torch.testing.assert_close(backbone(frames), backbone(frames.float()), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "resnet5"}, "^name is 'resnet5', did you mean resnet50"),
        ({"name": "tiny", "weights": "hub"}, "^weights: the hub has no weights for 'tiny'"),
        ({"name": "swin-t", "stride_in_1x1": True}, "^stride_in_1x1: for ResNets only"),
    ],
)
def test_malformed_configuration(given, message):
    with pytest.raises(ConfigError, match=message):
        BackboneConfig(**given)


@pytest.mark.realdata
def test_imagenet_weights_are_used_to_the_last_key(real_data):
    imagenet = real_data / "weights" / "mobilenet_v2_imagenet.safetensors"
    backbone = Backbone(BackboneConfig("mobilenet_v2", str(imagenet)))
    file, own = read_state_dict(imagenet), backbone.net.state_dict()
    beyond_stride_32 = {name for name in file if name.startswith("conv_1x1.")}
    assert set(file) - beyond_stride_32 == {name for name in own if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(file[name], own[name]) for name in set(file) & set(own))


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)missing.pth: no such weights file.*--model.backbone.weights FILE"):
        Backbone(BackboneConfig(name="tiny", weights=str(tmp_path / "missing.pth")))
