"""Corrections of label mode: masks and clicks of a person are kept and learned from; only what changed is redone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mfvis.data.marks import Point, Scribble
from mfvis.data.rle import decode_mask, encode_mask
from mfvis.errors import ConfigError, DataError
from mfvis.labeling import run as label
from mfvis.labeling import video as video_module
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import (
    CERTAIN,
    Corrections,
    corrected_logits,
    correction_maps,
    corrections_loss,
    with_given_boxes,
)
from mfvis.labeling.quality import disagreement, expected_j, features
from mfvis.types import Track, Video
from tiny import tiny_label_config


@pytest.fixture(scope="module")
def labeled(demo_data, tmp_path_factory) -> LabelConfig:
    """The configuration of a finished run over the boxes of two videos. Do not write there."""
    folder = tmp_path_factory.mktemp("corrections")
    shutil.copytree(demo_data[1].parent / "JPEGImages", folder / "JPEGImages")
    content = json.loads(demo_data[1].read_text())
    for annotation in content["annotations"]:
        del annotation["segmentations"]
    (folder / "boxes.json").write_text(json.dumps(content))
    config = tiny_label_config(folder / "boxes.json", folder, window=3)  # two windows per video
    label.run(config)
    return config


@pytest.fixture
def config(labeled: LabelConfig, tmp_path: Path) -> LabelConfig:
    """The same, of a copy of everything."""
    folder = tmp_path / "copy"
    shutil.copytree(labeled.data.parent, folder)
    backbone = replace(labeled.backbone, weights=str(folder / "tiny.safetensors"))
    return replace(labeled, data=folder / "boxes.json", out=folder / "labels", backbone=backbone)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The windows that models are trained on, as they come."""
    heads, original = [], video_module.fit
    monkeypatch.setattr(video_module, "fit", lambda *given: heads.append(given[3]) or original(*given))
    return heads


def edit(file: Path, change: Callable[[list[dict]], object]) -> None:
    content = json.loads(file.read_text())
    change(content["annotations"])
    file.write_text(json.dumps(content))


def annotations(config: LabelConfig) -> list[dict]:
    return json.loads((config.out / config.data.name).read_text())["annotations"]


def disc(box: list[float], size: list[int]) -> np.ndarray:
    """A disc in the middle of the box."""
    x, y, w, h = box
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (columns - x - w / 2) ** 2 + (rows - y - h / 2) ** 2 < (min(w, h) / 3) ** 2


def test_given_masks_stay_as_they_are_and_teach_their_window(config, labeled, trained, capsys):
    before = annotations(labeled)
    assert all(set(a["given"]) == {False} for a in before)
    size = before[0]["segmentations"][0]["size"]
    rle = encode_mask(disc(before[0]["bboxes"][0], size))
    x, y, w, h = before[0]["bboxes"][1]
    polygon = [[x, y, x + w, y, x + w / 2, y + h]]

    def correct(entries: list[dict]) -> None:
        entries[0]["segmentations"] = [rle, polygon] + [None] * 4

    edit(config.data, correct)
    label.run(config)
    after = annotations(config)
    assert after[0]["segmentations"][:2] == [rle, polygon] and after[0]["given"] == [True, True] + [False] * 4
    assert after[0]["quality"][:2] == [1.0, 1.0]
    assert after[0]["areas"][:2] == [int(decode_mask(m, *size).sum()) for m in (rle, polygon)]
    logits = [
        (c.out / "parts" / "tries" / f"1-{first}-0.pt").read_bytes() for c in (labeled, config) for first in (0, 3)
    ]
    assert logits[0] != logits[2] and logits[1] == logits[3]
    assert trained == ["[1/2] val0000 frames 0-2, model 1/1"]
    said = capsys.readouterr().out
    assert "corrections: 2 masks, kept and learned from; 0 clicks and 0 scribbles, obeyed" in said
    assert "its corrections of track 1 changed; labeled again" in said
    label.run(config)
    assert len(trained) == 1 and annotations(config) == after
    assert "2 given by a person" in (config.out / "report.html").read_text()
    capsys.readouterr()
    ignored = replace(config, given_masks=False, out=config.out.with_name("ignored"))
    label.run(ignored)
    assert "over 2 true masks; a filled box has 0." in capsys.readouterr().out
    assert "over 2 true masks; a filled box has 0." in (ignored.out / "report.html").read_text()
    assert [a["segmentations"] for a in annotations(ignored)] == [a["segmentations"] for a in before]


