"""Weights of other programs: the same numbers come out, nothing is lost in silence, and ours run elsewhere.

transformers' Mask2Former is the oracle. The names of detectron2, torchvision, Caffe2 and the original Swin are written
down here once more, from their sources, and the networks behind them as far as the tables could go wrong with them.
"""

import json
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from mfvis.cli import main
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models import backbone as backbones
from mfvis.models.backbone import Backbone, BackboneConfig
from mfvis.models.convert import ConvertConfig, run
from mfvis.models.foreign import to_detectron2, to_ours
from mfvis.models.mask2former import ModelConfig, VideoMask2Former
from mfvis.models.weights import read_weights, save_safetensors
from mfvis.train import checkpoint
from mfvis.types import Category
from torch import nn
from transformers import (
    AutoBackbone,
    ConvNextBackbone,
    ConvNextConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

CLASSES = 5
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
DEPTHS, WIDTHS = (2, 1, 1, 1), {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64]}
FAULTS = ("missing", "unexpected", "re-initialised")
CATEGORIES = [Category(n + 1, f"class {n}") for n in range(CLASSES)]


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch):
    monkeypatch.setitem(backbones._SWIN, "swin-t", SWIN)
    monkeypatch.setitem(backbones._RESNET_DEPTHS, "resnet50", DEPTHS)
    monkeypatch.setattr(backbones, "ResNetConfig", partial(ResNetConfig, **WIDTHS))


def shaken(module: nn.Module) -> nn.Module:
    """With numbers in every tensor that a mistake would show in."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.8, 1.2)
    return module.eval()


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


def ours(name: str, classes: int = CLASSES) -> VideoMask2Former:
    config = ModelConfig(
        BackboneConfig(name), hidden_dim=32, heads=4, encoder_layers=2, encoder_ffn_dim=48, decoder_layers=3,
        decoder_ffn_dim=40, queries=6,
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
    torch.testing.assert_close(prediction.masks_LBQTHW[0, :, :, 0], masks, atol=1e-4, rtol=0)


def assert_same(feature: torch.Tensor, wanted: torch.Tensor) -> None:
    """Sums in another order differ in the last bits of the largest values."""
    assert wanted.std() > 0.1
    torch.testing.assert_close(feature, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


# ---- Names as the other programs have them, from transformers' -----------------------------------------------------


def original_swin_names(state: dict) -> dict:
    """Of microsoft/Swin-Transformer, with the output norms of Mask2Former's backbone."""
    named = {}
    for name, value in state.items():
        parts = name.split(".")
        if name.startswith("swin.layernorm"):
            continue
        if name.startswith("hidden_states_norms"):
            named[f"norm{int(parts[1][-1]) - 1}.{parts[2]}"] = value
        elif "embeddings" in name:
            named[f"patch_embed.{'proj' if 'projection' in name else 'norm'}.{parts[-1]}"] = value
        elif "downsample" in name:
            named[f"layers.{parts[3]}.{'.'.join(parts[4:])}"] = value
        else:
            block, inner = f"layers.{parts[3]}.blocks.{parts[5]}", ".".join(parts[6:])
            if inner.startswith("attention.q_proj"):
                both = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                named[f"{block}.attn.qkv.{parts[-1]}"] = torch.cat(both)
            elif not inner.startswith(("attention.k_proj", "attention.v_proj")):
                inner = inner.replace("attention.o_proj", "attn.proj").replace("layernorm_before", "norm1")
                inner = inner.replace("layernorm_after", "norm2").replace("attention.relative_position_bias.", "attn.")
                named[f"{block}.{inner}"] = value
    return named


