"""Checkpoints that are damaged, foreign or dangerous, and the error each one gets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mfvis.errors import CheckpointError
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import build, load_preset
from mfvis.train import checkpoint, resume
from mfvis.train.config import Config
from mfvis.types import Category
from mfvis.weights.files import read_state_dict, save_safetensors

CATEGORIES = (Category(3, "cat"), Category(7, "dog"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything in it."""
    folder = tmp_path_factory.mktemp("good")
    config = build(Config, load_preset("test") | {"data": "x.json"}, "test")
    model = VideoMask2Former(config.model, len(CATEGORIES))
    written = checkpoint.save(
        folder, "000004", checkpoint.CheckpointInfo(4, config, CATEGORIES), model, {"sampler": {}}
    )
    checkpoint.update_last_link(written, keep=1)
    return written


def test_a_checkpoint_is_found_by_each_of_its_names(good: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(good.parent)
    for name in (good, good.parent, good.parent / "last", run, run / "checkpoints", run / "checkpoints" / "last"):
        assert checkpoint.find(name) == good.resolve()


def test_a_checkpoint_gives_back_what_it_was_given(good: Path) -> None:
    model, categories, config = checkpoint.load_model(good)
    assert categories == CATEGORIES and not model.training
    assert config.model.hidden_dim == 16
    assert checkpoint.read_tensors(good / "training.pt") == {"sampler": {}}


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "checkpoint.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def dangerous(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("true",)

    torch.save({"optimizer": Payload()}, folder / "training.pt")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-10 if file.suffix == ".safetensors" else content.index(b"sampler")] ^= 1
    file.write_bytes(content)


def poison(file: Path) -> None:
    state = read_state_dict(file)
    state["decoder.query_features.weight"][0, 0] = float("inf")
    save_safetensors(file, state)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "no such checkpoint"),
    "no description": (lambda f: (f / "checkpoint.json").unlink(), "it has no checkpoint.json"),
    "description cut short": (
        lambda f: (f / "checkpoint.json").write_text('{"format": 1,'),
        "ends in the middle of the JSON",
    ),
    "description of other kind": (lambda f: (f / "checkpoint.json").write_text("[1]"), "is a list, expected an object"),
    "no step": (edit(lambda c: c.pop("step")), "'step'"),
    "newer format": (edit(lambda c: c.update(format=9)), "format 9; this version reads format 1"),
    "unknown setting": (edit(lambda c: c["config"].update(modle={})), "unknown key modle, did you mean model?"),
    "wrong setting": (edit(lambda c: c["config"]["model"].update(num_queries=-1)), "model.num_queries"),
    "absurd size": (edit(lambda c: c["config"]["model"].update(num_queries=10**9)), "model.num_queries is 1000000000"),
    "absurd depth": (edit(lambda c: c["config"]["model"].update(decoder_layers=10**9)), "model.decoder_layers is"),
    "wide and deep": (
        edit(lambda c: c["config"]["model"].update(decoder_layers=60, decoder_ffn_dim=64)),
        "does not fit the model",
    ),
    "negative step": (edit(lambda c: c.update(step=-1)), "step is -1"),
    "absurd step": (edit(lambda c: c.update(step=10**400)), "step is <an integer of"),
    "infinite step": (lambda f: (f / "checkpoint.json").write_text('{"format": 1, "step": 1e999}'), "step is inf"),
    "no categories": (edit(lambda c: c.update(categories=[])), "there is no category"),
    "nested too deeply": (lambda f: (f / "checkpoint.json").write_text("[" * 10**5), "is nested too deeply"),
    "a pipe": (lambda f: ((f / "training.pt").unlink(), os.mkfifo(f / "training.pt")), "no regular file"),
    "a byte of the weights": (lambda f: flip(f / "model.safetensors"), "the checksum in its metadata is another"),
    "a byte of the training state": (lambda f: flip(f / "training.pt"), "checksum"),
    "weights that are not finite": (lambda f: poison(f / "model.safetensors"), "NaN or infinity in 1 tensor"),
    "other size": (edit(lambda c: c["config"]["model"].update(hidden_dim=32)), "does not fit the model"),
    "fewer classes": (edit(lambda c: c["categories"].pop()), "does not fit the model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no such weights file"),
    "weights cut short": (lambda f: os.truncate(f / "model.safetensors", 100), "not a readable safetensors file"),
    "no training state": (lambda f: (f / "training.pt").unlink(), "training.pt: missing"),
    "training state cut short": (lambda f: os.truncate(f / "training.pt", 50), "damaged, or not plain tensors"),
    "training state of other kind": (lambda f: torch.save([1], f / "training.pt"), "holds list; expected a dict"),
    "code in the training state": (dangerous, "damaged, or not plain tensors"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_malformed_checkpoints(damage: Callable[[Path], object], message: str, good: Path, tmp_path: Path) -> None:
    broken = tmp_path / "000004"
    shutil.copytree(good, broken)
    damage(broken)
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load_model(broken)
        checkpoint.read_tensors(broken / "training.pt")
    assert message in str(raised.value)
    assert "000004" in str(raised.value)


@pytest.mark.parametrize("missing", ["optimizer", "sampler"])
def test_training_state_of_another_training(missing: str, good: Path) -> None:
    from mfvis.data.clips import ClipSampler
    from mfvis.train.optim import make_optimizer
    from mfvis.train.optim_config import OptimConfig

    model, _, _ = checkpoint.load_model(good)
    optimizer, sampler = make_optimizer(model, OptimConfig()), ClipSampler([3])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = resume.training_state(optimizer, sampler, scaler)
    del state[missing]
    with pytest.raises(CheckpointError, match="does not fit this training"):
        resume.apply_training(state, optimizer, sampler, scaler, 0, "runs/x")


def test_starting_weights_leave_out_the_class_head_of_other_classes(good: Path) -> None:
    _, _, config = checkpoint.load_model(good)
    other = VideoMask2Former(config.model, 5)
    said = checkpoint.initialize_from(good, other, [Category(i, f"class {i}") for i in range(5)])
    assert "2 re-initialized (decoder.class_head.weight, decoder.class_head.bias)" in said
    source, _, _ = checkpoint.load_model(good)
    assert torch.equal(other.decoder.query_features.weight, source.decoder.query_features.weight)


def test_starting_weights_of_another_architecture(good: Path) -> None:
    _, _, config = checkpoint.load_model(good)
    other = VideoMask2Former(replace(config.model, hidden_dim=32), 2)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.initialize_from(good, other, CATEGORIES)