def test_a_labeled_file_that_a_person_edited_has_only_the_edited_masks_as_given(config, labeled, trained):
    """It comes back from an annotation tool, without the marks that label mode wrote, and with all masks."""
    content = json.loads((config.out / "boxes.json").read_text())
    for annotation in content["annotations"]:
        del annotation["given"], annotation["quality"], annotation["score"]
    edited = content["annotations"][-1]
    mask = encode_mask(disc(edited["bboxes"][4], edited["segmentations"][4]["size"]))
    edited["segmentations"][4] = mask
    for video in content["videos"]:
        video["file_names"] = [str(Path(name)) for name in video["file_names"]]
    config.data.write_text(json.dumps(content))
    label.run(replace(config, frames=config.out))
    after = annotations(config)
    assert [sum(a["given"]) for a in after] == [0] * (len(after) - 1) + [1]
    assert after[-1]["segmentations"][4] == mask
    assert trained == ["[2/2] val0001 frames 3-5, model 1/1"]
    label.run(replace(config, frames=config.out))  # the given mask, which is in the result now, stays given
    assert sum(annotations(config)[-1]["given"]) == 1 and len(trained) == 1


def test_clicks_are_obeyed(config, trained):
    before, *others = annotations(config)
    size, box = before["segmentations"][0]["size"], before["bboxes"][0]
    mask_HW = decode_mask(before["segmentations"][0], *size)
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    positive = int(not mask_HW[int(y), int(x)])
    edit(config.data, lambda entries: entries[0].update(points=[[0, x, y, positive]]))
    label.run(config)
    assert decode_mask(annotations(config)[0]["segmentations"][0], *size)[int(y), int(x)] == bool(positive)
    assert not trained  # clicks change no network
    for entry, other in zip(annotations(config), [before, *others], strict=True):
        pairs = zip(entry["segmentations"], other["segmentations"], strict=True)
        changed = {t for t, (now, then) in enumerate(pairs) if now != then}
        # The color models of the frames of its window, 0 to 2, see the click, too.
        assert {0} <= changed <= {0, 1, 2} if entry["id"] == before["id"] else not changed


def test_faulty_corrections_are_reported_together(config):
    def correct(entries: list[dict]) -> None:
        x, y, w, h = entries[0]["bboxes"][0]
        entries[0]["points"] = [[0, x + w / 2, y + h / 2, 1], [99, 1, 1, 1], [0, -1, 1, 0], [0, 1, 1, 2], "x"]
        entries[1]["segmentations"] = [{"size": [64, 96], "counts": "~"}] + [None] * 5
        entries[2]["segmentations"], entries[2]["given"] = [None] * 6, [True]

    edit(config.data, correct)
    with pytest.raises(DataError) as error:
        label.run(config)
    records = [problem.record for problem in error.value.problems]
    assert records[:4] == [f"annotation 1, points[{i}]" for i in (1, 2, 3, 4)]
    assert records[4:] == ["annotation 2, frame 0", "annotation 3"]


def test_scribbles_are_obeyed(config, trained, capsys):
    """Along its whole length, which has three corners, and only in its frame."""
    before = annotations(config)[0]
    size, (x, y, w, h) = before["segmentations"][4]["size"], before["bboxes"][4]
    xy = [x + w * 0.1, y + h * 0.2, x + w * 0.8, y + h * 0.3, x + w * 0.5, y + h * 0.8]
    edit(config.data, lambda entries: entries[0].update(scribbles=[[4, xy, 0]]))
    label.run(config)
    mask_HW = decode_mask(annotations(config)[0]["segmentations"][4], *size)
    (scribble,) = [Scribble(4, tuple(zip(xy[0::2], xy[1::2], strict=True)), False)]
    assert not any(mask_HW[int(point.y), int(point.x)] for point in scribble.as_points(0.5))
    assert not trained
    assert "0 clicks and 1 scribble, obeyed" in capsys.readouterr().out


