"""Box tracking of BDD100K: a box is the mask of its pixels, so that its numbers follow from those of masks."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mfvis.errors import DataError
from mfvis.eval.box_overlap import toolkit_overlap, track_eval_overlap
from mfvis.eval.config import EvalConfig
from mfvis.eval.mots import MotsMetrics, evaluate_mots
from mfvis.eval.mots_frame import TrackingFrames
from mfvis.eval.run import run
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from mots_cases import NAMES, Thing, encoded, flat, rectangle
from pytest import approx
from test_eval_hota import hota_numbers, hota_sums, preprocessed
from test_eval_mots import assert_same, oracle, toolkit_numbers

Corners = tuple[int, int, int, int]
Boxes = list[tuple[int, int, Corners, bool]]
"""The objects of a frame: id, class, inclusive corners, whether it is an ignore region."""
Case = list[tuple[Boxes, Boxes]]
"""The annotated and the predicted objects of each frame of a video."""


def random_boxes(seed: int) -> Case:
    """A video whose boxes overlap each other, come and go, and are predicted with errors."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([1, 3, 3, 4, 8], 5)
    corners = np.concatenate([rng.integers(0, 12, (5, 2)), rng.integers(12, 22, (5, 2))], 1)
    found = {n: n + 10 for n in range(5)}
    case = []
    for _ in range(6):
        corners = np.clip(corners + rng.integers(-1, 2, corners.shape), [0, 0, 12, 12], [11, 11, 30, 22])
        true: Boxes = []
        predicted: Boxes = []
        for n, label in enumerate(labels.tolist()):
            box = tuple(corners[n].tolist())
            if rng.random() < 0.85:
                true.append((n, label, box, bool(rng.random() < 0.15)))
            if rng.random() < 0.15:
                found[n] = int(rng.integers(100, 900))
            if rng.random() < 0.85 and found[n] not in [one[0] for one in predicted]:
                x1, y1, x2, y2 = box
                shift = int(rng.choice([0, 0, 1, 4]))
                predicted.append((found[n], label, (x1, y1, x2 + shift, min(y2 + shift, 23)), False))
        case.append((true, predicted))
    return case


def things(case: Case, last: int) -> dict[str, list[tuple[list[Thing], list[Thing]]]]:
    """The boxes as masks, their last column and row included (1) or not (0)."""

    def masks(boxes: Boxes) -> list[Thing]:
        return [
            Thing(id, label, rectangle(x1, y1, x2 + last, y2 + last), ignored)
            for id, label, (x1, y1, x2, y2), ignored in boxes
        ]

    return {"video": [(masks(true), masks(predicted)) for true, predicted in case]}


def write(folder: Path, case: Case, **fields: Any) -> tuple[Path, Path]:
    """``(annotated.json, predicted.json)``; `fields` are those of each label."""
    paths = folder / "annotated.json", folder / "predicted.json"
    for side, path in enumerate(paths):
        frames = []
        for t, frame in enumerate(case):
            labels = [
                {
                    "id": str(id),
                    "category": NAMES[label - 1],
                    "attributes": {"ignored": ignored},
                    "box2d": dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
                }
                | fields
                for id, label, corners, ignored in frame[side]
            ]
            frames.append({"name": f"{t}.jpg", "videoName": "video", "frameIndex": t, "labels": labels})
        path.write_text(json.dumps(frames))
    return paths


def measured(folder: Path, case: Case) -> MotsMetrics:
    annotated, predicted = write(folder, case)
    return evaluate_mots(read_scalabel_tracks(predicted, annotated))


@pytest.mark.parametrize("seed", range(12))
def test_numbers_are_those_of_the_masks_of_the_boxes(seed: int, tmp_path: Path) -> None:
    """The toolkit's boxes have their last column and row, TrackEval's do not."""
    case = random_boxes(seed)
    ours = measured(tmp_path, case)
    assert_same(flat(ours), oracle(things(case, 1)))
    for label, name in enumerate(NAMES, start=1):
        expected = hota_numbers(hota_sums(preprocessed(things(case, 0)["video"], label)))
        numbers = vars(ours.track_eval[name])
        assert {key: numbers[key] for key in expected} == approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(100, 103))
