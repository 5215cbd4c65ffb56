"""AP of YouTube-VIS and OVIS against hand-made cases and a slow restatement of its specification; mean J of labels."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.errors import DataError
from mfvis.eval import run as eval_run
from mfvis.eval.mean_j import filled_box, mean_j
from mfvis.eval.numbers import Metrics
from mfvis.eval.tubes import Tube, tube_iou
from mfvis.eval.ytvis import evaluate
from mfvis.types import Category, Track, TrackResult, Video, VideoDataset
from pycocotools import mask as coco_mask
from pytest import approx

REAL_DATA = Path(os.environ.get("MFVIS_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def rle(mask_HW: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def rectangle(x1: int, y1: int, x2: int, y2: int, height: int = 20, width: int = 20) -> np.ndarray:
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[y1:y2, x1:x2] = True
    return mask_HW


def box_of(mask_HW: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask_HW)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


def track(id: int, masks: list[np.ndarray | None], category_id: int = 1, areas=None, crowd: bool = False) -> Track:
    boxes = np.array([[0] * 4 if mask is None else box_of(mask) for mask in masks], dtype=np.float32)
    rles = tuple(None if mask is None else rle(mask) for mask in masks)
    measured = tuple(None if mask is None else float(mask.sum()) for mask in masks)
    return Track(id, category_id, boxes, rles, measured if areas is None else areas, crowd)


def result(masks: list[np.ndarray | None], score: float, video_id: int = 1, category_id: int = 1) -> TrackResult:
    rles = tuple(None if mask is None else rle(mask) for mask in masks)
    return TrackResult(video_id, category_id, score, rles, np.zeros((len(masks), 4), dtype=np.float32))


def data_set(*tracks_of_videos: list[Track], length: int = 1, classes: int = 1, side: int = 20) -> VideoDataset:
    videos = tuple(
        Video(number, f"video{number}", side, side, length, (), tuple(tracks))
        for number, tracks in enumerate(tracks_of_videos, start=1)
    )
    categories = tuple(Category(id, f"class{id}") for id in range(1, classes + 1))
    return VideoDataset(Path("true.json"), categories, videos)


# ------------------------------------------------------------------------- the specification again, slow and literal


def decoded(segmentation: dict | None) -> np.ndarray | None:
    return None if segmentation is None else coco_mask.decode(segmentation).astype(bool)


def oracle_iou(dt: tuple, gt: tuple) -> float:
    intersection = union = 0
    for d, g in zip(map(decoded, dt), map(decoded, gt), strict=False):
        if d is not None and g is not None:
            if d.shape != g.shape:
                continue
            intersection += int((d & g).sum())
            union += int((d | g).sum())
        elif d is not None or g is not None:
            union += int((d if d is not None else g).sum())
    return intersection / union if union else 0.0


def oracle_area(areas: list) -> float:
    counted = [area for area in areas if area is not None and area != 0]
    return float(np.mean(counted)) if counted else 0.0


def oracle_occlusion(track: Track) -> float:
    if track.occlusion is None:
        return 0.0
    scores = [{"no": 0, "slight": 0.25, "severe": 0.75}[level.split("_")[0]] for level in track.occlusion if level]
    worst = sorted(scores, reverse=True)[: (len(scores) + 1) // 2]
    return sum(worst) / len(worst)


def oracle(dataset: VideoDataset, results: list[TrackResult]) -> list[float]:
    thresholds, recalls = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
    ranges = [(0, 1e10, 0, 1), (0, 128**2, 0, 1), (128**2, 256**2, 0, 1), (256**2, 1e10, 0, 1)]
    ranges += [(0, 1e10, 0, 0.25), (0, 1e10, 0.25, 0.5), (0, 1e10, 0.5, 1)]
    with_occlusion = any(track.occlusion for video in dataset.videos for track in video.tracks)
    precision, recall = {}, {}
    for category in dataset.categories:
        for a, (low, high, light, heavy) in enumerate(ranges):
            for most in (1, 10, 100):
                for i, threshold in enumerate(thresholds):
                    rows, positives = [], 0
                    for video in sorted(dataset.videos, key=lambda video: video.id):
                        dts = [r for r in results if r.video_id == video.id and r.category_id == category.id]
                        dts = sorted(dts, key=lambda r: -r.score)[:100]
                        gts = [t for t in video.tracks if t.category_id == category.id]
                        skip = {
                            id(t): t.iscrowd
                            or not low <= oracle_area(t.areas) <= high
                            or not light <= oracle_occlusion(t) <= heavy
                            for t in gts
                        }
                        gts = sorted(gts, key=lambda t: skip[id(t)])
                        positives += sum(not skip[id(t)] for t in gts)
                        taken = set()
                        for rank, dt in enumerate(dts):
                            best, match = min(threshold, 1 - 1e-10), None
                            for gt in gts:
                                if id(gt) in taken and not gt.iscrowd:
                                    continue
                                if match is not None and not skip[id(match)] and skip[id(gt)]:
                                    break
                                iou = oracle_iou(dt.segmentations, gt.segmentations)
                                if iou < best:
                                    continue
                                best, match = iou, gt
                            ignore = match is not None and skip[id(match)]
                            if match is not None:
                                taken.add(id(match))
                            hit = match is not None and match.id != 0
                            masks = [decoded(s) for s in dt.segmentations]
                            area = oracle_area([None if mask is None else mask.sum() for mask in masks])
                            if not hit and not low <= area <= high:
                                ignore = True
                            if rank < most:
                                rows.append((dt.score, hit, ignore))
                    if positives == 0:
                        continue
                    rows.sort(key=lambda row: -row[0])
                    tp = fp = 0
                    points = []
                    for _, hit, ignore in rows:
                        tp += hit and not ignore
                        fp += not hit and not ignore
                        points.append((tp / positives, tp / (tp + fp + np.spacing(1))))
                    key = (category.id, a, most, i)
                    recall[key] = points[-1][0] if points else 0.0
                    # The first index that reaches the recall, and the best precision from there on.
                    precision[key] = []
                    for value in recalls:
                        later = [p for p_recall, p in points if p_recall >= value]
                        first = next((n for n, point in enumerate(points) if point[0] >= value), None)
                        assert (first is None) == (not later)
                        precision[key].append(0.0 if first is None else max(p for _, p in points[first:]))

    def mean(table, a, most, i=None):
        cells = [v for k, v in table.items() if k[1] == a and k[2] == most and i in (None, k[3])]
        return float(np.mean(cells)) if cells else -1.0

    return [
        *(mean(precision, 0, 100, i) for i in (None, 0, 5)),
        *(mean(precision, a, 100) for a in (1, 2, 3, *((4, 5, 6) if with_occlusion else ()))),
        *(mean(recall, 0, most) for most in (1, 10, 100)),
        *(mean(recall, a, 100) for a in (1, 2, 3, *((4, 5, 6) if with_occlusion else ()))),
    ]


def numbers(metrics: Metrics) -> list[float]:
    return list(metrics.named().values())


@st.composite
def small_cases(draw):
    """Rectangles on an 8x8 frame: few distinct IoUs, so that ties and exact thresholds are common."""
    length = draw(st.integers(1, 3))
    rectangles = st.sampled_from([(0, 0, 4, 4), (0, 0, 8, 4), (0, 2, 4, 6), (4, 4, 8, 8), (0, 0, 8, 8), (0, 0, 0, 0)])
    mask = st.one_of(st.none(), rectangles.map(lambda r: rectangle(*r, 8, 8)))
    tube = st.lists(mask, min_size=length, max_size=length)
    area = st.sampled_from([None, 0, 10, 128**2, 20000, 256**2, 100000])
    occluded = draw(st.booleans())
    level = st.sampled_from([None, "no_occlusion", "slight_occlusion", "severe_occlusion"])
    occlusion = st.lists(level, min_size=length, max_size=length).filter(any).map(tuple)
    videos = []
    for number in range(draw(st.integers(1, 2))):
        tracks = [
            track(
                draw(st.sampled_from([0, 3, 7])) + 10 * n,
                draw(tube),
                draw(st.integers(1, 2)),
                crowd=draw(st.booleans()),
            )
            for n in range(draw(st.integers(0, 3)))
        ]
        areas = st.lists(area, min_size=length, max_size=length).map(tuple)
        tracks = [replace(t, areas=draw(areas)) if draw(st.booleans()) else t for t in tracks]
        videos.append([replace(t, occlusion=draw(occlusion)) if occluded else t for t in tracks])
        assert number < 2
    results = [
        result(
            draw(tube)[: draw(st.integers(1, length))],
            draw(st.sampled_from([0.1, 0.5, 0.9])),
            draw(st.integers(1, len(videos))),
            draw(st.integers(1, 3)),
        )
        for _ in range(draw(st.integers(0, 6)))
    ]
    return data_set(*videos, length=length, classes=2, side=8), results


@settings(max_examples=60, deadline=None)
@given(small_cases())
def test_equals_a_literal_restatement_of_the_specification(case):
    dataset, results = case
    np.testing.assert_allclose(numbers(evaluate(dataset, results)), oracle(dataset, results), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------ hand-made cases


def test_a_perfect_prediction_has_ap_one():
    masks = [rectangle(2, 2, 8, 8), None]
    metrics = evaluate(data_set([track(5, masks)], length=2), [result(masks, 0.3)])
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar1, metrics.ar100) == approx((1, 1, 1, 1, 1))
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == approx((1, -1, -1))
    assert metrics.classes[0].name == "class1"
    assert metrics.classes[0].ap == approx(1)


def test_tube_iou_is_over_the_whole_tube():
    a, b = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    tubes = [Tube((rle(b), rle(b))), Tube((rle(a), None)), Tube((None, None))]
    iou = tube_iou([Tube((rle(a), None))], tubes)
    np.testing.assert_array_equal(iou, [[50 / 150, 1.0, 0.0]])


def test_pixels_are_counted_exactly_beyond_float32():
    big = np.zeros((3000, 3001), dtype=bool)
    big[1:] = True
    one_less = big.copy()
    one_less[1, 0] = False
    area = int(big.sum())
    iou = tube_iou([Tube((rle(big),) * 3)], [Tube((rle(big), rle(one_less), rle(big)))])
    assert iou[0, 0] == (3 * area - 1) / (3 * area)


def test_frames_of_another_size_count_for_nothing_and_surplus_frames_are_ignored():
    a, other = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 10, 30, 30)
    assert tube_iou([Tube((rle(a), rle(other)))], [Tube((rle(a), rle(a)))])[0, 0] == 1
    assert tube_iou([Tube((rle(a),))], [Tube((rle(a), rle(a)))])[0, 0] == 1


def test_an_iou_equal_to_the_threshold_matches():
    gt, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    metrics = evaluate(data_set([track(1, [gt])]), [result([half], 0.9)])
    assert metrics.ap50 == approx(1)
    assert metrics.ap == approx(0.1)


def test_a_false_positive_ranked_first_halves_the_precision():
    gt, elsewhere = rectangle(0, 0, 5, 5), rectangle(10, 10, 15, 15)
    metrics = evaluate(data_set([track(1, [gt])]), [result([elsewhere], 0.9), result([gt], 0.8)])
    assert metrics.ap50 == approx(0.5)
    assert metrics.ar1 == 0
    assert metrics.ar10 == 1


def test_crowds_are_neither_hit_nor_missed():
    gt, mob = rectangle(0, 0, 5, 5), rectangle(10, 10, 20, 20)
    dataset = data_set([track(1, [gt]), track(2, [mob], crowd=True)])
    metrics = evaluate(dataset, [result([mob], 0.9), result([mob], 0.8), result([gt], 0.7)])
    assert metrics.ap == approx(1)


def test_size_classes_come_from_the_areas_field():
    mask = [rectangle(0, 0, 5, 5)]
    metrics = evaluate(data_set([track(1, mask, areas=(20000.0,))]), [result(mask, 0.9)])
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == approx((-1, 1, -1))


def test_the_reference_takes_a_match_with_annotation_zero_for_none():
    mask = [rectangle(0, 0, 5, 5)]
    assert evaluate(data_set([track(0, mask)]), [result(mask, 0.9)]).ap == 0


def test_a_class_without_annotations_is_left_out_and_one_without_predictions_counts_as_zero():
    mask = [rectangle(0, 0, 5, 5)]
    dataset = data_set([track(1, mask, 1), track(2, mask, 2)], classes=3)
    metrics = evaluate(dataset, [result(mask, 0.9, category_id=1)])
    assert [entry.ap for entry in metrics.classes] == approx([1, 0, -1])
    assert metrics.ap == approx(0.5)


def test_an_unknown_video_is_refused():
    with pytest.raises(ValueError, match=r"video ids \[9\] are not in"):
        evaluate(data_set([]), [result([None], 0.9, video_id=9)])


def test_occlusion_gives_the_eighteen_numbers_of_ovis():
    hidden = [rectangle(0, 0, 5, 5)] * 3
    shown = [rectangle(10, 10, 15, 15)] * 3
    # The worse half of three frames is two: (0.75 + 0.25) / 2, in two ranges.
    tracks = [
        replace(track(1, hidden), occlusion=("severe_occlusion", "slight_occlusion", "no_occlusion")),
        replace(track(2, shown), occlusion=("no_occlusion", None, None)),
    ]
    metrics = evaluate(data_set(tracks, length=3), [result(hidden, 0.9)])
    assert list(metrics.named())[6:9] == ["APso", "APmo", "APho"]
    assert len(metrics.named()) == len(metrics.classes[0].named()) == 18
    assert (metrics.ap_light_occlusion, metrics.ap_medium_occlusion, metrics.ap_heavy_occlusion) == approx((0, 1, 1))
    assert (metrics.ar_light_occlusion, metrics.ar_medium_occlusion, metrics.ar_heavy_occlusion) == approx((0, 1, 1))


@pytest.mark.parametrize(
    ("occlusion", "message"),
    [
        (None, "has no occlusion, while others have"),
        ((None,), "has no occlusion"),
        (("some",), "occlusion 'some' is not"),
    ],
)
def test_tracks_without_a_readable_occlusion_are_refused_where_others_have_one(occlusion, message):
    mask = [rectangle(0, 0, 5, 5)]
    first = replace(track(1, mask), occlusion=("no_occlusion",))
    with pytest.raises(DataError, match=message):
        evaluate(data_set([first, replace(track(2, mask), occlusion=occlusion)]), [])


def test_every_damaged_mask_and_area_of_the_data_set_is_named():
    broken = replace(track(1, [rectangle(0, 0, 5, 5)]), segmentations=({"size": [20, 20], "counts": "12"},))
    areas = replace(track(2, [rectangle(0, 0, 5, 5)]), areas=(float("nan"),))
    with pytest.raises(DataError) as caught:
        evaluate(data_set([broken, areas]), [])
    assert [problem.record for problem in caught.value.problems] == ["annotation 1, frame 0", "annotation 2"]


# ----------------------------------------------------------------------------------------------------------- mean J


def test_mean_j_averages_over_object_frames_and_the_filled_box_is_its_baseline():
    true = [rectangle(0, 0, 10, 10), None, rectangle(0, 0, 4, 4)]
    diagonal = rectangle(0, 0, 10, 10) & np.tri(20, dtype=bool)
    dataset = data_set([track(3, [diagonal, None, true[2]])], length=3)
    given_masks = replace(result([true[0], true[0], None], 1.0), track_id=3)
    metrics = mean_j(dataset, [given_masks])
    assert metrics.object_frames == 2
    assert metrics.j == approx((0.55 + 0) / 2)
    assert metrics.filled_box_j == approx((0.55 + 1) / 2)
    assert metrics.tracks[0].frames == 2


def test_mean_j_needs_a_result_for_every_track():
    with pytest.raises(ValueError, match="track 3 of video 'video1' has no masks"):
        mean_j(data_set([track(3, [rectangle(0, 0, 4, 4)])]), [])


def test_filled_box_takes_the_pixels_whose_centres_are_inside():
    np.testing.assert_array_equal(
        filled_box(np.array([0.6, 0, 2.5, 1.4]), 2, 4), [[False, True, False, False], [False] * 4]
    )


# --------------------------------------------------------------------------------------------------- results files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, dict]:
    """A data set of one video with masks on the disk, and a correct result for it."""
    from PIL import Image

    mask = rectangle(2, 3, 9, 12)
    (tmp_path / "JPEGImages" / "a").mkdir(parents=True)
    for t in range(2):
        Image.new("RGB", (20, 20)).save(tmp_path / "JPEGImages" / "a" / f"{t:05d}.jpg")
    names = [f"a/{t:05d}.jpg" for t in range(2)]
    annotation = {"id": 1, "video_id": 4, "category_id": 2, "iscrowd": 0, "bboxes": [[2, 3, 7, 9], None]}
    annotation |= {"segmentations": [rle(mask), None], "areas": [63, None], "height": 20, "width": 20, "length": 2}
    content = {
        "videos": [{"id": 4, "width": 20, "height": 20, "length": 2, "file_names": names}],
        "categories": [{"id": 2, "name": "thing"}],
        "annotations": [annotation],
    }
    data = tmp_path / "val.json"
    data.write_text(json.dumps(content))
    good = {"video_id": 4, "category_id": 2, "score": 0.5, "segmentations": [rle(mask), None]}
    return data, tmp_path / "results.json", good


def test_eval_of_a_results_file_prints_the_table_and_writes_the_numbers(files, capsys, tmp_path):
    data, results, good = files
    results.write_text(json.dumps([good]))
    metrics = eval_run.run(eval_run.EvalConfig(results, str(data), tmp_path / "metrics.json"))
    assert metrics.ap == approx(1)
    printed = capsys.readouterr().out
    assert " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000" in printed
    assert "thing" in printed
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == approx(1)


def test_what_the_reference_program_would_stop_at_is_noted(files, capsys, tmp_path):
    data, results, good = files
    content = json.loads(data.read_text())
    del content["annotations"][0]["iscrowd"], content["annotations"][0]["areas"]
    data.write_text(json.dumps(content))
    results.write_text(json.dumps([good]))
    assert eval_run.run(eval_run.EvalConfig(results, str(data), tmp_path / "metrics.json")).ap == approx(1)
    assert "1 of 1 annotations have no iscrowd" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "metrics.json").read_text())["notes"]) == 2


def test_eval_of_a_labelled_data_set_prints_mean_j(files, capsys):
    data, results, _ = files
    results.write_text(data.read_text())
    assert eval_run.run(eval_run.EvalConfig(results, str(data))).j == 1
    assert "filled box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "high"}, "score is 'high', expected a number"),
        ({"score": float("nan")}, "score is nan"),
        ({"video_id": 5}, "video 5 is unknown"),
        ({"category_id": 0}, "category 0 is unknown"),
        ({"segmentations": [None]}, "segmentations has 1 entries, the video 2 frames"),
        ({"segmentations": [None, {"size": [5, 5], "counts": "0"}]}, r"frame 1: the mask's size is \[5, 5\]"),
        ({"segmentations": [None, {"counts": "0"}]}, "frame 1: the mask is an object, expected polygons or an RLE"),
        ({"segmentations": [None, {"size": [20, 20], "counts": "12"}]}, "frame 1: the RLE"),
        ({"segmentations": [None, [[0, 0, 5, 0, 5, 5]]]}, "frame 1: the mask is not a compressed RLE, but polygons"),
        (
            {"segmentations": [None, {"size": [20, 20], "counts": [0, 400]}]},
            "frame 1: the mask is not a compressed RLE",
        ),
    ],
)
@pytest.mark.parametrize("boxes", [{}, {"bboxes": [[2, 3, 7, 9], None]}])
def test_each_fault_of_a_results_file_is_named(files, change, message, boxes):
    data, results, good = files
    results.write_text(json.dumps([good | boxes | change]))
    with pytest.raises(DataError, match=message):
        eval_run.run(eval_run.EvalConfig(results, str(data)))


def test_all_faults_of_a_results_file_are_reported_together(files):
    data, results, good = files
    results.write_text(json.dumps([good | {"score": None}, 7, {"score": 1}, good | {"video_id": 9, "category_id": 3}]))
    with pytest.raises(DataError) as caught:
        eval_run.run(eval_run.EvalConfig(results, str(data)))
    assert len(caught.value.problems) >= 5


@pytest.mark.parametrize(
    ("text", "message"), [("[]", "holds no result"), ("{", "ends in the middle of the JSON"), (None, "does not exist")]
)
def test_a_results_file_that_holds_nothing_is_refused(files, text, message):
    data, results, _ = files
    if text is not None:
        results.write_text(text)
    with pytest.raises(DataError, match=message):
        eval_run.run(eval_run.EvalConfig(results, str(data)))


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL_DATA / "realvid").is_dir(), reason="needs the real clips")
def test_filled_box_j_of_the_real_clips():
    from mfvis.data.ytvis import load_dataset

    dataset = load_dataset(REAL_DATA / "realvid" / "val.json")
    results = [
        TrackResult(video.id, track.category_id, 1.0, track.segmentations, track.boxes_T4, track.id)
        for video in dataset.videos
        for track in video.tracks
    ]
    metrics = mean_j(dataset, results)
    assert metrics.j == 1
    assert metrics.object_frames == 330
    assert metrics.filled_box_j == approx(0.427, abs=5e-4)
