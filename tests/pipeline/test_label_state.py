"""State that a labeling run keeps: used where it was made from the same inputs, made again where it is damaged."""

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
from mfvis.data.ytvis import load_dataset
from mfvis.errors import CheckpointError, ConfigError, TrainingError, VideoError
from mfvis.labeling import cross_video_training
from mfvis.labeling import run as label
from mfvis.labeling import video as video_module
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.model_factory import FinetunedModels
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train.optim_config import OptimConfig
from mfvis.weights.files import read_state_dict, save_safetensors
from tiny import TINY, tiny_label_config


@pytest.fixture(scope="module")
def labeled(demo_data, tmp_path_factory) -> LabelConfig:
    """The configuration of a run over two videos, which is there. Do not write there."""
    folder = tmp_path_factory.mktemp("label")
    shutil.copytree(demo_data[1].parent, folder / "data")
    config = tiny_label_config(folder / "data" / "val.json", folder, given_masks=False, window=6)
    label.run(config)
    return config


@pytest.fixture
def config(labeled: LabelConfig, tmp_path: Path) -> LabelConfig:
    """The same, of a copy of everything."""
    folder = tmp_path / "copy"
    shutil.copytree(labeled.data.parents[1], folder)
    weights = str(folder / "tiny.safetensors")
    backbone = replace(labeled.backbone, weights=weights)
    return replace(labeled, data=folder / "data" / "val.json", out=folder / "labels", backbone=backbone)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The windows that models are trained on, as they come."""
    heads, original = [], video_module.fit
    monkeypatch.setattr(video_module, "fit", lambda *given: heads.append(given[3]) or original(*given))
    return heads


def masks(config: LabelConfig) -> list[object]:
    content = json.loads((config.out / config.data.name).read_text())
    return [annotation["segmentations"] for annotation in content["annotations"]]


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_was_labeled_is_used_wherever_it_was_moved(config, labeled, trained, monkeypatch):
    """Copied to another place, called with other paths: nothing is refused, and nothing is done again."""
    monkeypatch.chdir(config.data.parents[1])
    backbone = replace(config.backbone, weights="tiny.safetensors")
    label.run(replace(config, data=Path("data/val.json"), out=Path("labels"), backbone=backbone))
    assert masks(config) == masks(labeled) and not trained


def test_damaged_state_is_made_again(config, labeled, capsys):
    """Every file of the first video, the cross-video network, and the settings."""
    state = [path for path in config.out.glob("parts/**/*") if path.suffix in (".json", ".pt") and path.name[0] != "2"]
    assert len(state) == 5
    for file in state:
        os.truncate(file, file.stat().st_size - 9)
    label.run(config)
    assert masks(config) == masks(labeled)
    said = capsys.readouterr().out
    assert "settings.json is damaged" in said and "1.json is damaged; labeled again" in said


def test_no_flipped_bit_of_the_state_changes_a_mask(config, labeled):
    state = sorted(
        path for path in config.out.glob("parts/**/*") if path.suffix in (".json", ".pt") and path.name[0] == "1"
    )
    assert len(state) == 3
    whole = {path: path.read_bytes() for path in state}
    random = np.random.default_rng(0)
    for _ in range(2):
        for path, content in whole.items():
            damaged = bytearray(content)
            damaged[random.integers(len(content))] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
        label.run(config)
        assert masks(config) == masks(labeled)


def test_state_of_another_video_is_not_used(config, labeled):
    for file in list(config.out.glob("parts/**/1*[!g]")):
        shutil.copy(file.with_name("2" + file.name[1:]), file)
    label.run(config)
    assert masks(config) == masks(labeled)


def test_only_a_video_whose_boxes_changed_is_trained_on_again(config, labeled, trained, capsys):
    def smaller(content: dict) -> None:
        box = next(box for box in content["annotations"][0]["bboxes"] if box)
        box[2] /= 2

    edit(config.data, smaller)
    label.run(config)
    assert len(trained) == 1 and trained[0].startswith("[1/2]")
    said = capsys.readouterr().out
    assert "its boxes of track 1 changed; labeled again" in said
    # What the videos share is learned from all of them, so the last masks of both are found again.
    assert "[2/2] val0001: its other videos changed; labeled again" in said
    assert masks(config)[0] != masks(labeled)[0]


def test_only_a_video_whose_frames_changed_is_trained_on_again(config, trained, capsys):
    frames = load_dataset(config.data).videos[1].frames
    shutil.copy(frames[0], frames[3])
    label.run(config)
    assert len(trained) == 1 and trained[0].startswith("[2/2]")
    assert "[2/2] val0001: its frames changed; labeled again" in capsys.readouterr().out


def test_a_finished_run_does_not_need_its_frames(config, labeled, trained):
    shutil.rmtree(config.data.parent / "JPEGImages")
    (config.out / config.data.name).unlink()
    label.run(config)
    assert masks(config) == masks(labeled) and not trained


def test_settings_of_another_run_are_not_believed_against_the_results(config, labeled, trained):
    settings = config.out / "parts" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"seed": 5}))
    label.run(config)
    assert masks(config) == masks(labeled) and not trained
    assert json.loads(settings.read_text())["seed"] == 0


def test_a_cross_video_network_that_diverges_is_one_error(config, monkeypatch):
    shutil.rmtree(config.out)
    monkeypatch.setattr(cross_video_training, "masks_in_crops", lambda *given: torch.full((6, 56, 56), torch.nan))
    with pytest.raises(TrainingError, match="cross-video network: step 1/2: the loss is nan.*--shared-steps 0"):
        label.run(config)


def test_other_settings_and_other_weights_are_named(config):
    with pytest.raises(ConfigError, match=r"seed: 0 then, 1 now\n.*or delete .*parts to label again"):
        label.run(replace(config, seed=1))
    state = read_state_dict(config.backbone.weights)
    next(iter(state.values())).mul_(1.01)
    save_safetensors(config.backbone.weights, state)
    with pytest.raises(ConfigError, match=r"backbone.weights: \w+ then, \w+ now"):
        label.run(config)
    shutil.rmtree(config.out / "parts")  # the remedy works
    label.run(config)


def test_boxes_that_are_edited_meanwhile_never_get_masks_of_the_old_ones(config, labeled, monkeypatch, capsys):
    shutil.rmtree(config.out)
    original = label.label_video

    def edited(*given, **named):
        edit(config.data, lambda content: content["annotations"][0].pop("video_id", None))
        return original(*given, **named)

    monkeypatch.setattr(label, "label_video", edited)
    label.run(config)
    assert masks(config) == masks(labeled)
    assert "changed in the meantime" in capsys.readouterr().out


def test_a_file_that_changes_while_it_is_read_is_refused(config, monkeypatch):
    original = label.load_dataset

    def changed(*given):
        dataset = original(*given)
        config.data.write_text(config.data.read_text() + " ")
        return dataset

    monkeypatch.setattr(label, "load_dataset", changed)
    with pytest.raises(ConfigError, match="changed while it was read"):
        label.run(config)


def test_frames_that_change_meanwhile_are_noticed(config, monkeypatch):
    shutil.rmtree(config.out)
    frames = load_dataset(config.data).videos[0].frames
    original = label.label_video

    def replaced(*given, **named):
        results = original(*given, **named)
        shutil.copy(frames[1], frames[0])
        return results

    monkeypatch.setattr(label, "label_video", replaced)
    with pytest.raises(VideoError, match="val0000: its frames changed while"):
        label.run(config)
    assert not (config.out / "parts" / "1.json").exists()


def test_an_overlay_that_is_missing_is_drawn_again(config):
    config = replace(config, overlays=True)
    label.run(config)
    first, second = sorted((config.out / "overlays").iterdir())
    first.unlink()
    kept = second.stat().st_mtime_ns
    label.run(config)
    assert first.is_file() and second.stat().st_mtime_ns == kept


def test_losses_that_are_not_finite_are_one_error(config):
    shutil.rmtree(config.out)
    config = replace(config, optim=OptimConfig(steps=5, lr=1e30, clip_norm=0.0))
    with pytest.raises(
        TrainingError, match=r"\[1/2\] val0000 frames 0-5, .*: step \d/5: the loss is (nan|inf).*optim.lr"
    ):
        label.run(config)
    assert not list(config.out.glob("parts/[0-9]*"))


def test_masks_that_are_not_finite_are_one_error(config, monkeypatch):
    shutil.rmtree(config.out)
    original = video_module.segment
    monkeypatch.setattr(video_module, "segment", lambda *given: original(*given) * torch.nan)
    with pytest.raises(TrainingError, match=r"\[1/2\] val0000 frames 0-5: mask logits are NaN or infinite"):
        label.run(config)
    assert not list(config.out.glob("parts/tries/*"))


def test_weights_that_are_not_finite_are_one_error(config):
    state = read_state_dict(config.backbone.weights)
    next(iter(state.values())).fill_(torch.nan)
    save_safetensors(config.backbone.weights, state)
    with pytest.raises(CheckpointError, match="NaN or infinity in"):
        label.run(config)


def test_a_model_that_predicts_nan_is_one_error(config, monkeypatch):
    """Its weights are finite, but too large."""
    dataset = load_dataset(config.data)
    model = VideoMask2Former(TINY, len(dataset.categories))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter *= 1e30
    monkeypatch.setattr(label, "initial_models", lambda config: FinetunedModels(config, model, dataset.categories))
    with pytest.raises(TrainingError, match="the loss is|mask logits are"):
        label.run(replace(config, out=config.out.with_name("other")))


def test_the_labeled_file_finds_its_frames_through_links(config, tmp_path):
    """The folders of the file and of the result are links, so that ".." leads elsewhere than it seems to."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "data").symlink_to(config.data.parent)
    (tmp_path / "out").symlink_to(deep)
    completed = label.run(replace(config, data=tmp_path / "data" / "val.json", out=tmp_path / "out"))
    for path in (completed, deep / "val.json"):
        assert all(frame.is_file() for video in load_dataset(path).videos for frame in video.frames)
