"""A run folder with a damaged file: what can be done again is done again, the rest is one clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mfvis.data.clips import ClipSampler
from mfvis.errors import CheckpointError, ConfigError, DataError, TrainingError
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import build, load_preset
from mfvis.train import checkpoint, resume
from mfvis.train.config import Config
from mfvis.train.engine import clip_datasets, train
from mfvis.train.log import Log
from mfvis.train.optim import make_optimizer


@pytest.fixture(scope="module")
def config(demo_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of a run of six steps with checkpoints after three and six, which is there."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    config = build(Config, load_preset("test") | {"data": demo_data[0], "out": out}, "test")
    train(config)
    return replace(config, resume=True)


@pytest.fixture
def copy(config: Config, tmp_path: Path) -> Config:
    """The same, of a copy of the run."""
    shutil.copytree(config.out, tmp_path / "run", symlinks=True)
    return replace(config, out=tmp_path / "run")


def restored(config: Config) -> tuple[resume.Resumed, dict[str, torch.Tensor]]:
    """State from which a training would continue, and its weights."""
    model = VideoMask2Former(config.model, 5, pretrained=False)
    optimizer, scaler = make_optimizer(model, config.train), torch.amp.GradScaler("cpu", enabled=False)
    paths, clips = resume.candidates(config), clip_datasets(config)
    state = resume.restore(paths, model, optimizer, ClipSampler([4]), scaler, config.train.batch_size, clips)
    return state, model.state_dict()


def weights_of(config: Config, step: int) -> bytes:
    return (config.out / "checkpoints" / f"{step:06}" / "model.safetensors").read_bytes()


def test_a_damaged_checkpoint_costs_time_and_nothing_else(config, copy, capsys):
    state = copy.out / "checkpoints" / "000006" / "training.pt"
    os.truncate(state, 5000)
    last = train(copy)
    assert last.name == "000006" and weights_of(copy, 6) == weights_of(config, 6)
    said = capsys.readouterr().err
    assert f"{state}: damaged" in said and "its steps are done again" in said
    assert f"resumed from {last.with_name('000003')}, step 3" in said


DAMAGES: dict[str, Callable[[Path], object]] = {
    "absent": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "text": lambda file: file.write_text("no such thing"),
    "other JSON": lambda file: file.write_text('{"format": 1, "step": null, "config": [], "categories": 3}'),
    "tensors of something else": lambda file: torch.save({"optimizer": {"state": {}, "param_groups": []}}, file),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json", "training.pt"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_whatever_happened_to_a_file_the_checkpoint_before_is_taken(config, copy, name, damage):
    damage(copy.out / "checkpoints" / "000006" / name)
    state, weights = restored(copy)
    assert state.checkpoint.name == "000003" and state.step == 3
    (note,) = state.notes
    assert str(copy.out / "checkpoints" / "000006") in note
    expected = checkpoint.load_model(config.out / "checkpoints" / "000003")[0].state_dict()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
def test_no_flipped_bit_passes_for_the_state_of_a_training(config, copy, name):
    file = copy.out / "checkpoints" / "000006" / name
    whole, random = file.read_bytes(), np.random.default_rng(0)
    _, expected = restored(config)
    for place in random.integers(len(whole), size=10):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        state, weights = restored(copy)
        same = all(torch.equal(weights[key], value) for key, value in expected.items())
        assert state.step == 3 or same, f"byte {place}"


def test_no_flipped_bit_of_a_description_is_a_traceback(copy):
    file = copy.out / "checkpoints" / "000006" / "checkpoint.json"
    whole, random = file.read_bytes(), np.random.default_rng(1)
    for place in random.integers(len(whole), size=15):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        try:
            assert restored(copy)[0].step in (3, 6)
        except ConfigError as error:  # a value of the configuration was hit
            assert "trained with other settings" in str(error) or "Resume with the same" in str(error)


def test_where_no_checkpoint_is_sound_the_message_says_what_can_be_done(copy):
    for step in (3, 6):
        (copy.out / "checkpoints" / f"{step:06}" / "training.pt").unlink()
    with pytest.raises(CheckpointError) as raised:
        restored(copy)
    message = str(raised.value)
    assert message.count("training.pt: missing") == 2
    assert f"Delete {copy.out / 'checkpoints'} to train from the start" in message and "--init CHECKPOINT" in message
    train(replace(copy, init=copy.out, resume=False, out=copy.out / "new"))  # that remedy works
    shutil.rmtree(copy.out / "checkpoints")
    assert train(replace(copy, resume=False)).name == "000006"  # and so does the other


def test_a_run_whose_descriptions_are_gone_is_not_taken_for_a_new_one(copy):
    for step in (3, 6):
        (copy.out / "checkpoints" / f"{step:06}" / "checkpoint.json").write_text("")
    with pytest.raises(ConfigError, match="holds a training; add --resume"):
        resume.candidates(replace(copy, resume=False))
    with pytest.raises(CheckpointError, match="no checkpoint of .* can be resumed"):
        resume.candidates(copy)


LINKS: dict[str, Callable[[Path], object]] = {
    "absent": lambda last: last.unlink(),
    "to nothing": lambda last: (last.unlink(), last.symlink_to("000005")),
    "to itself": lambda last: (last.unlink(), last.symlink_to("last")),
    "a copy of the checkpoint": lambda last: (last.unlink(), shutil.copytree(last.with_name("000006"), last)),
    "a file": lambda last: (last.unlink(), last.write_text("000006")),
}


@pytest.mark.parametrize("damage", LINKS.values(), ids=LINKS)
def test_a_damaged_link_to_the_last_checkpoint_is_ignored(config, copy, damage, capsys):
    last = copy.out / "checkpoints" / "last"
    damage(last)
    assert restored(copy)[0].step == 6
    for name in (copy.out, copy.out / "checkpoints", last):
        if name.exists():
            assert checkpoint.describe(checkpoint.find(name)).step == 6
    checkpoint.update_last_link(copy.out / "checkpoints" / "000006", keep=2)
    assert last.is_symlink() and checkpoint.find(copy.out).name == "000006"


def test_a_sampler_that_does_not_fit_the_step_is_not_believed(copy):
    file = copy.out / "checkpoints" / "000006" / "training.pt"
    content = checkpoint.read_tensors(file)
    for used in ([11], [-12], [12.0], [12, 0], [10**30], "x", None):
        checkpoint.save_tensors(file, content | {"sampler": content["sampler"] | {"used": used}})
        assert restored(copy)[0].step == 3, used
    checkpoint.save_tensors(file, content)
    assert restored(copy)[0].step == 6


def test_moments_that_are_not_finite_or_of_other_shapes_are_not_believed(copy):
    file = copy.out / "checkpoints" / "000006" / "training.pt"
    for value in (torch.tensor(float("nan")), torch.zeros(7, 7)):
        content = checkpoint.read_tensors(copy.out / "checkpoints" / "000003" / "training.pt")
        content["sampler"]["used"] = [12]
        content["optimizer"]["state"][0]["exp_avg"] = value
        checkpoint.save_tensors(file, content)
        assert restored(copy)[0].step == 3


@pytest.mark.parametrize("amp", ["fp16"])
def test_a_damaged_scale_of_the_gradients_is_not_believed(copy, amp):
    model = VideoMask2Former(copy.model, 5, pretrained=False)
    optimizer, sampler = make_optimizer(model, copy.train), ClipSampler([4])
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = resume.training_state(optimizer, sampler, scaler)
    for scale in (0.0, float("nan"), -1.0, "much"):
        with pytest.raises(CheckpointError, match="does not fit this training"):
            broken = state | {"scaler": state["scaler"] | {"scale": scale}}
            resume.apply_training(broken, optimizer, sampler, scaler, 0, "training.pt")
    resume.apply_training(state, optimizer, sampler, scaler, 0, "training.pt")


def test_other_data_are_not_taken_for_damage(copy, demo_data):
    val = build(Config, load_preset("test") | {"data": demo_data[1], "out": copy.out, "resume": True}, "test")
    with pytest.raises(ConfigError, match="trained on 4 videos, these data have 2"):
        train(val)


def test_data_that_changed_since_are_noted(copy, tmp_path):
    folder = shutil.copytree(Path(copy.data[0]).parent, tmp_path / "data")
    moved = replace(copy, data=(str(folder / "train.json"),))
    assert restored(moved)[0].notes == (), "wherever they lie"
    image = next((folder / "JPEGImages").glob("train*/*.jpg"))
    original = image.read_bytes()
    image.write_bytes(original + b"more")
    (note,) = restored(moved)[0].notes
    assert "train.json: boxes or frames are not those that 000006 was trained on" in note
    image.write_bytes(original)
    content = json.loads((folder / "train.json").read_text())
    next(box for box in content["annotations"][0]["bboxes"] if box)[2] -= 1
    (folder / "train.json").write_text(json.dumps(content))
    assert len(restored(moved)[0].notes) == 1
    content["categories"][0]["name"] = "other"
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was trained on the classes .* the data have .'other'"):
        restored(moved)


def test_a_torn_log_is_mended(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    good = [json.dumps({"step": step, "total": 1.0}).encode() for step in (1, 2, 3, 4)]
    log.write_bytes(
        b"\n".join([good[0], b"\0" * 30, good[1], b'{"step": 3, "to\xff', b"[]", b"", good[2], good[3], b"{"])
    )
    Log(tmp_path, first_step=3, steps=6, every=1, active=True).close()
    assert log.read_bytes().splitlines() == good[:3]
    assert "4 lines without a record dropped" in capsys.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_a_log_that_is_not_a_file_is_one_error(tmp_path, make):
    make(tmp_path / "log.jsonl")
    with pytest.raises(ConfigError, match="log.jsonl is not a file, .*; delete it"):
        Log(tmp_path, 6, 9, 1, True)


def test_frames_are_checked_before_the_training_starts(demo_data, tmp_path):
    folder = shutil.copytree(demo_data[0].parent, tmp_path / "data")
    images = sorted((folder / "JPEGImages").glob("train*/*.jpg"))
    images[3].write_bytes(b"no image")
    images[20].unlink()
    config = build(Config, load_preset("test") | {"data": folder / "train.json", "out": tmp_path / "run"}, "test")
    with pytest.raises(DataError) as raised:
        train(config)
    assert [problem.file for problem in raised.value.problems] == [str(images[3]), str(images[20])]
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_never_written(demo_data, tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def overflow(optimizer, *given):
        step(optimizer, *given)
        optimizer.param_groups[0]["params"][0].data[:] = torch.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    config = build(Config, load_preset("test") | {"data": demo_data[0], "out": tmp_path}, "test")
    with pytest.raises(TrainingError, match="step 1: the weights are not finite any more"):
        train(replace(config, train=replace(config.train, steps=1)))
    assert not (tmp_path / "checkpoints").exists()
