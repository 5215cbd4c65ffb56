"""`benchmarks/study_labels.py`: variants of label mode, and boxes in every n-th frame, with points or without."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mfvis.data.rle import encode_mask
from mfvis.labeling.config import LabelConfig
from mfvis.parsing import build

LISTS = sorted((Path(__file__).parents[2] / "benchmarks" / "studies" / "labels").glob("*.yaml"))


def test_variants_of_label_mode_are_compared_video_by_video(
    study, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import study_labels
    from mfvis.models.backbone import Backbone
    from mfvis.models.config import BackboneConfig
    from mfvis.weights.files import save_safetensors

    weights, file = tmp_path / "tiny.safetensors", tmp_path / "losses.yaml"
    save_safetensors(weights, Backbone(BackboneConfig("tiny")).net.state_dict())
    file.write_text(
        "{about: x, seeds: [0, 1], reference: a, settings: {num_models: 1, shared_steps: 0, short_side: 32, clip: 2, "
        "optim: {steps: 1, warmup: 0}, backbone: {name: tiny}, propagation: {weight: 0}, refine: {steps: 0}}, "
        "variants: [{name: a}, {name: b, boxes_every: 3, points: true}]}"
    )
    command = ["study_labels.py", file, "--data", data, "--weights", weights, "--runs", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*command, "--out", tmp_path / "out"])))
    study_labels.main()
    report = (tmp_path / "out" / "labels_losses.md").read_text()
    assert "| a | 2 | 0." in report and "| b | 2 | 0." in report and report.count(" ± ") >= 2
    measures = sorted((tmp_path / "runs").glob("*/measures.json"))
    before = [path.stat().st_mtime_ns for path in measures]
    assert len(measures) == 4
    truth = {track["id"] for track in json.loads((data / "val.json").read_text())["annotations"]}
    for measured in (json.loads(path.read_text()) for path in measures):
        assert {track["track_id"] for track in measured} == truth
        assert any(track["j"] > 0 for track in measured)
    study_labels.main()
    assert [path.stat().st_mtime_ns for path in measures] == before

    tracks = [{"video": "v", "j": 0.5, "frames": 1}, {"video": "v", "j": 0.8, "frames": 2}]
    assert study_labels.mean_of_videos(tracks) == pytest.approx({"v": 0.7})
    low, high = {"v": 0.4, "w": 0.6}, {"v": 0.5, "w": 0.9}
    assert study_labels.difference([high], [low]) == "+0.200 [+0.100, +0.300]; +0.200"


def test_boxes_between_those_drawn_are_interpolated(study) -> None:
    from study_sparse import interpolated

    first, second, last = [0, 0, 4, 4], [4, 0, 4, 8], [9, 9, 9, 9]
    boxes = interpolated([None, first, last, second, last, None, last], 2)
    assert boxes == [None, first, [2, 0, 4, 6], second, last, None, last]


def test_a_box_without_its_point_is_moved_until_it_holds_it(study) -> None:
    """A square of 5 x 5 pixels jumps to the right in the second of four frames, and is hidden in the third."""
    from study_sparse import with_sparse_boxes

    boxes = [[10, 10, 5, 5], [20, 10, 5, 5], [10, 10, 5, 5], [10, 10, 5, 5]]
    masks = np.zeros((4, 30, 40), bool)
    for t, (x, y, w, h) in enumerate(boxes):
        masks[t, y : y + h, x : x + w] = t != 2
    rles = [encode_mask(mask_HW) if mask_HW.any() else None for mask_HW in masks]
    root = {
        "videos": [{"id": 1, "height": 30, "width": 40}],
        "annotations": [{"id": 1, "video_id": 1, "bboxes": boxes, "segmentations": rles}],
    }
    (with_points,) = with_sparse_boxes(root, 3, points=True)["annotations"]
    assert with_points["points"] == [[1, 22.5, 12.5, 1]]
    assert with_points["bboxes"] == [boxes[0], [17.5, 10, 5, 5], boxes[2], boxes[3]]
    (without,) = with_sparse_boxes(root, 3, points=False)["annotations"]
    assert "points" not in without and without["bboxes"] == [boxes[0]] * 4
    assert root["annotations"][0]["bboxes"] == boxes, "the argument is as it was"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"points": True}, "variant 'a': points are in frames without boxes; set boxes_every"),
        ({"box_every": 2}, "variant a: unknown key box_every; there are boxes_every, name, points, settings"),
    ],
)
def test_a_variant_with_mistakes_is_refused(study, content: dict, message: str) -> None:
    import study_labels

    with pytest.raises(ValueError, match=message):
        study_labels.labelings_of({"seeds": [0], "variants": [{"name": "a"} | content]}, Path("data"), Path("runs"))


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_list_that_is_shipped_builds_its_labelings(study, file: Path) -> None:
    import study_labels

    content = yaml.safe_load(file.read_text())
    labelings = study_labels.labelings_of(content, Path("data"), Path("runs"))
    assert len({run.folder for run in labelings}) == len(labelings) == len(content["seeds"]) * len(content["variants"])
    assert content["about"] and content["reference"] in {run.variant for run in labelings}
    for run in labelings:
        config = build(LabelConfig, run.settings | {"data": "boxes.json"}, run.variant)
        assert config.seed == run.seed