def resnet_names(state: dict, program: str) -> dict:
    """Of "torchvision" or "detectron2"."""
    named = {}
    for name, value in state.items():
        parts, leaf = name.split("."), name.split(".")[-1]
        norm = "normalization" in name
        if program == "torchvision":
            if parts[0] == "embedder":
                new = f"bn1.{leaf}" if norm else "conv1.weight"
            else:
                new = f"layer{int(parts[2]) + 1}.{parts[4]}."
                if parts[5] == "shortcut":
                    new += f"downsample.{int(norm)}.{leaf}"
                else:
                    new += f"{'bn' if norm else 'conv'}{int(parts[6]) + 1}.{leaf}"
        elif leaf == "num_batches_tracked":
            continue
        else:
            if parts[0] == "embedder":
                new = "stem.conv1"
            else:
                conv = "shortcut" if parts[5] == "shortcut" else f"conv{int(parts[6]) + 1}"
                new = f"res{int(parts[2]) + 2}.{parts[4]}.{conv}"
            new += f".norm.{leaf}" if norm else f".{leaf}"
        named[new] = value
    return named


def detectron2_names(theirs: Mask2FormerForUniversalSegmentation) -> dict:
    """What detectron2's Mask2Former calls the tensors of transformers'."""
    state, named = theirs.state_dict(), {}
    head, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    encoder = {k.removeprefix("model.pixel_level_module.encoder."): v for k, v in state.items() if ".encoder." in k}
    encoder = {k: v for k, v in encoder.items() if not k.startswith("model.")}
    swin = any("swin" in name for name in encoder)
    backbone = original_swin_names(encoder) if swin else resnet_names(encoder, "detectron2")
    named |= {f"backbone.{name}": value for name, value in backbone.items()}
    for name, value in state.items():
        leaf = name.split(".")[-1]
        if name.startswith("model.pixel_level_module.decoder."):
            inner = name.removeprefix("model.pixel_level_module.decoder.")
            for old, new in (
                ("input_projections", "input_proj"), ("level_embed", "transformer.level_embed"),
                ("encoder.layers", "transformer.encoder.layers"), ("self_attn_layer_norm", "norm1"),
                ("final_layer_norm", "norm2"), ("fc1", "linear1"), ("fc2", "linear2"),
                ("mask_projection", "mask_features"), ("adapter_1.0", "adapter_1"), ("adapter_1.1", "adapter_1.norm"),
                ("layer_1.0", "layer_1"), ("layer_1.1", "layer_1.norm"),
            ):  # fmt: skip
                inner = inner.replace(old, new)
            named[head + inner] = value
        elif name.startswith("model.transformer_module.decoder.layers."):
            i, inner = name.split(".")[4], ".".join(name.split(".")[5:])
            cross, own = f"transformer_cross_attention_layers.{i}", f"transformer_self_attention_layers.{i}"
            ffn = f"transformer_ffn_layers.{i}"
            if inner.startswith("self_attn.q_proj"):
                qkv = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                named[f"{predictor}{own}.self_attn.in_proj_{leaf}"] = torch.cat(qkv)
            elif not inner.startswith(("self_attn.k_proj", "self_attn.v_proj")):
                new = {
                    "self_attn.out_proj": f"{own}.self_attn.out_proj", "self_attn_layer_norm": f"{own}.norm",
                    "cross_attn.out_proj": f"{cross}.multihead_attn.out_proj", "cross_attn_layer_norm": f"{cross}.norm",
                    "fc1": f"{ffn}.linear1", "fc2": f"{ffn}.linear2", "final_layer_norm": f"{ffn}.norm",
                }.get(inner.removesuffix(f".{leaf}"))  # fmt: skip
                named[f"{predictor}{new}.{leaf}" if new else f"{predictor}{cross}.multihead_attn.{leaf}"] = value
    query = "model.transformer_module."
    for old, new in (
        (query + "queries_features", "query_feat"), (query + "queries_embedder", "query_embed"),
        (query + "level_embed", "level_embed"), (query + "decoder.layernorm", "decoder_norm"),
        ("class_predictor", "class_embed"),
        *((f"{query}decoder.mask_predictor.mask_embedder.{n}.0", f"mask_embed.layers.{n}") for n in range(3)),
    ):  # fmt: skip
        named |= {predictor + new + k.removeprefix(old): v for k, v in state.items() if k.startswith(old + ".")}
    return named | {"criterion.empty_weight": torch.ones(CLASSES + 1)}


