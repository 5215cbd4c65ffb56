"""Backbones of other programs against networks written out under their own names."""

import json
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from foreign_models import CATEGORIES, DEPTHS, STAGES, SWIN, WIDTHS, assert_same, ours, shaken
from foreign_names import arrays, detectron2_names, original_swin_names, resnet_names, write
from mfvis.convert import run
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train import checkpoint
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import read_weights, save_safetensors
from mfvis.weights.foreign import from_foreign
from transformers import (
    AutoBackbone,
    ConvNextBackbone,
    ConvNextConfig,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

FRAMES = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def resnet_features(state: dict, pixels: torch.Tensor, stride_in_1x1: bool) -> list[torch.Tensor]:
    """A ResNet with bottlenecks under torchvision's names, written out."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        values = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-5)

    x = F.relu(norm(F.conv2d(pixels, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    features = []
    for stage, depth in enumerate(DEPTHS, start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            y = F.relu(norm(F.conv2d(x, state[f"{at}.conv1.weight"], stride=first), f"{at}.bn1"))
            y = F.relu(norm(F.conv2d(y, state[f"{at}.conv2.weight"], stride=second, padding=1), f"{at}.bn2"))
            y = norm(F.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = F.relu(x + y)
        features.append(x)
    return features


@pytest.fixture(scope="module")
def torchvision_resnet() -> dict:
    torch.manual_seed(3)
    net = shaken(AutoBackbone.from_config(ResNetConfig(depths=DEPTHS, out_features=STAGES, **WIDTHS)))
    return {k: v.detach() for k, v in resnet_names(net.state_dict(), "torchvision").items()}


@pytest.mark.parametrize("kind", ["torchvision.pth", "detectron2.pkl", "original.safetensors"])
def test_imagenet_resnets(kind, torchvision_resnet, tmp_path):
    state = torchvision_resnet
    backbone = Backbone(BackboneConfig("resnet50"))
    if kind == "torchvision.pth":
        torch.save(OrderedDict(state | {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}), tmp_path / kind)
    else:
        net = backbone.net.state_dict()
        known = from_foreign(state).backbone
        assert set(known) == set(net)
        if kind == "detectron2.pkl":  # as its tool writes torchvision's
            named = resnet_names(known, "detectron2") | {"stem.fc.weight": torch.zeros(9, 64)}
            content = {"model": arrays(named), "__author__": "torchvision", "matching_heuristics": True}
            (tmp_path / kind).write_bytes(pickle.dumps(content))
        else:  # transformers' classifier
            named = {f"resnet.{k}": v for k, v in known.items()} | {"classifier.1.weight": torch.zeros(9, 64)}
            save_safetensors(tmp_path / kind, named)
    backbone = Backbone(BackboneConfig("resnet50", str(tmp_path / kind)))
    with torch.no_grad():
        expected = resnet_features(state, (FRAMES - backbone.mean) / backbone.std, stride_in_1x1=False)
        for feature, reference in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, reference)


def caffe_names(state: dict) -> dict:
    """Tensors named as in detectron2's R-50.pkl of MSRA: Caffe2 blobs, whose batch norms are a scale and a bias."""
    named = {}
    for name, value in state.items():
        parts, leaf = name.split("."), name.split(".")[-1]
        if leaf not in ("weight", "bias"):
            continue
        blob = "w" if value.dim() == 4 else {"weight": "bn_s", "bias": "bn_b"}[leaf]
        if not name.startswith("layer"):
            named["conv1_w" if blob == "w" else f"res_conv1_{blob}"] = value
        else:
            branch = "1" if parts[2] == "downsample" else f"2{'abc'[int(parts[2][-1]) - 1]}"
            named[f"res{int(parts[0][-1]) + 1}_{parts[1]}_branch{branch}_{blob}"] = value
    return named | {"conv1_b": torch.zeros(8), "fc1000_w": torch.zeros(9, 64), "fc1000_b": torch.zeros(9)}


def test_caffe_resnets_see_bgr_and_stride_early(torchvision_resnet, tmp_path):
    state = dict(torchvision_resnet)
    state["conv1.weight"] = state["conv1.weight"] / 60  # pixels come undivided there
    for name in state:
        if name.endswith("running_mean"):
            state[name] = torch.zeros_like(state[name])
        elif name.endswith("running_var"):
            state[name] = torch.ones_like(state[name]) - 1e-5
    file = tmp_path / "R-50.pkl"
    # Python 2 wrote strings of bytes, which arrive as text of latin-1
    file.write_bytes(pickle.dumps(arrays(caffe_names(state)), protocol=2).replace(b"numpy._core", b"numpy.core"))
    with pytest.raises(CheckpointError, match="strides in the first 1x1 of a stage; set .*stride_in_1x1 to True"):
        Backbone(BackboneConfig("resnet50", str(file)))
    backbone = Backbone(BackboneConfig("resnet50", str(file), stride_in_1x1=True))
    blue_first = FRAMES.flip(1) - torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    with torch.no_grad():
        expected = resnet_features(state, blue_first, stride_in_1x1=True)
        for feature, reference in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, reference)
    run(ConvertConfig(str(file), tmp_path / "caffe.safetensors"))  # ours remember it
    with pytest.raises(CheckpointError, match="strides in the first 1x1"):
        Backbone(BackboneConfig("resnet50", str(tmp_path / "caffe.safetensors")))
    again = Backbone(BackboneConfig("resnet50", str(tmp_path / "caffe.safetensors"), stride_in_1x1=True))
    torch.testing.assert_close(again.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    torch.save(torchvision_resnet, tmp_path / "r50.pth")
    with pytest.raises(CheckpointError, match="torchvision's ResNet does not stride .* to False"):
        Backbone(BackboneConfig("resnet50", str(tmp_path / "r50.pth"), stride_in_1x1=True))


def swin_features(state: dict, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Swin under its original names, written out: attention within shifted windows, one window at a time."""
    size, shift = SWIN["window_size"], SWIN["window_size"] // 2

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def attend(x: torch.Tensor, region: torch.Tensor, name: str, heads: int) -> torch.Tensor:
        """One window, ``[size, size, C]``; pixels of other regions are not seen."""
        tokens, region = x.flatten(0, 1), region.flatten()
        q, k, v = layer(tokens, f"{name}.qkv").unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        place = torch.cartesian_prod(torch.arange(size), torch.arange(size))
        offset = place[:, None] - place[None] + size - 1
        bias = state[f"{name}.relative_position_bias_table"][offset[..., 0] * (2 * size - 1) + offset[..., 1]]
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias.permute(2, 0, 1)
        scores = scores.masked_fill(region[:, None] != region[None], -100.0 - 1e4)
        return layer((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), f"{name}.proj").view_as(x)

    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)[0].permute(1, 2, 0)
    x = norm(x, "patch_embed.norm")
    features = []
    for stage, (depth, heads) in enumerate(zip(SWIN["depths"], SWIN["num_heads"], strict=True)):
        for block in range(depth):
            at, by = f"layers.{stage}.blocks.{block}", shift * (block % 2)
            height, width = x.shape[:2]
            y = F.pad(norm(x, f"{at}.norm1"), (0, 0, 0, -width % size, 0, -height % size))
            rows, columns = (
                torch.arange(n).ge(n - size).int() + torch.arange(n).ge(n - by).int() * (by > 0) for n in y.shape[:2]
            )
            region = (rows[:, None] * 3 + columns) * (by > 0)
            y = y.roll((-by, -by), (0, 1))
            out = torch.empty_like(y)
            for i in range(0, y.shape[0], size):
                for j in range(0, y.shape[1], size):
                    window = (slice(i, i + size), slice(j, j + size))
                    out[window] = attend(y[window], region[window], f"{at}.attn", heads)
            x = x + out.roll((by, by), (0, 1))[:height, :width]
            x = x + layer(F.gelu(layer(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
        features.append(norm(x, f"norm{stage}").permute(2, 0, 1))
        if stage < 3:
            merged = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            x = layer(norm(merged, f"layers.{stage}.downsample.norm"), f"layers.{stage}.downsample.reduction")
    return features


@pytest.mark.parametrize("norms", [True, False])
def test_original_swins(norms, tmp_path):
    torch.manual_seed(4)
    net = shaken(AutoBackbone.from_config(SwinConfig(**SWIN, out_features=STAGES)))
    state = {k: v.detach() for k, v in original_swin_names(net.state_dict()).items()}
    file_state = (
        state if norms else {k: v for k, v in state.items() if not k.startswith(tuple(f"norm{s}." for s in range(4)))}
    )
    extra = {
        "norm.weight": torch.ones(128), "norm.bias": torch.zeros(128), "head.weight": torch.zeros(9, 128),
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
    }  # fmt: skip
    torch.save({"model": file_state | extra}, tmp_path / "swin.pth")
    backbone = Backbone(BackboneConfig("swin-t", str(tmp_path / "swin.pth"))).eval()
    if not norms:  # the classifier has none: they start as layer norms do
        for stage in range(4):
            width = len(state[f"norm{stage}.weight"])
            state |= {f"norm{stage}.weight": torch.ones(width), f"norm{stage}.bias": torch.zeros(width)}
    with torch.no_grad():
        expected = swin_features(state, (FRAMES[:1] - backbone.mean) / backbone.std)
        for feature, reference in zip(backbone(FRAMES[:1]), expected, strict=True):
            assert_same(feature[0], reference)


@pytest.mark.parametrize("name", ["swin-t", "resnet50", "mobilenet_v2"])
def test_classifiers_of_the_hub(name, tmp_path):
    """As "hub" finds them; saving gives them the names that they are published under."""
    torch.manual_seed(7)
    classifier = {
        "swin-t": lambda: SwinForImageClassification(SwinConfig(**SWIN)),
        "resnet50": lambda: ResNetForImageClassification(ResNetConfig(depths=DEPTHS, **WIDTHS)),
        "mobilenet_v2": lambda: MobileNetV2ForImageClassification(MobileNetV2Config()),
    }[name]()
    classifier.save_pretrained(tmp_path)
    own = Backbone(BackboneConfig(name, str(tmp_path))).net.state_dict()
    theirs = classifier.state_dict()
    prefix = "" if name == "swin-t" else f"{classifier.base_model_prefix}."
    compared = {k for k in own if not k.startswith("hidden_states_norms.")}
    assert len(compared) > 50
    assert all(torch.equal(own[k], theirs[prefix + k]) for k in compared)


def test_only_a_backbone_starts_a_training(torchvision_resnet, tmp_path, capsys):
    torch.save(torchvision_resnet, tmp_path / "r50.pth")
    model = ours("resnet50")
    before = model.decoder.query_features.weight.clone()
    said = checkpoint.initialize_from(tmp_path / "r50.pth", model, CATEGORIES)
    assert (
        "torchvision's ResNet" in said
        and "only the backbone" in said
        and "batch norms are trained on" in said
        and "missing" not in said
    )
    stem = model.backbone.net.embedder.embedder.convolution.weight
    assert torch.equal(stem, torchvision_resnet["conv1.weight"])
    assert torch.equal(model.decoder.query_features.weight, before)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.initialize_from(tmp_path / "r50.pth", ours("swin-t"), CATEGORIES)
    run(ConvertConfig(str(tmp_path / "r50.pth"), tmp_path / "r50.pkl", to="detectron2"))
    run(ConvertConfig(str(tmp_path / "r50.pkl"), tmp_path / "r50.safetensors"))
    assert "only the backbone, resnet50" in capsys.readouterr().out
    assert torch.equal(
        read_weights(tmp_path / "r50.safetensors").backbone["embedder.embedder.convolution.weight"], stem
    )


def test_the_backbone_of_a_whole_model(theirs, tmp_path):
    name, model = theirs
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    backbone = Backbone(BackboneConfig(name, str(tmp_path / "arrays.pkl"))).eval()
    encoder = model.model.pixel_level_module.encoder
    with torch.no_grad():
        expected = encoder((FRAMES - backbone.mean) / backbone.std).feature_maps
        for feature, reference in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, reference)


def test_any_backbone_of_the_hub(tmp_path):
    torch.manual_seed(6)
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=STAGES)
    net = shaken(ConvNextBackbone(config))
    folder = tmp_path / "organization" / "convnext"
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    config = BackboneConfig(str(folder), "hub")
    backbone = Backbone(config).eval()
    assert backbone.channels == (8, 16, 24, 32)
    with torch.no_grad():
        expected = net((FRAMES / 255 - 0.5) / 0.25).feature_maps
        for feature, reference in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, reference)
    with torch.device("meta"):
        assert Backbone(config, pretrained=False).channels == backbone.channels
    # A checkpoint with it is read as any other.
    model = VideoMask2Former(
        ModelConfig(backbone=config, hidden_dim=32, encoder_layers=1, decoder_layers=1, num_queries=2), 2
    )
    save_safetensors(tmp_path / "model.safetensors", model.state_dict())
    twin = VideoMask2Former(model.config, 2, pretrained=False)
    checkpoint.initialize_from(tmp_path / "model.safetensors", twin, CATEGORIES[:2])
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
    ConvNextBackbone(ConvNextConfig(patch_size=2, hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(
        tmp_path / "fine"
    )
    with pytest.raises(ConfigError, match=r"gives maps at strides \[2, 4, 8, 16\]; 4, 8, 16 and 32 are needed"):
        Backbone(BackboneConfig(str(tmp_path / "fine")))
    with pytest.raises(ConfigError, match="none cannot be had as a backbone"):
        Backbone(BackboneConfig(str(tmp_path / "none")))
