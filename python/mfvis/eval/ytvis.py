"""Mask AP of YouTube-VIS, and the mean J of label mode.

`evaluate` gives the numbers of the reference program (youtubevos/cocoapi f3f9948), its quirks included: the frames of
two tubes are paired by ``zip``; a frame in which two mask sizes differ counts for nothing; of equal IoUs the later
annotation wins; an annotation with id 0 can be matched, but its true positive counts as a false one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.types import Track, TrackResult, VideoDataset

# linspace, not arange or i / 100: the last bits of these numbers decide ties with exact IoUs and recalls.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 128.0**2), "medium": (128.0**2, 256.0**2), "large": (256.0**2, 1e10)}


@dataclass(frozen=True)
class ClassMetrics:
    """The numbers of one class over all sizes with at most 100 tracks; -1 where the class has no annotation."""

    name: str
    ap: float
    ap50: float
    ap75: float
    ar100: float


@dataclass(frozen=True)
class Metrics:
    """The twelve numbers of YouTube-VIS in 0..1; -1 where nothing was annotated in the slice."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    classes: tuple[ClassMetrics, ...]
    """In ascending order of the category ids."""


@dataclass(frozen=True)
class TrackJ:
    """Mean IoU of one track over the frames in which its annotation has a box and a mask."""

    video: str
    track_id: int
    category: str
    frames: int
    j: float
    filled_box_j: float


@dataclass(frozen=True)
class MeanJ:
    """Mean IoU between given and true masks over all object-frames, and that of the filled boxes as the baseline."""

    j: float
    filled_box_j: float
    object_frames: int
    tracks: tuple[TrackJ, ...]


def as_rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """A frame's segmentation as the JSON has it (null, polygons, either RLE) as a compressed RLE, or None."""
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)) if segmentation else None
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


@dataclass(frozen=True)
class _Tube:
    """One annotated or predicted track, ready to be compared."""

    id: int
    rles: tuple[dict[str, Any] | None, ...]
    area: float
    """Mean over the frames whose area is neither null nor 0."""
    score: float = 0.0
    crowd: bool = False


def _mean_area(areas: Sequence[float | None]) -> float:
    counted = [area for area in areas if area]
    return float(np.mean(counted)) if counted else 0.0


def _rle_areas(rles: Sequence[dict[str, Any] | None]) -> list[int | None]:
    return [None if rle is None else int(coco_mask.area(rle)) for rle in rles]


def _true_tube(track: Track, height: int, width: int) -> _Tube:
    if track.segmentations is None:
        rles: tuple[dict[str, Any] | None, ...] = (None,) * len(track.boxes_T4)
    else:
        rles = tuple(as_rle(segmentation, height, width) for segmentation in track.segmentations)
    # The reference takes the file's areas as they are; only where the file has none do we measure.
    areas = track.areas if track.areas is not None else _rle_areas(rles)
    return _Tube(track.id, rles, _mean_area(areas), crowd=track.iscrowd)


def tube_iou(
    tubes_a: Sequence[Sequence[dict[str, Any] | None]], tubes_b: Sequence[Sequence[dict[str, Any] | None]]
) -> np.ndarray:
    """IoU of every pair of mask tubes, float64 ``[A, B]``; a tube is a list of one RLE or None per frame.

    Pixel counts are exact integers: pycocotools returns i / u in float64, and i is recovered from it and the two areas.
    """
    intersection_AB = np.zeros((len(tubes_a), len(tubes_b)))
    union_AB = np.zeros_like(intersection_AB)
    for t in range(min(max(map(len, tubes_a), default=0), max(map(len, tubes_b), default=0))):
        exists_A, drawn_A, area_A, size_A = _frame_of(tubes_a, t)
        exists_B, drawn_B, area_B, size_B = _frame_of(tubes_b, t)
        mismatch_AB = drawn_A[:, None] & drawn_B & (size_A[:, None] != size_B)
        counted_AB = exists_A[:, None] & exists_B & ~mismatch_AB
        iou_AB = np.zeros_like(intersection_AB)
        if drawn_A.any() and drawn_B.any():
            rles_a, rles_b = ([tube[t] for tube in tubes if t < len(tube) and tube[t]] for tubes in (tubes_a, tubes_b))
            iou_AB[np.ix_(drawn_A, drawn_B)] = coco_mask.iou(rles_a, rles_b, [0] * len(rles_b))
        iou_AB[~counted_AB] = 0
        both_AB = area_A[:, None] + area_B
        frame_intersection_AB = np.rint(iou_AB * both_AB / (1 + iou_AB))
        intersection_AB += frame_intersection_AB
        union_AB += np.where(counted_AB, both_AB - frame_intersection_AB, 0)
    return np.divide(intersection_AB, union_AB, out=np.zeros_like(union_AB), where=union_AB > 0)