def test_the_report_shows_the_most_doubtful_tracks_first_and_opens_the_overlays(config):
    label.run(replace(config, overlays=True))
    page = (config.out / "report.html").read_text()
    entries = sorted(annotations(config), key=lambda entry: entry["score"])
    shown = [int(id) for id in re.findall(r"<figcaption>\w+, track (\d+) ", page)]
    assert shown == [entry["id"] for entry in entries]
    links = re.findall("<a href='([^'#]+)#t=[0-9.]+'>", page)
    assert len(links) == len(entries) and all((config.out / link).is_file() for link in links)
    assert page.count("data:image/jpeg") == len(entries) and "http" not in page
    shutil.rmtree(config.out / "parts" / "thumbnails")
    label.run(config)
    again = (config.out / "report.html").read_text()
    assert again.count("data:image/jpeg") == len(entries) and "<a href" not in again


def test_only_the_named_track_changes(config, labeled, trained, capsys):
    before = annotations(labeled)

    def move(entries: list[dict]) -> None:
        for entry in entries:
            entry["bboxes"][0][2] /= 2

    edit(config.data, move)
    label.run(replace(config, only=("val0000/1",)))
    after = annotations(config)
    changed = [a["segmentations"] != b["segmentations"] for a, b in zip(after, before, strict=True)]
    assert changed == [True] + [False] * (len(before) - 1)
    assert trained == ["[1/2] val0000 frames 0-2, model 1/1"]  # frames 3-5 have the same boxes as before
    label.run(replace(config, only=("val0001",)))
    assert trained[1:] == ["[2/2] val0001 frames 0-2, model 1/1"]
    with pytest.raises(ConfigError, match="only is val0009, val0000/99, expected VIDEO or VIDEO/TRACK.*val0000"):
        label.run(replace(config, only=("val0009", "val0000/99", "1")))


def test_a_first_run_of_one_video_has_no_other_masks(config, capsys):
    shutil.rmtree(config.out)
    label.run(replace(config, only=("val0001",)))
    entries = annotations(config)
    assert ["segmentations" in entry for entry in entries] == [False] * 3 + [True] * (len(entries) - 3)
    said = capsys.readouterr().out
    assert (
        "no masks yet for 1 video: run again without --only" in said
        and "the cross-video network needs all videos" in said
    )


def test_the_state_is_small_and_gone_where_it_is_not_needed(config):
    files = list((config.out / "parts" / "tries").iterdir())
    boxes = sum(box is not None for entry in annotations(config) for box in entry["bboxes"])
    assert len(files) == 4 and sum(file.stat().st_size for file in files) < 4 * 3000 + 500 * boxes
    label.run(replace(config, shared_steps=0, out=config.out.with_name("single")))
    assert not (config.out.with_name("single") / "parts" / "tries").exists()


def square(boxes: list[list[float]]) -> Video:
    track = Track(1, 1, np.array(boxes, np.float32))
    return Video(1, "square", width=64, height=32, length=len(boxes), frames=(), tracks=(track,))


def test_maps_lie_on_the_grid_and_the_loss_sees_only_given_masks():
    video = square([[8, 8, 24, 24], [8, 8, 24, 24], [0, 0, 0, 0]])
    mask_HW = np.zeros((32, 64), bool)
    mask_HW[8:24, 8:16] = True
    given = Corrections({0: {0: encode_mask(mask_HW)}}, {0: (Point(1, 12.0, 12.0, True),)})
    near_NTHW = torch.zeros(1, 3, 8, 16, dtype=torch.bool)
    near_NTHW[:, :2, 1:7, 1:7] = True
    lab_TCHW = torch.zeros(3, 3, 8, 16)
    maps = correction_maps(given, video, [0], range(3), (32, 64), near_NTHW, lab_TCHW)
    assert maps.frames_T.tolist() == [True, False, False]
    assert maps.target_NTHW[0, 0, 2:6, 2:4].eq(1).all() and maps.target_NTHW[0, 0].sum() == 8
    assert maps.influence_NTHW[0, 0].equal(near_NTHW[0, 0].float())
    torch.testing.assert_close(maps.weight_NTHW.sum((0, 2, 3)), torch.tensor([1.0, 0, 0]))
    logits = torch.zeros(1, 1, 3, 8, 16, requires_grad=True)
    corrections_loss(logits, maps, 1).backward()
    assert torch.equal(logits.grad[0] != 0, maps.weight_NTHW > 0)
    no_near_NTHW = torch.zeros(1, 1, 8, 16, dtype=torch.bool)
    assert correction_maps(given, video, [0], range(2, 3), (32, 64), no_near_NTHW, lab_TCHW[2:]) is None


