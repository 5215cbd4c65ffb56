"""SeqFormer's, VNext's and Deformable DETR's checkpoints, there and back, and starts from models of boxes."""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from foreign_models import shaken
from mfvis.cli import main
from mfvis.convert import run
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models import backbone as backbones
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.seqformer import SeqFormer
from mfvis.train import checkpoint
from mfvis.types import Category
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import read_weights, save_safetensors
from mfvis.weights.foreign import from_foreign
from mfvis.weights.seqformer import to_original
from tiny import every_mask
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

CLASSES = 40
CATEGORIES = tuple(Category(i + 1, f"class {i + 1}") for i in range(CLASSES))
SIZES = ModelConfig(
    name="seqformer",
    backbone=BackboneConfig("resnet50"),
    hidden_dim=64,
    num_heads=4,
    encoder_layers=2,
    encoder_ffn_dim=48,
    decoder_layers=3,
    decoder_ffn_dim=40,
    num_queries=6,
)


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.RESNETS, "resnet50", (1, 1, 1, 1))
    swin = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    monkeypatch.setitem(backbones.SWINS, "swin-t", swin)


def ours(backbone: str = "resnet50", classes: int = CLASSES) -> SeqFormer:
    return SeqFormer(replace(SIZES, backbone=BackboneConfig(backbone)), classes).eval()


def trained(backbone: str = "resnet50", classes: int = CLASSES) -> SeqFormer:
    torch.manual_seed(0)
    return shaken(ours(backbone, classes)).eval()


def assert_same(one: SeqFormer, other: SeqFormer) -> None:
    for (name, value), (_, again) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert name.endswith("num_batches_tracked") or torch.equal(value, again), name


def published(model: SeqFormer) -> dict[str, torch.Tensor]:
    """As the original repository saves it."""
    return to_original(model.state_dict(), vnext=False)


def save(path: Path, state: dict, kind: str) -> None:
    flags = argparse.Namespace(lr=2e-4, dilation=False, lr_drop=[4, 10], backbone="resnet50", nested={"a": None})
    content = {"model": state, "epoch": 11, "args": flags}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


def test_the_names_are_those_of_the_published_files() -> None:
    """Counted in the published files; the ResNet has 12 blocks less here, of 15 entries each."""
    state = published(ours())
    backbone = [name for name in state if name.startswith("detr.backbone.0.body.")]
    aliases = [name for name in state if name.startswith("detr.transformer.decoder.bbox_embed.")]
    assert len(backbone) == 265 - 12 * 15 and len(aliases) == 3 * 6
    per_encoder_layer, per_decoder_layer, others = 18, 40 + 2 + 6 + 6, 36
    assert len(state) == 2 * per_encoder_layer + 3 * per_decoder_layer + others + len(backbone)
    assert 6 * per_encoder_layer + 6 * per_decoder_layer + others + 265 == 733  # entries of the published ResNet-50
    assert state["detr.class_embed.2.weight"].shape == (42, 64)
    assert state["controller.layers.2.weight"].shape == (8 * (2 + 2) + 64 + 8 + 17, 64)
    assert state["detr.transformer.decoder.layers.0.self_attn_box.in_proj_weight"].shape == (192, 64)
    theirs = to_original(ours().state_dict(), vnext=True)
    assert (
        "detr.detr.backbone.0.backbone.res2.0.conv1.norm.running_mean" in theirs
        and "detr.controller.layers.0.bias" in theirs
    )
    assert theirs["detr.detr.class_embed.0.weight"].shape == (40, 64)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_published_checkpoint_starts_a_training(kind: str, tmp_path: Path) -> None:
    model, twin = trained(), ours()
    save(tmp_path / "r50.pth", published(model), kind)
    said = checkpoint.initialize_from(tmp_path / "r50.pth", twin, CATEGORIES)
    assert "(SeqFormer)" in said and "class_embed.2.weight rows 0 and 41" in said
    assert not any(word in said for word in ("missing", "unexpected", "reinitialized"))
    assert_same(model, twin)


