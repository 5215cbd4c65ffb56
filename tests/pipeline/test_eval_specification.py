"""AP of YouTube-VIS and OVIS against its specification once more, slow and literal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.eval.ap_metrics import Metrics
from mfvis.eval.ytvis import evaluate
from mfvis.types import Track, TrackResult, VideoDataset
from pycocotools import mask as coco_mask
from ytvis_cases import data_set, rectangle, result, track


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
    return list(metrics.as_dict().values())


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