def names_of_transformers_4(state: dict) -> dict:
    """As the checkpoints of the hub have them."""
    changes = (
        ("encoder.swin.", "encoder."), (".q_proj", ".self.query"), (".k_proj", ".self.key"),
        (".v_proj", ".self.value"), ("attention.relative_position_bias.", "attention.self."),
        ("attention.o_proj", "attention.output.dense"), (".mlp.fc1", ".intermediate.dense"),
        (".mlp.fc2", ".output.dense"),
    )  # fmt: skip
    old = {}
    for name, value in state.items():
        if "pixel_level_module.encoder" in name:
            if "swin.layernorm" in name:
                continue
            for new, before in changes:
                name = name.replace(new, before)
        old[name] = value
    return old | {f"{n.rpartition('.')[0]}.relative_position_index": torch.zeros(3) for n in old if "bias_table" in n}


def arrays(state: dict) -> dict:
    return {name: value.detach().numpy() for name, value in state.items()}


def write(path, kind: str, state: dict) -> None:
    state = OrderedDict((name, value.detach().clone()) for name, value in state.items())
    if kind == "training.pth":
        torch.save({"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "iteration": 9}, path)
    elif kind == "legacy.pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "arrays.pkl":
        path.write_bytes(pickle.dumps({"model": arrays(state), "__author__": "someone"}, protocol=2))
    elif kind == "tensors.pkl":
        path.write_bytes(pickle.dumps({"model": state, "__author__": "third_party", "matching_heuristics": True}))
    elif kind == "distributed.pth":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        save_safetensors(path, state)


# ---- Whole models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_transformers_mask2former_gives_its_outputs(theirs, version, tmp_path):
    name, model = theirs
    state = model.state_dict() if version == 5 else names_of_transformers_4(model.state_dict())
    save_safetensors(tmp_path / "model.safetensors", state)
    twin = ours(name)
    said = checkpoint.start_from(tmp_path / "model.safetensors", twin, CATEGORIES)
    assert "transformers' Mask2Former" in said and not any(
        word in said for word in ("missing", "unexpected", "re-init")
    )
    assert "criterion.empty_weight" in said
    assert_same_outputs(twin, model)


def test_a_folder_of_transformers_and_a_model_of_the_hub(theirs, tmp_path, monkeypatch):
    name, model = theirs
    model.save_pretrained(tmp_path)
    twin = ours(name)
    checkpoint.start_from(tmp_path, twin, CATEGORIES)
    assert_same_outputs(twin, model)

    def download(repository: str, file: str) -> str:
        if repository == "someone/unreachable":
            raise LocalEntryNotFoundError("no connection, and not in the cache")
        if repository != "someone/mask2former":
            raise OSError("no such repository")
        if not (tmp_path / file).is_file():
            raise EntryNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    twin = ours(name)
    checkpoint.start_from("someone/mask2former", twin, CATEGORIES)
    assert_same_outputs(twin, model)
    for repository, reason in (("someone/else", "no such repo"), ("someone/unreachable", "no connection")):
        with pytest.raises(CheckpointError, match=f"{repository}: no such file, .*hub does not give it .{reason}"):
            checkpoint.start_from(repository, twin, CATEGORIES)
    with pytest.raises(CheckpointError, match="runs/none.pth: no such weights file"):  # not a name on the hub
        checkpoint.start_from("runs/none.pth", twin, CATEGORIES)


@pytest.mark.parametrize(
    "kind", ["training.pth", "legacy.pth", "arrays.pkl", "tensors.pkl", "distributed.pth", "plain.safetensors"]
)
def test_detectron2_mask2former_gives_the_outputs_of_transformers(theirs, kind, tmp_path):
    name, model = theirs
    write(tmp_path / kind, kind, detectron2_names(model))
    twin = ours(name)
    said = checkpoint.start_from(tmp_path / kind, twin, CATEGORIES)
    assert "detectron2's Mask2Former" in said and not any(word in said for word in FAULTS)
    assert "5 classes are taken for those of the data" in said and "1 left out (criterion.empty_weight)" in said
    assert ("batch norms" in said) == (name == "resnet50")
    assert_same_outputs(twin, model)


def test_names_before_version_2(theirs, tmp_path):
    name, model = theirs
    old = {
        k.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): v
        for k, v in detectron2_names(model).items()
    }
    assert not any("pixel_decoder" in k or "query_feat" in k for k in old)
    write(tmp_path / "arrays.pkl", "arrays.pkl", old)
    twin = ours(name)
    checkpoint.start_from(tmp_path / "arrays.pkl", twin, CATEGORIES)
    assert_same_outputs(twin, model)


def test_other_classes_get_a_head_of_their_own(theirs, tmp_path):
    name, model = theirs
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    twin = ours(name, classes=3)
    before = twin.decoder.class_head.weight.clone()
    said = checkpoint.start_from(tmp_path / "arrays.pkl", twin, CATEGORIES[:3])
    assert "2 re-initialised (decoder.class_head.weight [6, 32] for [4, 32]" in said
    assert torch.equal(twin.decoder.class_head.weight, before)
    assert torch.equal(twin.decoder.query_features.weight, model.model.transformer_module.queries_features.weight)


def test_a_poor_match_is_refused_and_changes_nothing(theirs, tmp_path):
    name, model = theirs
    other = ours("resnet50" if name == "swin-t" else "swin-t")
    before = {k: v.clone() for k, v in other.state_dict().items()}
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    with pytest.raises(CheckpointError, match=r"arrays.pkl: does not fit the model: .* missing .* unexpected"):
        checkpoint.start_from(tmp_path / "arrays.pkl", other, CATEGORIES)
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


# ---- Ours in detectron2's names ------------------------------------------------------------------------------------

# The parameters of the modules in facebookresearch/Mask2Former and detectron2, for one layer and block of each kind.
BOTH = ("weight", "bias")
HEAD = [
    *(f"sem_seg_head.pixel_decoder.input_proj.{level}.{n}.{x}" for level in range(3) for n in (0, 1) for x in BOTH),
    "sem_seg_head.pixel_decoder.transformer.level_embed",
    *(
        f"sem_seg_head.pixel_decoder.transformer.encoder.layers.0.{module}.{x}"
        for module in (
            "self_attn.sampling_offsets", "self_attn.attention_weights", "self_attn.value_proj",
            "self_attn.output_proj", "norm1", "linear1", "linear2", "norm2",
        )
        for x in BOTH
    ),
    *(f"sem_seg_head.pixel_decoder.mask_features.{x}" for x in BOTH),
    *(
        f"sem_seg_head.pixel_decoder.{conv}.{x}"
        for conv in ("adapter_1", "layer_1") for x in ("weight", "norm.weight", "norm.bias")
    ),
    *(
        f"sem_seg_head.predictor.{module}.{x}"
        for module in (
            "transformer_self_attention_layers.0.self_attn.out_proj", "transformer_self_attention_layers.0.norm",
            "transformer_cross_attention_layers.0.multihead_attn.out_proj", "transformer_cross_attention_layers.0.norm",
            "transformer_ffn_layers.0.linear1", "transformer_ffn_layers.0.linear2", "transformer_ffn_layers.0.norm",
            "decoder_norm", "class_embed", "mask_embed.layers.0", "mask_embed.layers.1", "mask_embed.layers.2",
        )
        for x in BOTH
    ),
    *(f"sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_{x}" for x in BOTH),
    *(f"sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_{x}" for x in BOTH),
    *(f"sem_seg_head.predictor.{module}.weight" for module in ("query_feat", "query_embed", "level_embed")),
]  # fmt: skip
NORM = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
RESNET = [
    *(f"backbone.stem.conv1.{x}" for x in ("weight", *NORM)),
    *(
        f"backbone.res{stage}.0.{conv}.{x}"
        for stage in (2, 3, 4, 5) for conv in ("shortcut", "conv1", "conv2", "conv3") for x in ("weight", *NORM)
    ),
]  # fmt: skip
SWIN_NAMES = [
    *(f"backbone.patch_embed.{module}.{x}" for module in ("proj", "norm") for x in BOTH),
    *(f"backbone.layers.{s}.blocks.0.attn.relative_position_bias_table" for s in range(4)),
    *(
        f"backbone.layers.{s}.blocks.0.{module}.{x}"
        for s in range(4) for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for x in BOTH
    ),
    *(f"backbone.layers.{s}.downsample.reduction.weight" for s in range(3)),
    *(f"backbone.layers.{s}.downsample.norm.{x}" for s in range(3) for x in BOTH),
    *(f"backbone.norm{s}.{x}" for s in range(4) for x in BOTH),
]  # fmt: skip


@pytest.mark.parametrize(("name", "backbone"), [("resnet50", RESNET), ("swin-t", SWIN_NAMES)])
def test_the_names_are_those_of_the_published_modules(name, backbone, monkeypatch):
    monkeypatch.setitem(backbones._SWIN, "swin-t", SWIN | {"depths": (1, 1, 1, 1)})
    monkeypatch.setitem(backbones._RESNET_DEPTHS, "resnet50", (1, 1, 1, 1))
    model = VideoMask2Former(ModelConfig(BackboneConfig(name), hidden_dim=32, encoder_layers=1, decoder_layers=1), 4)
    named, homeless = to_detectron2(model.state_dict())
    assert sorted(named) == sorted(HEAD + backbone)
    assert not homeless


@pytest.mark.parametrize(
    ("name", "ending"), [("swin-t", ".pkl"), ("swin-t", ".pth"), ("swin-t", ".safetensors"), ("resnet50", ".pkl")]
)
def test_there_and_back_bit_for_bit(name, ending, tmp_path, capsys):
    torch.manual_seed(2)
    model = shaken(ours(name))
    save_safetensors(tmp_path / "ours.safetensors", model.state_dict())
    run(ConvertConfig(str(tmp_path / "ours.safetensors"), tmp_path / f"theirs{ending}", to="detectron2", heads=4))
    run(ConvertConfig(str(tmp_path / f"theirs{ending}"), tmp_path / "back.safetensors", heads=4))
    assert f"{name}, 5 classes, 6 queries, 3 decoder layers, width 32" in capsys.readouterr().out
    back = read_weights(tmp_path / "back.safetensors").tensors
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert set(back) == set(expected)
    assert all(torch.equal(back[k], expected[k]) for k in expected)


class _Versioned(nn.Module):
    """As Mask2Former's head: a file that says no version is taken for an old one and renamed."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.version = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_detectron2_sees_the_version_it_needs(ending, tmp_path):
    save_safetensors(tmp_path / "ours.safetensors", ours("resnet50").state_dict())
    file = tmp_path / f"theirs{ending}"
    run(ConvertConfig(str(tmp_path / "ours.safetensors"), file, to="detectron2", heads=4))
    content = pickle.loads(file.read_bytes()) if ending == ".pkl" else torch.load(file, weights_only=True)
    assert content["__author__"] == "mfvis"  # so detectron2 does not guess names
    head = _Versioned(predictor=_Versioned())
    _Versioned(sem_seg_head=head, backbone=(norm := _Versioned())).load_state_dict(content["model"], strict=False)
    assert (head.version, head.predictor.version) == (2, 2)
    assert norm.version is None, "a frozen batch norm of a named version would take eps from the variances"


def test_what_detectron2_cannot_hold_is_said(tmp_path, capsys):
    prompted = ModelConfig(
        BackboneConfig("resnet50"), hidden_dim=32, encoder_layers=1, decoder_layers=1, box_prompts=True
    )
    save_safetensors(tmp_path / "prompted.safetensors", VideoMask2Former(prompted, 2).state_dict())
    run(ConvertConfig(str(tmp_path / "prompted.safetensors"), tmp_path / "out.pkl", to="detectron2"))
    assert "5 tensors left out (prompts.embedding.weight" in capsys.readouterr().out
    tiny = VideoMask2Former(ModelConfig(BackboneConfig("tiny"), hidden_dim=32, encoder_layers=1, decoder_layers=1), 2)
    save_safetensors(tmp_path / "tiny.safetensors", tiny.state_dict())
    with pytest.raises(CheckpointError, match="no place for .* tensors .*ResNet or Swin"):
        run(ConvertConfig(str(tmp_path / "tiny.safetensors"), tmp_path / "tiny.pkl", to="detectron2"))
    assert not (tmp_path / "tiny.pkl").exists()


# ---- Backbones -----------------------------------------------------------------------------------------------------


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


FRAMES = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["torchvision.pth", "detectron2.pkl", "original.safetensors"])
def test_imagenet_resnets(kind, torchvision_resnet, tmp_path):
    state = torchvision_resnet
    backbone = Backbone(BackboneConfig("resnet50"))
    if kind == "torchvision.pth":
        torch.save(OrderedDict(state | {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)}), tmp_path / kind)
    else:
        net = backbone.net.state_dict()
        known = to_ours(state).backbone
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
        for feature, wanted in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, wanted)


def caffe_names(state: dict) -> dict:
    """Of detectron2's R-50.pkl of MSRA: Caffe2's blobs, whose batch norms are a scale and a bias."""
    named = {}
    for name, value in state.items():
        parts, leaf = name.split("."), name.split(".")[-1]
        if leaf not in BOTH:
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
        for feature, wanted in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, wanted)
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
        for feature, wanted in zip(backbone(FRAMES[:1]), expected, strict=True):
            assert_same(feature[0], wanted)


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


def test_a_backbone_alone_starts_a_training(torchvision_resnet, tmp_path, capsys):
    torch.save(torchvision_resnet, tmp_path / "r50.pth")
    model = ours("resnet50")
    before = model.decoder.query_features.weight.clone()
    said = checkpoint.start_from(tmp_path / "r50.pth", model, CATEGORIES)
    assert (
        "torchvision's ResNet" in said
        and "the backbone alone" in said
        and "batch norms are trained on" in said
        and "missing" not in said
    )
    stem = model.backbone.net.embedder.embedder.convolution.weight
    assert torch.equal(stem, torchvision_resnet["conv1.weight"])
    assert torch.equal(model.decoder.query_features.weight, before)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.start_from(tmp_path / "r50.pth", ours("swin-t"), CATEGORIES)
    run(ConvertConfig(str(tmp_path / "r50.pth"), tmp_path / "r50.pkl", to="detectron2"))
    run(ConvertConfig(str(tmp_path / "r50.pkl"), tmp_path / "r50.safetensors"))
    assert "the backbone alone, resnet50" in capsys.readouterr().out
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
        for feature, wanted in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, wanted)


def test_any_backbone_of_the_hub(tmp_path):
    torch.manual_seed(6)
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=STAGES)
    net = shaken(ConvNextBackbone(config))
    folder = tmp_path / "organisation" / "convnext"
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    config = BackboneConfig(str(folder), "hub")
    backbone = Backbone(config).eval()
    assert backbone.channels == (8, 16, 24, 32)
    with torch.no_grad():
        expected = net((FRAMES / 255 - 0.5) / 0.25).feature_maps
        for feature, wanted in zip(backbone(FRAMES), expected, strict=True):
            assert_same(feature, wanted)
    with torch.device("meta"):
        assert Backbone(config, pretrained=False).channels == backbone.channels
    # A checkpoint with it is read as any other.
    model = VideoMask2Former(ModelConfig(config, hidden_dim=32, encoder_layers=1, decoder_layers=1, queries=2), 2)
    save_safetensors(tmp_path / "model.safetensors", model.state_dict())
    twin = VideoMask2Former(model.config, 2, pretrained=False)
    checkpoint.start_from(tmp_path / "model.safetensors", twin, CATEGORIES[:2])
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
    ConvNextBackbone(ConvNextConfig(patch_size=2, hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(
        tmp_path / "fine"
    )
    with pytest.raises(ConfigError, match=r"gives maps at strides \[2, 4, 8, 16\]; 4, 8, 16 and 32 are needed"):
        Backbone(BackboneConfig(str(tmp_path / "fine")))
    with pytest.raises(ConfigError, match="none cannot be had as a backbone"):
        Backbone(BackboneConfig(str(tmp_path / "none")))


# ---- The command ---------------------------------------------------------------------------------------------------


def test_a_model_of_detectron2_becomes_a_run(theirs, tmp_path, capsys):
    name, model = theirs
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    classes = tmp_path / "classes.json"
    categories = [{"id": c.id, "name": c.name} for c in CATEGORIES]
    classes.write_text(json.dumps({"videos": [], "annotations": [], "categories": categories}))
    arguments = ["convert", str(tmp_path / "arrays.pkl"), "--heads", "4", "--classes", str(classes)]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "tensors loaded" in said and f"{name}, 5 classes, 6 queries" in said
    twin, loaded, _ = checkpoint.load_model(tmp_path / "run")
    assert [c.name for c in loaded] == [c.name for c in CATEGORIES]
    assert_same_outputs(twin, model)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2  # it does not write over a training
    assert main(["convert", str(tmp_path / "run"), "--to", "detectron2", "--out", str(tmp_path / "again.pkl")]) == 0
    again, expected = read_weights(tmp_path / "again.pkl").tensors, to_ours(detectron2_names(model)).tensors
    assert set(again) == set(expected) and all(torch.equal(again[k], expected[k]) for k in again)


def test_incomplete_and_strange_weights_are_refused(tmp_path, theirs):
    _, model = theirs
    state = detectron2_names(model)
    del state["sem_seg_head.predictor.decoder_norm.bias"]
    write(tmp_path / "less.safetensors", "", state)
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=r"not a whole model: .*1 missing \(decoder.norm.bias\)"):
        run(ConvertConfig(str(tmp_path / "less.safetensors"), out, heads=4))
    with pytest.raises(CheckpointError, match="give --heads"):
        run(ConvertConfig(str(tmp_path / "less.safetensors"), out, heads=5))
    write(tmp_path / "strange.safetensors", "", {"a.weight": torch.ones(2), "b.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="a backbone that is none of tiny, .*nearest is"):
        run(ConvertConfig(str(tmp_path / "strange.safetensors"), out))
    qkv = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
    write(tmp_path / "cut.safetensors", "", state | {qkv: torch.ones(7)})
    with pytest.raises(CheckpointError, match="in_proj_bias: shape .7.; queries, keys and values"):
        run(ConvertConfig(str(tmp_path / "cut.safetensors"), out, heads=4))
    assert not out.exists()


@pytest.mark.parametrize(
    "given",
    [
        {"out": "a.pkl"},
        {"out": "a.bin", "to": "detectron2"},
        {"out": "a.safetensors", "classes": "ytvis2019"},
        {"out": "a", "classes": "ytvis2019", "to": "detectron2"},
        {"out": "a.safetensors", "heads": 0},
    ],
)
def test_bad_flags(given):
    with pytest.raises(ConfigError):
        ConvertConfig("in.pkl", **(given | {"out": Path(given["out"])}))