def test_flags_in_a_checkpoint_are_dropped_unread(tmp_path: Path) -> None:
    class Run(argparse.Namespace):
        pass

    save(tmp_path / "a.pth", published(ours()), "zip")
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["args"].method = print
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="print"):
        read_weights(tmp_path / "b.pth")


@pytest.mark.parametrize("backbone", ["resnet50", "swin-t"])
@pytest.mark.parametrize(("to", "classes"), [("seqformer", 40), ("seqformer", 7), ("detectron2", 40)])
def test_there_and_back_bit_for_bit(backbone: str, to: str, classes: int, tmp_path: Path, capsys) -> None:
    model = trained(backbone, classes)
    categories = CATEGORIES[:classes]
    file = tmp_path / "classes.json"
    file.write_text(
        json.dumps({"videos": [], "annotations": [], "categories": [{"id": c.id, "name": c.name} for c in categories]})
    )
    save_safetensors(tmp_path / "ours.safetensors", model.state_dict())
    flags = ["--num-heads", "4", "--out"]
    assert main(["convert", str(tmp_path / "ours.safetensors"), "--to", to, *flags, str(tmp_path / "theirs.pth")]) == 0
    assert f"{backbone}, {classes} classes, 6 queries, 3 decoder layers, width 64" in capsys.readouterr().out
    back = ["convert", str(tmp_path / "theirs.pth"), "--classes", str(file), *flags, str(tmp_path / "run")]
    assert main(back) == 0
    again, loaded, _ = checkpoint.load_model(tmp_path / "run")
    assert loaded == categories
    assert_same(model, again)


def test_absent_tensors_and_other_models_are_reported(tmp_path: Path) -> None:
    state = published(trained())
    images = {name: value for name, value in state.items() if "time_attention_weights" not in name}
    images |= {name: torch.zeros(91, *value.shape[1:]) for name, value in images.items() if "class_embed" in name}
    save(tmp_path / "coco.pth", images, "zip")
    twin = ours()
    before = twin.decoder.layers[1].time_weight.weight.clone()
    said = checkpoint.initialize_from(tmp_path / "coco.pth", twin, CATEGORIES)
    assert "12 re-init" in said and "missing" not in said
    assert torch.equal(twin.decoder.layers[1].time_weight.weight, before)
    with pytest.raises(CheckpointError, match="not a whole model: .*6 missing .*mfvis train --init"):
        run(ConvertConfig(str(tmp_path / "coco.pth"), tmp_path / "out.safetensors", num_heads=4))
    other = SeqFormer(replace(SIZES, backbone=BackboneConfig("tiny")), CLASSES)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.initialize_from(tmp_path / "coco.pth", other, CATEGORIES)
    other.config = replace(SIZES, name="mask2former")
    with pytest.raises(CheckpointError, match="weights of a seqformer .SeqFormer., but model.name is mask2former"):
        checkpoint.initialize_from(tmp_path / "coco.pth", other, CATEGORIES)
    tiny = SeqFormer(replace(SIZES, backbone=BackboneConfig("tiny")), 2)
    save_safetensors(tmp_path / "tiny.safetensors", tiny.state_dict())
    with pytest.raises(CheckpointError, match="no place for .* tensors .*ResNet or Swin"):
        run(ConvertConfig(str(tmp_path / "tiny.safetensors"), tmp_path / "t.pth", to="seqformer", num_heads=4))


def test_a_mask2former_has_no_names_of_seqformer(tmp_path: Path) -> None:
    from mfvis.models.mask2former import VideoMask2Former

    model = VideoMask2Former(replace(SIZES, name="mask2former", backbone=BackboneConfig("tiny")), 2)
    save_safetensors(tmp_path / "a.safetensors", model.state_dict())
    with pytest.raises(ConfigError, match="to is seqformer, but .* is a mask2former"):
        run(ConvertConfig(str(tmp_path / "a.safetensors"), tmp_path / "a.pth", to="seqformer", num_heads=4))


# ---- Deformable DETR


