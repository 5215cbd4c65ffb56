"""``mfvis demo`` from data to report with a model of a few thousand parameters; which tube belongs to which track."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mfvis.data.rle import decode_mask
from mfvis.demo import page as demo_page
from mfvis.demo import run as demo
from mfvis.parsing import build, load_preset
from mfvis.predict.assignment import assign_results
from mfvis.types import Track, TrackResult, Video
from PIL import Image

SMALL = {
    "label_videos": {"videos": 2, "frames": 3, "height": 64, "width": 64},
    "synthetic": {"videos": 2, "val_videos": 2, "frames": 3, "height": 64, "width": 64},
    "model": {
        "hidden_dim": 8,
        "num_heads": 2,
        "encoder_ffn_dim": 8,
        "decoder_layers": 1,
        "decoder_ffn_dim": 8,
    },
    "train": {"steps": 2, "warmup": 1, "batch_size": 2, "batch_size_per_device": 2, "log_every": 1},
    "clip": {"short_sides": [64]},
}


LABEL = "{short_side: 32, num_models: 1, overlays: false, optim: {steps: 2, warmup: 1}}"


def config(out: Path, twin: bool = False) -> demo.DemoConfig:
    preset = load_preset("demo")
    for part, changes in SMALL.items():
        preset[part] = preset[part] | changes
    preset["loss"]["temporal"] |= {"start": 0, "warmup": 0}  # so that TK-Loss acts in the few steps
    (out / "label.yaml").write_text(LABEL)
    preset["label_preset"] = f"demo-label,{out / 'label.yaml'}"
    return build(demo.DemoConfig, preset | {"out": str(out), "twin": twin}, "the test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo with its twin. A test may run the demo there again, without the twin."""
    out = tmp_path_factory.mktemp("demo")
    demo.run(config(out, twin=True))
    return out


def test_the_trainings_differ_in_supervision_only(folder: Path) -> None:
    names = [entry["supervision"] for entry in json.loads((folder / "metrics.json").read_text())["model"]]
    assert names == ["boxes, without TK-Loss", "boxes, with TK-Loss", "masks (the supervised twin)"]
    logs = [
        {curve.name for curve in demo.read_curves(folder / "runs" / run / "log.jsonl")}
        for run in ("boxes-no-tk", "boxes", "masks")
    ]
    assert "TK-Loss" not in logs[0]
    assert "projection" in logs[0]
    assert "TK-Loss" in logs[1]
    assert "dice" in logs[2]
    assert "projection" not in logs[2]
    assert "masks (the supervised twin)" in (folder / "report.html").read_text()


def test_masks_come_from_boxes_that_no_masks_accompany(folder: Path) -> None:
    given, labeled = (json.loads((folder / part / "boxes.json").read_text()) for part in ("videos", "labeled"))
    assert all("segmentations" not in annotation for annotation in given["annotations"])
    assert all(annotation["segmentations"] for annotation in labeled["annotations"])
    metrics = json.loads((folder / "metrics.json").read_text())["label"]
    assert 0 < metrics["j"] < 1
    assert 0 < metrics["filled_box_j"] < 1
    assert f"mfvis label {folder / 'videos' / 'boxes.json'} --preset demo-label" in metrics["command"]
    with Image.open(folder / demo.IMAGE) as image:
        # One row for each of two videos, of three panels, under the captions; 64 pixels are enlarged to 256.
        assert image.size == (3 * 256 + 2 * 6, 44 + 2 * 256 + 6)


def test_the_demo_ends_in_a_report_and_a_second_one_replaces_it(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "mine.txt").write_text("stays")
    demo.run(config(folder))
    report = folder / "report.html"
    assert str(report.resolve()) in capsys.readouterr().out
    page = report.read_text()
    assert page.count("data:image/jpeg") == 4  # two videos in each act
    metrics = json.loads((folder / "metrics.json").read_text())
    without, with_tk = metrics["model"]
    assert [without["supervision"], with_tk["supervision"]] == ["boxes, without TK-Loss", "boxes, with TK-Loss"]
    assert 0 <= with_tk["AP"] <= 1
    assert 0 < with_tk["filled_box_j"] == without["filled_box_j"] < 1
    assert without["j"] != with_tk["j"]
    for name, entry in zip(("without TK-Loss", "with TK-Loss"), metrics["model"], strict=True):
        (shown,) = re.findall(f">J {name}</div><div class=value>([^<]*)<", page)
        assert float(shown) == pytest.approx(entry["j"], abs=6e-4)
    assert [(entry["AP"], entry["j"]) for entry in metrics["model"]] == [
        (entry["AP"], entry["j"]) for entry in before["model"][:2]
    ]
    assert metrics["label"]["j"] == before["label"]["j"]
    assert (folder / "mine.txt").read_text() == "stays"


def test_tubes_are_assigned_by_boxes_only_and_one_to_one():
    near, far = np.array([[0, 0, 10, 10]] * 2, np.float32), np.array([[30, 30, 40, 40]] * 2, np.float32)
    tracks = tuple(Track(id, 1, boxes) for id, boxes in ((5, near), (6, far), (7, far + 5)))
    video = Video(1, "v", 50, 50, 2, (), tracks)
    found = [TrackResult(1, category, 0.1, (None, None), boxes) for category, boxes in ((1, far), (2, near))]
    assigned = {result.track_id: result for result in assign_results(video, found)}
    np.testing.assert_array_equal(assigned[5].boxes_T4, near)
    np.testing.assert_array_equal(assigned[6].boxes_T4, far)
    assert not decode_mask(assigned[7].segmentations[0], 50, 50).any()
    assert assign_results(replace(video, tracks=()), found) == []


def test_a_drawn_track_has_its_true_tracks_color_whatever_was_not_drawn(monkeypatch):
    true = np.array([[0, 0, 10, 10]], np.float32)
    video = Video(1, "v", 32, 32, 1, (), (Track(5, 1, true, (None,)),))
    found = tuple(TrackResult(1, 1, score, (None,), boxes) for score, boxes in ((0.9, true + 3), (0.1, true)))
    seen = {}
    monkeypatch.setattr(demo_page, "read_frames", lambda video, indices: torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    monkeypatch.setattr(
        demo_page, "side_by_side", lambda frame_HW3, boxes_N4, ids, masks, with_frame: seen.update(ids=ids, masks=masks)
    )
    training = SimpleNamespace(results=found)
    demo_page._detected_figure(video, (training,))
    (_, predicted_ids), (_, true_ids) = seen["masks"]
    assert list(predicted_ids) == list(true_ids) == list(seen["ids"]) == [0]
