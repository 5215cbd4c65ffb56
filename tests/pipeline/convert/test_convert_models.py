"""Whole models of other programs: the same numbers come out, nothing is lost in silence."""

import json
from pathlib import Path

import pytest
import torch
from foreign_models import CATEGORIES, assert_same_outputs, ours
from foreign_names import detectron2_names, names_of_transformers_4, write
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from mfvis.cli import main
from mfvis.convert import run
from mfvis.errors import CheckpointError, ConfigError
from mfvis.train import checkpoint
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import read_weights, save_safetensors
from mfvis.weights.foreign import from_foreign

FAULTS = ("missing", "unexpected", "re-initialized")


@pytest.mark.parametrize("version", [4, 5])
def test_transformers_mask2former_gives_its_outputs(theirs, version, tmp_path):
    name, model = theirs
    state = model.state_dict() if version == 5 else names_of_transformers_4(model.state_dict())
    save_safetensors(tmp_path / "model.safetensors", state)
    twin = ours(name)
    said = checkpoint.initialize_from(tmp_path / "model.safetensors", twin, CATEGORIES)
    assert "transformers' Mask2Former" in said and not any(
        word in said for word in ("missing", "unexpected", "re-init")
    )
    assert "criterion.empty_weight" in said
    assert_same_outputs(twin, model)


def test_a_folder_of_transformers_and_a_model_of_the_hub(theirs, tmp_path, monkeypatch):
    name, model = theirs
    model.save_pretrained(tmp_path)
    twin = ours(name)
    checkpoint.initialize_from(tmp_path, twin, CATEGORIES)
    assert_same_outputs(twin, model)

    def download(repository: str, file: str, local_files_only: bool) -> str:
        assert not local_files_only
        if repository == "someone/unreachable":
            raise LocalEntryNotFoundError("no connection, and not in the cache")
        if repository != "someone/mask2former":
            raise OSError("no such repository")
        if not (tmp_path / file).is_file():
            raise EntryNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("mfvis.weights.files.is_reachable", lambda: True)
    monkeypatch.setattr("mfvis.weights.files.hf_hub_download", download)
    twin = ours(name)
    checkpoint.initialize_from("someone/mask2former", twin, CATEGORIES)
    assert_same_outputs(twin, model)
    for repository, reason in (("someone/else", "no such repo"), ("someone/unreachable", "no connection")):
        with pytest.raises(CheckpointError, match=f"{repository}: no such file, .*hub does not give it .{reason}"):
            checkpoint.initialize_from(repository, twin, CATEGORIES)
    with pytest.raises(CheckpointError, match="runs/none.pth: no such weights file"):  # not a name on the hub
        checkpoint.initialize_from("runs/none.pth", twin, CATEGORIES)


@pytest.mark.parametrize(
    "kind", ["training.pth", "legacy.pth", "arrays.pkl", "tensors.pkl", "distributed.pth", "plain.safetensors"]
)
def test_detectron2_mask2former_gives_the_outputs_of_transformers(theirs, kind, tmp_path):
    name, model = theirs
    write(tmp_path / kind, kind, detectron2_names(model))
    twin = ours(name)
    said = checkpoint.initialize_from(tmp_path / kind, twin, CATEGORIES)
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
    checkpoint.initialize_from(tmp_path / "arrays.pkl", twin, CATEGORIES)
    assert_same_outputs(twin, model)


def test_other_classes_get_a_head_of_their_own(theirs, tmp_path):
    name, model = theirs
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    twin = ours(name, classes=3)
    before = twin.decoder.class_head.weight.clone()
    said = checkpoint.initialize_from(tmp_path / "arrays.pkl", twin, CATEGORIES[:3])
    assert "2 re-initialized (decoder.class_head.weight [6, 32] for [4, 32]" in said
    assert torch.equal(twin.decoder.class_head.weight, before)
    assert torch.equal(twin.decoder.query_features.weight, model.model.transformer_module.queries_features.weight)


def test_a_poor_match_is_refused_and_changes_nothing(theirs, tmp_path):
    name, model = theirs
    other = ours("resnet50" if name == "swin-t" else "swin-t")
    before = {k: v.clone() for k, v in other.state_dict().items()}
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    with pytest.raises(CheckpointError, match=r"arrays.pkl: does not fit the model: .* missing .* unexpected"):
        checkpoint.initialize_from(tmp_path / "arrays.pkl", other, CATEGORIES)
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


def test_a_model_of_detectron2_becomes_a_run(theirs, tmp_path, capsys):
    name, model = theirs
    write(tmp_path / "arrays.pkl", "arrays.pkl", detectron2_names(model))
    classes = tmp_path / "classes.json"
    categories = [{"id": c.id, "name": c.name} for c in CATEGORIES]
    classes.write_text(json.dumps({"videos": [], "annotations": [], "categories": categories}))
    arguments = ["convert", str(tmp_path / "arrays.pkl"), "--num-heads", "4", "--classes", str(classes)]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "tensors loaded" in said and f"{name}, 5 classes, 6 queries" in said
    twin, loaded, _ = checkpoint.load_model(tmp_path / "run")
    assert [c.name for c in loaded] == [c.name for c in CATEGORIES]
    assert_same_outputs(twin, model)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2  # it does not write over a training
    assert main(["convert", str(tmp_path / "run"), "--to", "detectron2", "--out", str(tmp_path / "again.pkl")]) == 0
    again, expected = read_weights(tmp_path / "again.pkl").tensors, from_foreign(detectron2_names(model)).tensors
    assert set(again) == set(expected) and all(torch.equal(again[k], expected[k]) for k in again)


def test_incomplete_and_strange_weights_are_refused(tmp_path, theirs):
    _, model = theirs
    state = detectron2_names(model)
    del state["sem_seg_head.predictor.decoder_norm.bias"]
    write(tmp_path / "less.safetensors", "", state)
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=r"not a whole model: .*1 missing \(decoder.norm.bias\)"):
        run(ConvertConfig(str(tmp_path / "less.safetensors"), out, num_heads=4))
    with pytest.raises(CheckpointError, match="give --num-heads"):
        run(ConvertConfig(str(tmp_path / "less.safetensors"), out, num_heads=5))
    write(tmp_path / "strange.safetensors", "", {"a.weight": torch.ones(2), "b.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="a backbone that is none of tiny, .*nearest is"):
        run(ConvertConfig(str(tmp_path / "strange.safetensors"), out))
    qkv = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
    write(tmp_path / "cut.safetensors", "", state | {qkv: torch.ones(7)})
    with pytest.raises(CheckpointError, match="in_proj_bias: shape .7.; queries, keys and values"):
        run(ConvertConfig(str(tmp_path / "cut.safetensors"), out, num_heads=4))
    assert not out.exists()


@pytest.mark.parametrize(
    "given",
    [
        {"out": "a.pkl"},
        {"out": "a.bin", "to": "detectron2"},
        {"out": "a.safetensors", "classes": "ytvis2019"},
        {"out": "a", "classes": "ytvis2019", "to": "detectron2"},
        {"out": "a.safetensors", "num_heads": 0},
    ],
)
def test_malformed_flags(given):
    with pytest.raises(ConfigError):
        ConvertConfig("in.pkl", **(given | {"out": Path(given["out"])}))