@pytest.fixture(scope="module")
def detector() -> DeformableDetrForObjectDetection:
    """transformers' Deformable DETR with box refinement, small and random, its class heads not tied."""
    torch.manual_seed(0)
    resnet = ResNetConfig(depths=(1, 1, 1, 1), out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=resnet,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=40,
        num_queries=6,
        num_labels=CLASSES,
        with_box_refine=True,
        two_stage=False,
    )
    return shaken(DeformableDetrForObjectDetection(config)).eval()


@pytest.mark.parametrize("file", ["state", "saved"])
def test_a_single_frame_s_instance_queries_are_the_detector_s(detector, file: str, tmp_path: Path) -> None:
    """Queries, boxes and classes, at every layer, of transformers' model and its files."""
    if file == "saved":
        detector.save_pretrained(tmp_path)
    else:
        torch.save(detector.state_dict(), tmp_path / "pytorch_model.bin")
    source = tmp_path if file == "saved" else tmp_path / "pytorch_model.bin"
    model = ours()
    said = checkpoint.initialize_from(source, model, CATEGORIES)
    assert "Deformable DETR" in said and "missing" not in said and "unexpected" not in said
    assert "22 re-init" in said  # time weights, controller and mask features
    frames = torch.randint(0, 256, (1, 1, 3, 64, 96)).byte()
    sizes = torch.tensor([[64, 72]])
    inside = torch.ones(1, 64, 96, dtype=torch.int64)
    inside[..., 72:] = 0
    with torch.no_grad():
        prediction = model(frames, sizes)
        encoded = model.encoder(model.backbone(frames[0])[1:], inside == 0)
        pixels = (frames[0] - model.backbone.mean) / model.backbone.std
        theirs = detector(pixels, inside)
    # On processors without AVX-512 plain PyTorch in place of our operator differs by 2.5e-5, too.
    torch.testing.assert_close(encoded.tokens_NSC, theirs.encoder_last_hidden_state, atol=3e-5, rtol=3e-5)
    states = theirs.intermediate_hidden_states[0]
    for layer in range(3):
        torch.testing.assert_close(prediction.embeddings_LBQC[layer], states[layer][None], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.boxes_LBTQ4[-1, :, 0], theirs.pred_boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prediction.logits_LBQK[-1], theirs.logits, atol=1e-4, rtol=1e-4)
    assert every_mask(prediction).isfinite().all()


def original_names(detector: DeformableDetrForObjectDetection) -> dict[str, torch.Tensor]:
    """Those of fundamentalvision/Deformable-DETR, by way of SeqFormer's: its box branch is the decoder there."""
    model = ours()
    model.load_state_dict(from_foreign(detector.state_dict()).tensors, strict=False)
    layer = r"detr.transformer.decoder.layers."
    named = {}
    for name, value in published(model).items():
        box = name.startswith(layer) and ("_box." in name or "cross_attn." in name)
        if name.startswith(layer) and not box or "output_proj." in name and box:
            continue
        if not name.startswith("detr.") or "output_proj_box" in name and not box:
            continue
        value = value[1:41] if "class_embed" in name else value
        named[name.removeprefix("detr.").replace("_box.", ".")] = value
    return named


def test_deformable_detr_s_own_checkpoints(detector, tmp_path: Path) -> None:
    state = original_names(detector)
    assert (
        "transformer.decoder.layers.0.norm2.weight" in state
        and "transformer.decoder.bbox_embed.0.layers.0.bias" in state
    )
    save(tmp_path / "detr.pth", state, "zip")
    found, expected = read_weights(tmp_path / "detr.pth").tensors, from_foreign(detector.state_dict()).tensors
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace("model.decoder.bbox_embed", "model.other"), "without box refinement; use .*SenseTime"),
        (lambda n: n.replace("model.level_embed", "model.enc_output.weight"), "two-stage Deformable DETR"),
    ],
)
def test_other_deformable_detrs_are_refused(detector, change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_foreign({change(name): value for name, value in detector.state_dict().items()})
