"""Annotated and predicted tracks of BDD100K from Scalabel JSON: run-length masks or boxes.

Input on which the toolkit (bdd100k 1.0.1, scalabel 0.3.1) would crash is refused. All problems are reported together.
Two kinds of input that the toolkit accepts are refused as well: polygons, which it rasterizes in its own way, and
videos that it would pair by position although their names differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.bdd100k import class_of
from mfvis.data.masks import Masks, compress_masks
from mfvis.data.scalabel import ScalabelFrame, ScalabelLabel, read_scalabel, videos_of
from mfvis.errors import DataError, Problem
from mfvis.eval.box_overlap import Overlap, toolkit_overlap, track_eval_overlap
from mfvis.eval.mots_frame import MotsFrame, TrackingFrames
from mfvis.text import counted

Kind = Literal["masks", "boxes"]
LARGEST_ID = 2**31 - 1
"""Largest id, since the toolkit stores ids in 32 bits."""


def read_scalabel_tracks(results: Path, data: Path, box_data: Path | None = None) -> TrackingFrames:
    """Two Scalabel files, or folders of such files, ready to be compared.

    Masks are compared if both sides have them, else boxes. A video without predictions counts as empty. As in the
    toolkit, a frame in which two predicted masks share a pixel loses all its predictions. A note says so.

    Args:
        results: the predicted tracks.
        data: the annotated tracks.
        box_data: the annotated tracks for results that only have boxes, if these tracks are in another file.

    Raises:
        DataError: with every problem of the files, or of the masks and ids in them.
    """
    problems: list[Problem] = []
    predicted = _frames_of(results, problems)
    if box_data is not None and not any(label.segmentation is not None for label in _labels(predicted)):
        data = box_data
    annotated = _frames_of(data, problems)
    if problems:
        raise DataError(problems)
    kind = _kind(results, predicted, data, annotated)
    notes: list[str] = []
    sides = {True: _Side(str(data), kind, problems), False: _Side(str(results), kind, problems)}
    videos = [
        _objects(frames, others, sides)
        for frames, others in _paired(results, videos_of(predicted), videos_of(annotated), problems, notes)
    ]
    masks = {is_true: side.read() for is_true, side in sides.items()}
    if problems:
        raise DataError(problems)
    notes += [note for side in sides.values() for note in side.notes()]
    if kind == "boxes":
        by_program = [
            [[_box_frame(true, predicted, overlap) for true, predicted in video] for video in videos]
            for overlap in (toolkit_overlap, track_eval_overlap)
        ]
        return TrackingFrames(kind, *by_program, tuple(notes))
    frames = [[_mask_frame(true, predicted, masks) for true, predicted in video] for video in videos]
    overlapping = sum(frame is None for video in frames for frame in video)
    if overlapping:
        notes.append(
            f"in {counted(overlapping, 'frame')} predicted masks overlap: all predictions of these frames are left out"
        )
    whole = [
        [frame or _mask_frame(true, [], masks) for frame, (true, _) in zip(*pair, strict=True)]
        for pair in zip(frames, videos, strict=True)
    ]
    return TrackingFrames(kind, whole, whole, tuple(notes))


def _frames_of(path: Path, problems: list[Problem]) -> tuple[ScalabelFrame, ...]:
    """Frames of a file or folder. Empty, with a report, if it is damaged."""
    try:
        frames = read_scalabel(path)
    except DataError as error:
        problems += error.problems
        return ()
    nameless = [frame.name for frame in frames if frame.video is None]
    problems += [Problem(str(path), name, "has no videoName", "Name its video") for name in nameless]
    return frames


def _labels(frames: Iterable[ScalabelFrame]) -> Iterable[ScalabelLabel]:
    return (label for frame in frames for label in frame.labels)


def _kind(results: Path, predicted: Sequence[ScalabelFrame], data: Path, annotated: Sequence[ScalabelFrame]) -> Kind:
    """Kind of objects that both sides have: masks, or else boxes. DataError if there are neither."""
    has: list[set[Kind]] = []
    for frames in (annotated, predicted):
        masks = any(label.segmentation is not None for label in _labels(frames))
        boxes = any(label.box is not None for label in _labels(frames))
        has.append({kind for kind, there in (("masks", masks), ("boxes", boxes)) if there})
    true, predicted = has
    common = true & predicted if true and predicted else true | predicted or {"masks"}
    if common:
        return "masks" if "masks" in common else "boxes"
    problem = f"has {' and '.join(predicted)} only, the annotations {data} have {' and '.join(true)} only"
    raise DataError([Problem(str(results), "labels", problem, "Give both sides rle, or both box2d")])


def _paired(
    results: Path,
    predicted: Mapping[str, list[ScalabelFrame]],
    annotated: Mapping[str, list[ScalabelFrame]],
    problems: list[Problem],
    notes: list[str],
) -> list[tuple[list[ScalabelFrame], list[ScalabelFrame]]]:
    """Annotated frames of each video, with the predicted frames."""
    problems += [
        Problem(str(results), f"video {name}", "is not annotated", "Leave it out, or correct its name")
        for name in sorted(predicted.keys() - annotated.keys())
    ]
    missing = sorted(annotated.keys() - predicted.keys())
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notes.append(f"{len(missing)} of {len(annotated)} videos have no predictions and count as empty: {names}")
    pairs = []
    for name, frames in annotated.items():
        others = predicted.get(name)
        if others is None:
            others = [ScalabelFrame(frame.name, frame.video, frame.index, frame.size, ()) for frame in frames]
        if [frame.index for frame in others] != [frame.index for frame in frames]:
            problem = f"has {counted(len(others), 'frame')}, {len(frames)} are annotated, or their frameIndex differ"
            remedy = 'Write every annotated frame with its frameIndex, with "labels": [] for nothing'
            problems.append(Problem(str(results), f"video {name}", problem, remedy))
            continue
        pairs.append((frames, others))
    return pairs


@dataclass(frozen=True)
class _Object:
    """One labeled object in one frame: id, class, corners, and its index among the masks of its file."""

    id: int
    label: int
    ignored: bool
    mask: int
    corners: tuple[float, float, float, float] | None


_Frames = list[tuple[list[_Object], list[_Object]]]
"""Annotated and predicted objects of each frame of a video."""


def _objects(frames: Sequence[ScalabelFrame], others: Sequence[ScalabelFrame], sides: dict[bool, _Side]) -> _Frames:
    rles = (label.segmentation for label in _labels((*frames, *others)) if isinstance(label.segmentation, dict))
    size = next((rle["size"] for rle in rles), None)
    texts = any(not label.id.isdecimal() for label in _labels(frames))
    return [
        (sides[True].add(frame, size, texts), sides[False].add(other, size, False))
        for frame, other in zip(frames, others, strict=True)
    ]


class _Side:
    """Objects of one file. Masks are collected, so that they can be checked together."""

    def __init__(self, file: str, kind: Kind, problems: list[Problem]):
        self.file, self.kind, self.problems = file, kind, problems
        self.masks: list[tuple[str, object, int, int]] = []
        self.ids: dict[tuple[str | None, str], int] = {}
        self.left_out: Counter[str] = Counter()

    def add(self, frame: ScalabelFrame, size: Sequence[int] | None, texts: bool) -> list[_Object]:
        """Add the objects of a frame whose masks should have `size`. texts: ids are strings instead of integers."""
        objects, seen = [], set()
        for label in frame.labels:
            record = f"{frame.video}, {frame.name}, label {label.id}"
            known = class_of(label.category)
            if known is None:
                self.report(record, f"category {label.category!r} is unknown", "Write one of BDD100K's names")
                continue
            if self.kind == "masks" and isinstance(label.segmentation, list):
                self.report(record, "is a polygon", "Give RLE masks: polygons are painted in several ways")
                continue
            if (label.segmentation if self.kind == "masks" else label.corners) is None:
                self.left_out[f"labels have no {'rle' if self.kind == 'masks' else 'box2d'} and do not count"] += 1
                continue
            id = self.id_of(frame.video, label.id, texts, record)
            if id is None:
                continue
            ignored = label.crowd or label.ignored or known[1]
            if not ignored and (known[0], id) in seen:
                self.report(record, "occurs twice in this frame", "Give each object one label per frame")
            if not ignored:
                seen.add((known[0], id))
            objects.append(_Object(id, known[0], ignored, len(self.masks), label.corners))
            if self.kind == "masks":
                self.masks.append((record, label.segmentation, *size))
        return objects

    def id_of(self, video: str | None, text: str, texts: bool, record: str) -> int | None:
        """Integer that stands for an id. Ids that the toolkit cannot convert are reported."""
        if texts:
            return self.ids.setdefault((video, text), len(self.ids))
        try:
            id = int(text)
        except ValueError:
            return self.report(record, "its id is not a whole number", "Number the predicted objects of a video")
        if abs(id) > LARGEST_ID:
            return self.report(record, "its id does not fit into 32 bits", "Number the objects of a video from 1")
        return id

    def read(self) -> Masks:
        return compress_masks(self.masks, file=self.file, problems=self.problems)

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, record, problem, remedy))

    def notes(self) -> list[str]:
        return [f"{self.file}: {count} {what}" for what, count in self.left_out.items()]


def _mask_frame(true: Sequence[_Object], predicted: Sequence[_Object], masks: dict[bool, Masks]) -> MotsFrame | None:
    """Objects of a frame. None if predicted masks overlap, including ignored ones."""
    true_rles, predicted_rles, predicted_areas = masks[True].rles, masks[False].rles, masks[False].area_N
    if len(predicted) > 1:
        whole = coco_mask.merge([predicted_rles[each.mask] for each in predicted])
        if int(coco_mask.area(whole)) != predicted_areas[[each.mask for each in predicted]].sum():
            return None
    regions = [true_rles[each.mask] for each in true if each.ignored]
    true, predicted = ([each for each in side if not each.ignored] for side in (true, predicted))
    rles = [predicted_rles[each.mask] for each in predicted]
    iou_GP, covered_P = np.zeros((len(true), len(predicted))), np.zeros(len(predicted))
    if true and predicted:
        iou_GP = coco_mask.iou(rles, [true_rles[each.mask] for each in true], [0] * len(true)).T
    if regions and predicted:
        # With "iscrowd", pycocotools divides by the area of the prediction.
        covered_P = coco_mask.iou(rles, regions, [1] * len(regions)).max(1)
    return _frame(true, predicted, iou_GP, covered_P)


def _box_frame(true: Sequence[_Object], predicted: Sequence[_Object], overlap: Overlap) -> MotsFrame:
    """Objects of a frame, with box overlaps as one of the programs computes them."""
    regions = [each for each in true if each.ignored]
    true, predicted = ([each for each in side if not each.ignored] for side in (true, predicted))
    corners = [np.array([each.corners for each in side]).reshape(-1, 4) for side in (true, predicted, regions)]
    iou_GP, _ = overlap(corners[0], corners[1])
    _, inside_RP = overlap(corners[2], corners[1])
    return _frame(true, predicted, iou_GP, inside_RP.max(0, initial=0.0))


def _frame(
    true: Sequence[_Object], predicted: Sequence[_Object], iou_GP: np.ndarray, covered_P: np.ndarray
) -> MotsFrame:
    return MotsFrame(
        np.array([each.id for each in true], np.int64),
        np.array([each.label for each in true], np.int64),
        np.array([each.id for each in predicted], np.int64),
        np.array([each.label for each in predicted], np.int64),
        iou_GP,
        covered_P,
    )
