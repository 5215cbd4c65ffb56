"""Segmentation tracks of BDD100K from Scalabel JSON with run-length masks, annotated and predicted ones.

What the toolkit (bdd100k 1.0.1, scalabel 0.3.1) would crash on is refused, with all problems at once. So are two things
that it takes: polygons, which it paints in its own way, and videos paired by position although their names differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.bdd100k import class_of
from mfvis.data.masks import Masks, compress_masks
from mfvis.data.scalabel import ScalabelFrame, ScalabelLabel, read_scalabel, videos_of
from mfvis.errors import DataError, Problem
from mfvis.eval.mots_frame import MotsFrame

LARGEST_NUMBER = 2**31 - 1
"""The toolkit keeps ids in 32 bits."""


def read_scalabel_tracks(results: Path, data: Path) -> tuple[list[list[MotsFrame]], tuple[str, ...]]:
    """The frames of each video of two Scalabel files, or folders of such files, and what the toolkit would only log.

    A video without predictions counts as empty. A frame in which two predicted masks share a pixel loses all its
    predictions, as in the toolkit: this is noted.

    Raises:
        DataError: with every problem of the files, or of the masks and ids in them.
    """
    problems: list[Problem] = []
    sides: list[dict[str, list[ScalabelFrame]]] = []
    for path in (data, results):
        try:
            frames = read_scalabel(path)
        except DataError as error:
            problems += error.problems
            continue
        nameless = [frame.name for frame in frames if frame.video is None]
        problems += [Problem(str(path), name, "has no videoName", "Name its video") for name in nameless]
        sides.append(videos_of(frames))
    if problems:
        raise DataError(problems)
    annotated, predicted = sides
    notes = []
    for name in sorted(predicted.keys() - annotated.keys()):
        problems.append(Problem(str(results), f"video {name}", "is not annotated", "Leave it out, or correct its name"))
    missing = sorted(annotated.keys() - predicted.keys())
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notes.append(f"{len(missing)} of {len(annotated)} videos have no predictions and count as empty: {names}")
    masks = {True: _Masks(str(data), problems), False: _Masks(str(results), problems)}
    drawn: list[list[tuple[list[_Drawn], list[_Drawn]]]] = []
    for name, frames in annotated.items():
        others = predicted.get(name)
        if others is None:
            others = [ScalabelFrame(frame.name, frame.video, frame.index, frame.size, ()) for frame in frames]
        if [frame.index for frame in others] != [frame.index for frame in frames]:
            problem = f"has {len(others)} frames, {len(frames)} are annotated, or their frameIndex differ"
            remedy = 'Write every annotated frame with its frameIndex, with "labels": [] for nothing'
            problems.append(Problem(str(results), f"video {name}", problem, remedy))
            continue
        size = next((label.segmentation["size"] for frame in (*frames, *others) for label in _with_rle(frame)), None)
        texts = any(not label.id.isdecimal() for frame in frames for label in frame.labels)
        drawn.append(
            [
                (masks[True].add(frame, size, texts), masks[False].add(other, size, False))
                for frame, other in zip(frames, others, strict=True)
            ]
        )
    checked = {annotated: side.read() for annotated, side in masks.items()}
    if problems:
        raise DataError(problems)
    overlapping = 0
    videos = []
    for places in drawn:
        videos.append([])
        for true, found in places:
            frame = _frame(true, found, checked)
            overlapping += frame is None
            videos[-1].append(frame or _frame(true, [], checked))
    if overlapping:
        notes.append(f"in {overlapping} frames predicted masks overlap: all predictions of these frames are left out")
    return videos, tuple(notes)


@dataclass(frozen=True)
class _Drawn:
    """One labelled mask: who it is, and its place among the masks of its file."""

    place: int
    number: int
    label: int
    ignored: bool


def _with_rle(frame: ScalabelFrame) -> list[ScalabelLabel]:
    return [label for label in frame.labels if isinstance(label.segmentation, dict)]


class _Masks:
    """The masks of one file, gathered so that they can be checked together."""

    def __init__(self, file: str, problems: list[Problem]):
        self.file, self.problems = file, problems
        self.entries: list[tuple[str, object, int, int]] = []
        self.numbers: dict[tuple[str | None, str], int] = {}

    def add(self, frame: ScalabelFrame, size: Sequence[int] | None, texts: bool) -> list[_Drawn]:
        """The labels with masks of a frame whose masks should be of `size`. `texts`: ids are not numbers."""
        drawn, seen = [], set()
        for label in frame.labels:
            record = f"{frame.video}, {frame.name}, label {label.id}"
            known = class_of(label.category)
            if known is None:
                self.report(record, f"category {label.category!r} is unknown", "Write one of BDD100K's names")
                continue
            if isinstance(label.segmentation, list):
                self.report(record, "is a polygon", "Give RLE masks: polygons are painted in several ways")
                continue
            if label.segmentation is None:
                continue
            number = self.number(frame.video, label.id, texts, record)
            if number is None:
                continue
            ignored = label.crowd or label.ignored or known[1]
            if not ignored and (known[0], number) in seen:
                self.report(record, "occurs twice in this frame", "Give each object one label per frame")
            if not ignored:
                seen.add((known[0], number))
            drawn.append(_Drawn(len(self.entries), number, known[0], ignored))
            self.entries.append((record, label.segmentation, *size))
        return drawn

    def number(self, video: str | None, text: str, texts: bool, record: str) -> int | None:
        """The number that stands for an id; reported where the toolkit cannot make one of it."""
        if texts:
            return self.numbers.setdefault((video, text), len(self.numbers))
        try:
            number = int(text)
        except ValueError:
            return self.report(record, "its id is not a whole number", "Number the predicted objects of a video")
        if abs(number) > LARGEST_NUMBER:
            return self.report(record, "its id does not fit into 32 bits", "Number the objects of a video from 1")
        return number

    def read(self) -> Masks:
        return compress_masks(self.entries, file=self.file, problems=self.problems)

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, record, problem, remedy))


def _frame(true: Sequence[_Drawn], found: Sequence[_Drawn], masks: dict[bool, Masks]) -> MotsFrame | None:
    """The objects of a frame; None if predicted masks overlap, ignored ones among them."""
    true_rles, own_rles, own_areas = masks[True].rles, masks[False].rles, masks[False].area_N
    if len(found) > 1:
        whole = coco_mask.merge([own_rles[drawn.place] for drawn in found])
        if int(coco_mask.area(whole)) != own_areas[[drawn.place for drawn in found]].sum():
            return None
    regions = [true_rles[drawn.place] for drawn in true if drawn.ignored]
    true, found = ([drawn for drawn in side if not drawn.ignored] for side in (true, found))
    own = [own_rles[drawn.place] for drawn in found]
    iou_GP, covered_P = np.zeros((len(true), len(found))), np.zeros(len(found))
    if true and found:
        iou_GP = coco_mask.iou(own, [true_rles[drawn.place] for drawn in true], [0] * len(true)).T
    if regions and found:
        # Of a "crowd", pycocotools divides by the prediction's area.
        covered_P = coco_mask.iou(own, regions, [1] * len(regions)).max(1)
    return MotsFrame(
        np.array([drawn.number for drawn in true], np.int64),
        np.array([drawn.label for drawn in true], np.int64),
        np.array([drawn.number for drawn in found], np.int64),
        np.array([drawn.label for drawn in found], np.int64),
        iou_GP,
        covered_P,
    )