def test_clicks_reach_as_far_as_their_color():
    video = square([[0, 0, 64, 32]])
    clicks = Corrections({}, {0: (Point(0, 18.0, 14.0, True), Point(0, 46.0, 14.0, False))})
    lab_TCHW = torch.zeros(1, 3, 8, 16)
    lab_TCHW[..., 4:, :] = 50  # another color below the clicks
    near_NTHW = torch.ones(1, 1, 8, 16, dtype=torch.bool)
    maps = correction_maps(clicks, video, [0], range(1), (32, 64), near_NTHW, lab_TCHW)
    logits_HW = corrected_logits(torch.zeros(1, 1, 8, 16), maps)[0, 0]
    assert logits_HW[3, 4] == CERTAIN and logits_HW[3, 11] == -CERTAIN
    assert 0 < logits_HW[3, 7] < logits_HW[3, 6] < CERTAIN
    assert logits_HW[5, 4].abs() < 1e-3 and logits_HW[3, 8].abs() < 1
    assert not maps.weight_NTHW.any() and not maps.frames_T.any()


def test_a_scribble_is_a_row_of_clicks():
    video = square([[8, 8, 24, 24]] * 2)
    line = Scribble(0, ((10.0, 10.0), (22.0, 10.0)), True)
    clicks = Corrections(points={0: tuple(line.as_points(1.0))})
    near_NTHW = torch.ones(1, 2, 8, 16, dtype=torch.bool)
    maps = [
        correction_maps(given, video, [0], range(2), (32, 64), near_NTHW, torch.zeros(2, 3, 8, 16))
        for given in (Corrections(scribbles={0: (line,)}), clicks)
    ]
    assert torch.equal(maps[0].influence_NTHW, maps[1].influence_NTHW) and not maps[0].influence_NTHW[0, 1].any()
    assert (maps[0].target_NTHW[0, 0, 1:4, 2:6].sum(0) > 0).all()


def test_given_masks_define_boxes_that_are_missing_and_empty_ones_remove_them():
    video = square([[0, 0, 0, 0], [8, 8, 24, 24]])
    mask_HW = np.zeros((32, 64), bool)
    mask_HW[3:5, 10:14] = True
    given = Corrections({0: {0: encode_mask(mask_HW), 1: encode_mask(mask_HW & False)}})
    assert with_given_boxes(video, given).tracks[0].boxes_T4.tolist() == [[10, 3, 14, 5], [0, 0, 0, 0]]


def test_a_lost_mask_has_less_quality_than_one_that_fills_its_box():
    boxes_NT4 = torch.tensor([[[4.0, 4, 20, 20]] * 3] * 2 + [[[0.0, 0, 0, 0]] * 3])
    logits_NTHW = torch.full((3, 3, 24, 24), -6.0)
    logits_NTHW[0, :, 5:19, 4:20] = 6.0
    logits_NTHW[1, 0, 5:9, 5:9] = 0.5
    logits_NTHW[1, 1, 12:20, 14:20] = 0.5
    models = torch.stack([logits_NTHW, -logits_NTHW])
    disagreement_NT = disagreement(logits_NTHW, models[:1], boxes_NT4)
    assert disagreement_NT.abs().max() < 1e-6
    measured = features(logits_NTHW, disagreement_NT, boxes_NT4)
    assert (measured >= 0).all() and (measured <= 1).all() and not measured[2].any()
    quality_NT = expected_j(measured)
    assert (quality_NT[0] > quality_NT[1] + 0.1).all()
    assert (disagreement(logits_NTHW, models, boxes_NT4)[:2] > 0.3).all()