def _frame_of(
    tubes: Sequence[Sequence[dict[str, Any] | None]], t: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each tube at frame t: does the frame exist, has it a mask, the mask's area, its size as one number."""
    rles = [tube[t] if t < len(tube) else None for tube in tubes]
    exists = np.array([t < len(tube) for tube in tubes], dtype=bool)
    drawn = np.array([bool(rle) for rle in rles], dtype=bool)
    area = np.array([float(coco_mask.area(rle)) if rle else 0.0 for rle in rles])
    size = np.array([rle["size"][0] << 32 | rle["size"][1] if rle else 0 for rle in rles], dtype=np.int64)
    return exists, drawn, area, size


@dataclass(frozen=True)
class _Cell:
    """The matching of one video, class and area range: D predictions by descending score, at each of I thresholds."""

    scores_D: np.ndarray
    matched_ID: np.ndarray
    ignored_ID: np.ndarray
    positives: int
    """Annotations that count."""


def _match(true: Sequence[_Tube], predicted: Sequence[_Tube], iou_DG: np.ndarray, low: float, high: float) -> _Cell:
    """Greedy assignment by score. `predicted` is sorted and cut to the most detections, `iou_DG` in its order."""
    ignored = [tube.crowd or not low <= tube.area <= high for tube in true]
    order = sorted(range(len(true)), key=lambda g: ignored[g])
    matched_ID = np.zeros((len(IOU_THRESHOLDS), len(predicted)), dtype=bool)
    ignored_ID = np.zeros_like(matched_ID)
    outside_D = [not low <= tube.area <= high for tube in predicted]
    for i, threshold in enumerate(IOU_THRESHOLDS):
        taken = [False] * len(true)
        for d in range(len(predicted)):
            best, match = min(threshold, 1 - 1e-10), None
            for g in order:
                if taken[g] and not true[g].crowd:
                    continue
                if match is not None and not ignored[match] and ignored[g]:
                    break
                if iou_DG[d, g] >= best:
                    best, match = iou_DG[d, g], g
            if match is not None:
                taken[match] = True
                matched_ID[i, d] = true[match].id != 0  # the reference stores the id, and 0 means "no match" there
                ignored_ID[i, d] = ignored[match]
            if not matched_ID[i, d]:
                ignored_ID[i, d] |= outside_D[d]
    scores_D = np.array([tube.score for tube in predicted], dtype=np.float64)
    return _Cell(scores_D, matched_ID, ignored_ID, ignored.count(False))


def _accumulate(cells: Sequence[_Cell], max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one class over all videos: precision ``[I, R]`` at the 101 recalls, the last recall ``[I]``; -1: undefined."""
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


def evaluate(dataset: VideoDataset, results: Sequence[TrackResult]) -> Metrics:
    """YouTube-VIS AP and AR of predicted tracks against a data set whose tracks have masks.

    Results of a category that the data set does not have count for nothing; of each video and class at most the 100 of
    highest score count. A video that the data set does not have raises ValueError.
    """
    unknown = {result.video_id for result in results} - {video.id for video in dataset.videos}
    if unknown:
        raise ValueError(f"results: video ids {sorted(unknown)} are not in {dataset.path}; drop these results")
    predicted: dict[tuple[int, int], list[_Tube]] = defaultdict(list)
    for index, result in enumerate(results):
        area = _mean_area(_rle_areas(result.segmentations))
        tube = _Tube(index + 1, result.segmentations, area, score=result.score)
        predicted[result.video_id, result.category_id].append(tube)
    true: dict[tuple[int, int], list[_Tube]] = defaultdict(list)
    for video in dataset.videos:
        for track in video.tracks:
            true[video.id, track.category_id].append(_true_tube(track, video.height, video.width))

    # Axes: class, area range, most detections, then thresholds (and recalls).
    shape = (len(dataset.categories), len(AREA_RANGES), len(MAX_DETECTIONS))
    precision = np.full((*shape, len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    recall = np.full((*shape, len(IOU_THRESHOLDS)), -1.0)
    videos = sorted(video.id for video in dataset.videos)
    for label, category in enumerate(dataset.categories):
        cells: list[list[_Cell]] = [[] for _ in AREA_RANGES]
        for video_id in videos:
            truth = true[video_id, category.id]
            ranked = sorted(predicted[video_id, category.id], key=lambda tube: -tube.score)[: MAX_DETECTIONS[-1]]
            if not truth and not ranked:
                continue
            iou_DG = tube_iou([tube.rles for tube in ranked], [tube.rles for tube in truth])
            for column, (low, high) in zip(cells, AREA_RANGES.values(), strict=True):
                column.append(_match(truth, ranked, iou_DG, low, high))
        for a, column in enumerate(cells):
            for m, most in enumerate(MAX_DETECTIONS):
                precision[label, a, m], recall[label, a, m] = _accumulate(column, most)

    everything = precision[:, 0, -1]
    classes = tuple(
        ClassMetrics(category.name, _mean(cell), _mean(cell[0]), _mean(cell[5]), _mean(recall[label, 0, -1]))
        for label, (category, cell) in enumerate(zip(dataset.categories, everything, strict=True))
    )
    ap_sizes, ar_sizes = ([_mean(numbers[:, a, -1]) for a in (1, 2, 3)] for numbers in (precision, recall))
    ar_most = [_mean(recall[:, 0, m]) for m in range(len(MAX_DETECTIONS))]
    aps = [_mean(everything), _mean(everything[:, 0]), _mean(everything[:, 5])]
    return Metrics(*aps, *ap_sizes, *ar_most, *ar_sizes, classes)


def filled_box(box_4: np.ndarray, height: int, width: int) -> np.ndarray:
    """The box ``(x1, y1, x2, y2)`` as a bool mask ``[H, W]``: the pixels whose centres lie in it."""
    x1, y1, x2, y2 = box_4
    inside_x = (np.arange(width) + 0.5 >= x1) & (np.arange(width) + 0.5 < x2)
    inside_y = (np.arange(height) + 0.5 >= y1) & (np.arange(height) + 0.5 < y2)
    return inside_y[:, None] & inside_x


def mean_j(dataset: VideoDataset, results: Sequence[TrackResult]) -> MeanJ:
    """J of label mode: IoU of each given track's mask with the true mask, averaged over all object-frames.

    An object-frame is a frame in which the data set's track has a box and a mask; where the result has no mask there,
    its J is 0. `results` carry the `track_id` they were made for. ValueError if a track has no result, or if the data
    set has no masks.
    """
    given = {(result.video_id, result.track_id): result for result in results}
    names = {category.id: category.name for category in dataset.categories}
    tracks, values, box_values = [], [], []
    for video in dataset.videos:
        for track in video.tracks:
            if (video.id, track.id) not in given:
                raise ValueError(f"results: track {track.id} of video {video.name!r} has no masks; label it first")
            result = given[video.id, track.id]
            j, box_j = [], []
            for t in np.flatnonzero(track.present_T):
                rle = as_rle(track.segmentations[t], video.height, video.width) if track.segmentations else None
                if rle is None:
                    continue
                box = np.asfortranarray(filled_box(track.boxes_T4[t], video.height, video.width), dtype=np.uint8)
                mask = result.segmentations[t] if t < len(result.segmentations) else None
                j.append(tube_iou([[mask]], [[rle]])[0, 0])
                box_j.append(tube_iou([[coco_mask.encode(box)]], [[rle]])[0, 0])
            if j:
                name = names[track.category_id]
                tracks.append(TrackJ(video.name, track.id, name, len(j), float(np.mean(j)), float(np.mean(box_j))))
            values += j
            box_values += box_j
    if not values:
        raise ValueError(f"{dataset.path}: no track has masks to compare with; J needs a data set with `segmentations`")
    return MeanJ(float(np.mean(values)), float(np.mean(box_values)), len(values), tuple(tracks))