def test_equals_the_toolkit(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("scalabel")
    pytest.importorskip("bdd100k")
    from bdd100k.common.utils import load_bdd100k_config
    from scalabel.eval.mot import acc_single_video_mot, evaluate_track
    from scalabel.label.io import group_and_sort, load

    case = random_boxes(seed)
    ours = measured(tmp_path, case)
    loaded = [group_and_sort(load(str(tmp_path / f"{side}.json")).frames) for side in ("annotated", "predicted")]
    with contextlib.redirect_stderr(io.StringIO()):
        result = evaluate_track(acc_single_video_mot, *loaded, load_bdd100k_config("box_track").scalabel, nproc=1)
    assert_same(flat(ours), toolkit_numbers(result))


A, B = (0, 0, 9, 9), (20, 10, 29, 19)


def test_the_command_evaluates_boxes_where_there_are_no_masks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    half = (0, 0, 9, 4)
    annotated, predicted = write(tmp_path, [([(1, 3, A, False), (2, 1, B, False)], [(7, 3, half, False)])] * 2)
    metrics = run(EvalConfig(predicted, str(annotated), tmp_path / "metrics.json"))
    # One car of IoU 1/2 in each frame, which is allowed; no pedestrian.
    assert metrics.of_boxes and metrics.as_dict() == {"mMOTA": 12.5, "mMOTP": 6.25, "mIDF1": 12.5, "IDSw": 0}
    assert (metrics.clear["car"].MOTP, metrics.clear["pedestrian"].FN) == (50, 2)
    # TrackEval: 9 x 4 of 9 x 9, which is 4/9 and too little for CLEAR, but a hit at 8 of HOTA's 19 thresholds.
    car = metrics.track_eval["car"]
    assert (car.CLR_TP, car.CLR_FN) == (0, 2)
    assert (car.HOTA, car.LocA) == approx((8 / 19, (8 * 4 / 9 + 11) / 19))
    printed = capsys.readouterr().out
    assert "mMOTA 12.5   mMOTP 6.2   mIDF1 12.5   IDSw 0" in printed and "HOTA" in printed and "sMOTSA" not in printed
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["mMOTA"] == written["BDD100K"]["MOTA"]["AVERAGE"] == 12.5 and "mMOTSA" not in written


def test_a_prediction_in_an_ignore_region_does_not_count(tmp_path: Path) -> None:
    region = (1, 1, (0, 0, 9, 9), True)
    inside, across = (5, 3, (0, 0, 9, 17), False), (6, 3, (0, 0, 9, 19), False)
    assert measured(tmp_path, [([region], [inside])]).clear["car"].FP == 0
    assert measured(tmp_path, [([region], [across])]).clear["car"].FP == 1, "half inside is not enough"


def test_ids_of_annotations_may_be_texts(tmp_path: Path) -> None:
    annotated, predicted = write(tmp_path, [([(1, 3, A, False)], [(1, 3, A, False)])] * 2)
    annotated.write_text(annotated.read_text().replace('"id": "1"', '"id": "a-00122062"'))
    assert evaluate_mots(read_scalabel_tracks(predicted, annotated)).clear["car"].MOTA == 100


def test_labels_without_a_box_are_counted_in_a_note(tmp_path: Path) -> None:
    annotated, predicted = write(tmp_path, [([(1, 3, A, False)], [(1, 3, A, False), (2, 3, B, False)])])
    frames = json.loads(predicted.read_text())
    del frames[0]["labels"][1]["box2d"]
    predicted.write_text(json.dumps(frames))
    metrics = evaluate_mots(read_scalabel_tracks(predicted, annotated))
    assert metrics.clear["car"].FP == 0
    assert metrics.notes == (f"{predicted}: 1 labels have no box2d and do not count",)


def test_what_both_sides_have_is_compared(tmp_path: Path) -> None:
    case = [([(1, 3, A, False)], [(1, 3, B, False)])]

    def kind(true: dict, found: dict) -> TrackingFrames:
        annotated, _ = write(tmp_path, case, **true)
        (tmp_path / "other").mkdir(exist_ok=True)
        _, predicted = write(tmp_path / "other", case, **found)
        return read_scalabel_tracks(predicted, annotated)

    rle = encoded(rectangle(0, 0, 5, 5))
    both, masks, boxes = {"rle": rle}, {"rle": rle, "box2d": None}, {}
    assert kind(both, both).kind == kind(both, masks).kind == kind(masks, both).kind == "masks"
    assert kind(both, boxes).kind == kind(boxes, both).kind == kind(boxes, boxes).kind == "boxes"
    with pytest.raises(DataError, match="has masks only, the annotations .* have boxes only. Give both sides rle, or"):
        kind(boxes, masks)
    annotated, predicted = write(tmp_path, [([(1, 3, A, False)], [])])
    assert evaluate_mots(read_scalabel_tracks(predicted, annotated)).clear["car"].FN == 1


def test_published_labels_of_boxes_are_found(tmp_path: Path) -> None:
    """For box tracks those of box tracking; the masks' labels have boxes, too, but other videos."""
    annotated, predicted = write(tmp_path, [([(1, 3, A, False)], [(4, 3, A, False)])])
    folder = tmp_path / "bdd100k/labels/box_track_20/val"
    folder.mkdir(parents=True)
    annotated.rename(folder / "video.json")
    masks = tmp_path / "bdd100k/labels/seg_track_20/rles/val"
    masks.mkdir(parents=True)
    (masks / "video.json").write_text("[]")
    assert run(EvalConfig(predicted, f"bdd100k-mots:{tmp_path}")).clear["car"].MOTA == 100
    with pytest.raises(DataError, match=r"has no labels/seg_track_20/rles/train, labels/box_track_20/train"):
        run(EvalConfig(predicted, f"bdd100k-mots:{tmp_path}@split=train"))


def test_overlaps_of_the_two_programs() -> None:
    true, found = np.array([[0, 0, 3, 3], [5, 5, 5, 9]], float), np.array([[0, 2, 3, 5], [5, 5, 5, 9]], float)
    iou_GP, inside_GP = toolkit_overlap(true, found)
    assert iou_GP.tolist() == [[8 / 24, 0], [0, 1]] and inside_GP.tolist() == [[0.5, 0], [0, 1]]
    iou_GP, inside_GP = track_eval_overlap(true, found)
    assert iou_GP.tolist() == [[3 / 15, 0], [0, 0]] and inside_GP.tolist() == [[1 / 3, 0], [0, 0]]
    none = np.zeros((0, 4))
    assert toolkit_overlap(true, none)[0].shape == (2, 0) and track_eval_overlap(none, found)[1].shape == (0, 2)
