"""Mask AP and AR of YouTube-VIS, OVIS and COCO.

`evaluate` reproduces the reference programs: youtubevos/cocoapi f3f9948; for OVIS qjy981010/cocoapi 886baff; for COCO,
with images as videos of one frame, pycocotools. Their quirks are included: the frames of two tubes are paired by
``zip``; a frame in which two mask sizes differ does not count; ties in IoU go to the later annotation; an annotation
with id 0 can be matched, but its match counts as a false positive; predictions have no occlusion, so that all unmatched
ones count in every range of occlusion.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mfvis.data.jsonfile import is_finite
from mfvis.data.masks import compress_masks
from mfvis.data.results import masks_of
from mfvis.errors import DataError, Problem
from mfvis.eval.ap_metrics import MAX_DETECTIONS, METRICS, YOUTUBE_VIS, ApMetrics, ClassMetrics, Metrics, Range, Rules
from mfvis.eval.tubes import Tube, mean_area, tube_iou
from mfvis.text import shortened
from mfvis.types import Track, TrackResult, VideoDataset

# linspace, not arange or i / 100: the last bits of these numbers decide ties with exact IoUs and recalls.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
OCCLUSIONS = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


def evaluate(
    dataset: VideoDataset,
    results: Sequence[TrackResult],
    *,
    rules: Rules = YOUTUBE_VIS,
    file: str = "results",
    problems: Sequence[Problem] = (),
) -> Metrics:
    """AP and AR of predicted tracks against a data set with masks. Tracks with `occlusion` are evaluated as in OVIS.

    Results of a category that the data set does not have are ignored. Only the 100 highest-scoring results of each
    video and class count. `rules` apply to OVIS too. `file` names the source of the results in messages, `problems` are
    the problems of the results that are already known.

    Raises:
        ValueError: when a video of the results is not in the data set.
        DataError: with `problems` and every mask of the results, or else of the data set, that cannot be read.
    """
    unknown = {result.video_id for result in results} - {video.id for video in dataset.videos}
    if unknown:
        raise ValueError(f"results: video ids {sorted(unknown)} are not in {dataset.path}; drop these results")
    predicted = _predicted_tracks(dataset, results, file, problems)
    true = _true_tracks(dataset)
    occlusion = any(track.occlusion is not None for video in dataset.videos for track in video.tracks)
    metrics = [metric for metric in METRICS if occlusion or metric.range.occlusion == "all"]
    ranges = list(dict.fromkeys(metric.range for metric in metrics))

    # Most of thousands of categories have neither objects nor results: all of their metrics are undefined.
    used = {track.category_id for video in dataset.videos for track in video.tracks}
    used.update(result.category_id for result in results)
    categories = [category for category in dataset.categories if category.id in used]
    # Axes: class, range, maximum number of detections, then thresholds (and recalls).
    shape = (len(categories), len(ranges), len(MAX_DETECTIONS))
    precision = np.full((*shape, len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    recall = np.full((*shape, len(IOU_THRESHOLDS)), -1.0)
    videos = sorted(video.id for video in dataset.videos)
    for label, category in enumerate(categories):
        cells: list[list[VideoMatch]] = [[] for _ in ranges]
        for video_id in videos:
            truth = true.get((video_id, category.id), [])
            ranked = sorted(predicted.get((video_id, category.id), []), key=lambda track: -track.score)
            ranked = ranked[: MAX_DETECTIONS[-1]]
            if not truth and not ranked:
                continue
            iou_DG = tube_iou([track.tube for track in ranked], [track.tube for track in truth])
            if rules.crowd_uses_ioa:
                _measure_crowds(truth, ranked, iou_DG)
            for column, range_ in zip(cells, ranges, strict=True):
                column.append(_match(truth, ranked, iou_DG, rules.areas(range_.area), range_.occlusions))
        for r, column in enumerate(cells):
            for m, most in enumerate(MAX_DETECTIONS):
                precision[label, r, m], recall[label, r, m] = _accumulate(column, most)

    def mean_over(labels: slice) -> dict[str, float | None]:
        values: dict[str, float | None] = dict.fromkeys(field.name for field in fields(ApMetrics))
        for metric in metrics:
            table = precision if metric.kind == "Precision" else recall
            cell = table[labels, ranges.index(metric.range), MAX_DETECTIONS.index(metric.max_detections)]
            values[metric.field] = _mean(cell if metric.iou is None else cell[:, metric.iou])
        return values

    labels = {category.id: label for label, category in enumerate(categories)}
    undefined = mean_over(slice(0))
    classes = tuple(
        ClassMetrics(
            **(mean_over(slice(labels[category.id], labels[category.id] + 1)) if category.id in used else undefined),
            name=category.name,
            used=category.id in used,
        )
        for category in dataset.categories
    )
    return Metrics(**mean_over(slice(None)), classes=classes, notes=_notes(dataset))


def _notes(dataset: VideoDataset) -> tuple[str, ...]:
    tracks = [track for video in dataset.videos for track in video.tracks]
    missing = {
        "no iscrowd, and count as none": sum(track.iscrowd is None for track in tracks),
        "no areas, and those of their masks are taken": sum(track.areas is None for track in tracks),
    }
    lacking = (f"{count} of {len(tracks)} annotations have {what}" for what, count in missing.items() if count)
    return (*dataset.notes, *lacking)


def match_videos(dataset: VideoDataset, results: Sequence[TrackResult]) -> dict[int, VideoMatch]:
    """Class-agnostic matches of the results of each video, by video id, as needed for class-agnostic AP and its
    statistics over videos. Duplicates with the same masks are reduced to the highest-scoring one.

    Raises:
        DataError: with every mask that cannot be read.
    """
    everything = YOUTUBE_VIS.areas("all"), Range().occlusions
    predicted, true = _predicted_tracks(dataset, results, "results", ()), _true_tracks(dataset)
    matches = {}
    for video in dataset.videos:
        ids = [category.id for category in dataset.categories]
        tracks = (track for id in ids for track in predicted.get((video.id, id), []))
        rising = sorted(tracks, key=lambda track: track.score)
        distinct = {tuple(rle and rle["counts"] for rle in track.tube.rles): track for track in rising}
        ranked = sorted(distinct.values(), key=lambda track: -track.score)[: MAX_DETECTIONS[-1]]
        truth = [track for id in ids for track in true.get((video.id, id), [])]
        iou_DG = tube_iou([track.tube for track in ranked], [track.tube for track in truth])
        matches[video.id] = _match(truth, ranked, iou_DG, *everything)
    return matches


def average_precision(matches: Sequence[VideoMatch]) -> float:
    """AP over videos that `match_videos` matched; a video may occur several times. -1 without annotations."""
    return _mean(_accumulate(matches, MAX_DETECTIONS[-1])[0])


@dataclass(frozen=True)
class _True:
    """One annotated track, ready to be compared."""

    id: int
    tube: Tube
    area: float
    occlusion: float
    crowd: bool

    def ignored(self, areas: tuple[float, float], occlusions: tuple[float, float]) -> bool:
        (small, large), (light, heavy) = areas, occlusions
        return self.crowd or not small <= self.area <= large or not light <= self.occlusion <= heavy


@dataclass(frozen=True)
class _Predicted:
    """One predicted track, ready to be compared."""

    score: float
    tube: Tube
    area: float


def _predicted_tracks(
    dataset: VideoDataset, results: Sequence[TrackResult], file: str, problems: Sequence[Problem]
) -> dict[tuple[int, int], list[_Predicted]]:
    """Results of each video and class, in their order."""
    problems = list(problems)
    masks = compress_masks(masks_of(dataset, results), file=file, problems=problems)
    if problems:
        raise DataError(problems)
    predicted: dict[tuple[int, int], list[_Predicted]] = defaultdict(list)
    start = 0
    for result in results:
        stop = start + len(result.segmentations)
        tube = Tube(tuple(masks.rles[start:stop]))
        area = mean_area(masks.area_N[start:stop].tolist())
        predicted[result.video_id, result.category_id].append(_Predicted(result.score, tube, area))
        start = stop
    return predicted


def _true_tracks(dataset: VideoDataset) -> dict[tuple[int, int], list[_True]]:
    """Annotations of each video and class, in the order of the file."""
    problems: list[Problem] = []
    tracks = [(video, track) for video in dataset.videos for track in video.tracks]
    masks = compress_masks(
        (
            (f"annotation {track.id}, frame {t}", mask, video.height, video.width)
            for video, track in tracks
            for t, mask in enumerate(track.segmentations or ())
        ),
        file=str(dataset.path),
        problems=problems,
    )
    occluded = any(track.occlusion is not None for _, track in tracks)
    true: dict[tuple[int, int], list[_True]] = defaultdict(list)
    start = 0
    for video, track in tracks:
        stop = start + len(track.segmentations or ())
        # The reference uses the areas of the file. Areas are only computed if the file has none.
        areas = track.areas if track.areas is not None else masks.area_N[start:stop].tolist()
        unread = next((area for area in areas if area is not None and not is_finite(area)), None)
        if unread is not None:
            problem = f"an area is {shortened(unread)}, expected a number or null"
            problems.append(Problem(str(dataset.path), f"annotation {track.id}", problem, "Write pixels per frame"))
            areas = ()
        drawn = track.segmentations is not None
        tube = Tube(tuple(masks.rles[start:stop])) if drawn else Tube((None,) * video.length)
        occlusion = _occlusion(track, str(dataset.path), problems) if occluded else 0.0
        true[video.id, track.category_id].append(
            _True(track.id, tube, mean_area(areas), occlusion, bool(track.iscrowd))
        )
        start = stop
    if problems:
        raise DataError(problems)
    return true


def _occlusion(track: Track, file: str, problems: list[Problem]) -> float:
    """Occlusion of a track, 0 to 0.75: the mean over the more occluded half of its frames."""
    levels: list[Any] = [level for level in track.occlusion or () if level is not None]
    unknown = next((level for level in levels if level not in tuple(OCCLUSIONS)), None)
    if not levels or unknown is not None:
        what = f"occlusion {unknown!r} is not a level" if levels else "has no occlusion, while others have"
        problems.append(
            Problem(file, f"annotation {track.id}", what, f"Write one of {', '.join(OCCLUSIONS)} per frame")
        )
        return 0.0
    scores = sorted(OCCLUSIONS[level] for level in levels)[-math.ceil(len(levels) / 2) :]
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class VideoMatch:
    """Matches of one video, class and range: D predictions by descending score, at each of I thresholds."""

    scores_D: np.ndarray
    matched_ID: np.ndarray
    ignored_ID: np.ndarray
    positives: int
    """Number of annotations that count."""


def _measure_crowds(true: Sequence[_True], predicted: Sequence[_Predicted], iou_DG: np.ndarray) -> None:
    """Overwrite the columns of crowds with the fraction of each prediction that lies inside them."""
    area_D = np.array([track.tube.area_T.sum() for track in predicted])
    for g, track in enumerate(true):
        if track.crowd:
            # Intersections are integers, so that they can be recovered from the IoU and the two areas.
            inside_D = np.rint(iou_DG[:, g] * (area_D + track.tube.area_T.sum()) / (1 + iou_DG[:, g]))
            iou_DG[:, g] = np.divide(inside_D, area_D, out=np.zeros_like(area_D), where=area_D > 0)


def _match(
    true: Sequence[_True],
    predicted: Sequence[_Predicted],
    iou_DG: np.ndarray,
    areas: tuple[float, float],
    occlusions: tuple[float, float],
) -> VideoMatch:
    """Greedy assignment by score. `predicted` is sorted and cut to the maximum number of detections; `iou_DG` has its
    order."""
    ignored = [track.ignored(areas, occlusions) for track in true]
    order = sorted(range(len(true)), key=lambda g: ignored[g])
    matched_ID = np.zeros((len(IOU_THRESHOLDS), len(predicted)), dtype=bool)
    ignored_ID = np.zeros_like(matched_ID)
    outside_D = [not areas[0] <= track.area <= areas[1] for track in predicted]
    # Skipping the many pairs below the lowest threshold saves time.
    rows = [
        (d, row, near)
        for d, row in enumerate(iou_DG.tolist())
        if (near := [g for g in order if row[g] >= IOU_THRESHOLDS[0]])
    ]
    for i, threshold in enumerate(IOU_THRESHOLDS.tolist() if rows else ()):
        taken = [False] * len(true)
        for d, row, near in rows:
            best, match = min(threshold, 1 - 1e-10), None
            for g in near:
                if taken[g] and not true[g].crowd:
                    continue
                if match is not None and not ignored[match] and ignored[g]:
                    break
                if row[g] >= best:
                    best, match = row[g], g
            if match is not None:
                taken[match] = True
                matched_ID[i, d] = true[match].id != 0  # the reference stores the id, and 0 means "no match" there
                ignored_ID[i, d] = ignored[match]
    ignored_ID |= ~matched_ID & np.array(outside_D, dtype=bool)
    scores_D = np.array([track.score for track in predicted], dtype=np.float64)
    return VideoMatch(scores_D, matched_ID, ignored_ID, ignored.count(False))


def _accumulate(cells: Sequence[VideoMatch], max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[I, R]`` at the 101 recalls and final recall ``[I]`` of one class over all videos; -1 if
    undefined."""
    precision_IR = np.full((len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    recall_I = np.full(len(IOU_THRESHOLDS), -1.0)
    positives = sum(cell.positives for cell in cells)
    if positives == 0:
        return precision_IR, recall_I
    scores = np.concatenate([cell.scores_D[:max_detections] for cell in cells])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([cell.matched_ID[:, :max_detections] for cell in cells], axis=1)[:, order]
    ignored = np.concatenate([cell.ignored_ID[:, :max_detections] for cell in cells], axis=1)[:, order]
    true_ID = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    false_ID = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    for i, (true, false) in enumerate(zip(true_ID, false_ID, strict=True)):
        recall = true / positives
        precision = np.maximum.accumulate((true / (true + false + np.spacing(1)))[::-1])[::-1]
        at = np.searchsorted(recall, RECALLS, side="left")
        precision_IR[i] = np.append(precision, 0.0)[at]
        recall_I[i] = recall[-1] if len(recall) else 0.0
    return precision_IR, recall_I


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
