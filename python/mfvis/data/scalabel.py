"""Scalabel JSON, the labels of BDD100K: a list of frames, ``{"frames": [...], "config": ...}``, or a folder of these.

    frame: {"name", "videoName", "frameIndex", "size"?: {"width", "height"}, "labels": [label] or null}
    label: {"id", "category", "attributes"?: {"crowd", "ignored", "occluded", "truncated"}, "score"?,
            "box2d"?: {"x1", "y1", "x2", "y2"}, "rle"?: {"size": [h, w], "counts": str}, "poly2d"?: [polygon]}
    polygon: {"vertices": [[x, y]], "types": "LLCCL", "closed": true}; two C between two L are the control points of a
            cubic Bezier curve, which may end at the first vertex

As in scalabel 0.3.1, corners x2, y2 of a box are inclusive, an id is a string, and a ``frameIndex`` of null counts as
0. Unknown content is refused instead of guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mfvis.data.curves import flatten_outline, is_outline
from mfvis.data.jsonfile import LARGEST, MAX_PIXELS, is_finite, is_integer, kind_of, read_json
from mfvis.data.rle import rle_box
from mfvis.errors import DataError, Problem
from mfvis.text import name_fault, path_fault, shortened


@dataclass(frozen=True, slots=True)
class ScalabelLabel:
    """One object in one frame, as stored in the file."""

    id: str
    category: str
    corners: tuple[float, float, float, float] | None
    """Box ``(x1, y1, x2, y2)`` of the file: x2 and y2 are inclusive."""
    segmentation: dict[str, Any] | list[list[float]] | None
    """Compressed RLE (its runs are unchecked), polygons ``[x1, y1, x2, y2, ...]``, or None."""
    score: float | None = None
    truncated: bool = False
    occluded: bool = False
    crowd: bool = False
    ignored: bool = False

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Box ``(x1, y1, x2, y2)`` in pixels, half-open: the inclusive corner plus one."""
        if self.corners is None:
            return None
        x1, y1, x2, y2 = self.corners
        return x1, y1, x2 + 1, y2 + 1


@dataclass(frozen=True, slots=True)
class ScalabelFrame:
    """One frame of a video, or an image, with its labels."""

    name: str
    video: str | None
    index: int | None
    size: tuple[int, int] | None
    """``(height, width)`` of the frame, or else of the file's ``config``."""
    labels: tuple[ScalabelLabel, ...]


def read_scalabel(path: str | Path, *, with_masks: bool = True) -> tuple[ScalabelFrame, ...]:
    """All frames of a Scalabel file, or of the ``*.json`` files of a folder in the order of their names.

    Without `with_masks`, the masks of labels that have a box are not read.

    Raises:
        DataError: with every problem of every file.
    """
    path = Path(path)
    problems: list[Problem] = []
    files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    if not files:
        problem = Problem(str(path), "folder", "has no JSON file in it", "Give the folder of the label files")
        raise DataError([problem])
    frames = [
        frame for file in files for frame in _Reader(str(file), problems, with_masks).frames(read_json(file, problems))
    ]
    if problems:
        raise DataError(problems)
    return tuple(frames)


def videos_of(frames: Sequence[ScalabelFrame]) -> dict[str, list[ScalabelFrame]]:
    """Frames of each video: videos by name, frames by index (None counts as 0, equal ones keep their order)."""
    in_videos = sorted((frame for frame in frames if frame.video is not None), key=lambda frame: frame.video)
    return {
        name: sorted(members, key=lambda frame: frame.index or 0)
        for name, members in groupby(in_videos, lambda frame: frame.video)
    }


def box_of(
    label: ScalabelLabel, height: int, width: int, *, file: str, record: str
) -> tuple[float, float, float, float] | None:
    """Half-open box of a label in an image of that size, computed from its mask if it has no box. None if the mask is
    empty.

    Raises:
        DataError: names `file` and `record` when there is neither a box nor a mask, or the mask is damaged.
    """
    if label.box is not None:
        return label.box
    if isinstance(label.segmentation, dict):
        x1, y1, x2, y2 = rle_box(label.segmentation, height, width, file=file, record=record).tolist()
        return (x1, y1, x2, y2) if x2 > x1 else None
    if label.segmentation:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in label.segmentation])
        return (*points.min(0).tolist(), *points.max(0).tolist())
    raise DataError([Problem(file, record, "has neither box2d nor a mask", "Write box2d, rle or poly2d")])


@dataclass
class _Reader:
    """Reader of one file, which collects its problems."""

    file: str
    problems: list[Problem]
    with_masks: bool

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, record, problem, remedy))

    def frames(self, root: Any) -> list[ScalabelFrame]:
        if root is None:  # already reported, or the file has null
            if not any(problem.file == self.file for problem in self.problems):
                self.report("top level", "is null, expected a list of frames", "Give a Scalabel file")
            return []
        config = root.get("config") if isinstance(root, dict) else None
        entries = root.get("frames") if isinstance(root, dict) else root
        if not isinstance(entries, list):
            what = f"'frames' is {kind_of(entries)}" if isinstance(root, dict) else f"is {kind_of(root)}"
            self.report("top level", f"{what}, expected a list of frames", "Give a Scalabel file")
            return []
        if config is not None and not isinstance(config, dict):
            self.report("config", f"is {kind_of(config)}, expected an object", "Correct it, or leave it out")
            config = None
        size = self.size("config", "imageSize", config.get("imageSize") if config else None)
        read = [self.frame(f"frames[{index}]", entry, size) for index, entry in enumerate(entries)]
        frames = [frame for frame in read if frame is not None]
        corners = [label.corners for frame in frames for label in frame.labels if label.corners is not None]
        if corners and max(map(max, corners)) <= 1:
            problem = "no box is as large as a pixel: are these shares of the image?"
            self.report("box2d", problem, "Multiply by its size")
        return frames

    def frame(self, record: str, entry: Any, size: tuple[int, int] | None) -> ScalabelFrame | None:
        if not isinstance(entry, dict):
            self.report(record, f"is {kind_of(entry)}, expected an object", "Write an object with its keys")
            return None
        name, video, index, labels = (entry.get(key) for key in ("name", "videoName", "frameIndex", "labels"))
        if not isinstance(name, str) or not name:
            self.report(record, f"name is {shortened(name)}, expected a text", "Name the frame's image")
            return None
        if fault := name_fault(Path(name).name) or path_fault(name):
            self.report(record, f"name {shortened(name)} {fault}", "Name the frame's image")
            return None
        record = f"{record} ({shortened(name)})"
        if video is not None and not isinstance(video, str):
            self.report(record, f"videoName is {shortened(video)}, expected a text", "Name the frame's video")
            return None
        if fault := video and name_fault(video):
            self.report(record, f"videoName {shortened(video)} {fault}", "Give it a shorter, plain name")
            return None
        if index is not None and (not is_integer(index) or not 0 <= index <= LARGEST):
            self.report(record, f"frameIndex is {shortened(index)}, expected 0, 1, ...", "Write the frame's number")
            return None
        if labels is not None and not isinstance(labels, list):
            self.report(record, f"labels is {kind_of(labels)}, expected a list", "Write a list of labels, or null")
            return None
        read = [self.label(f"{record}, labels[{i}]", label) for i, label in enumerate(labels or ())]
        frame_size = self.size(record, "size", entry.get("size"))
        return ScalabelFrame(
            name, video or None, index, frame_size or size, tuple(label for label in read if label is not None)
        )

    def size(self, record: str, name: str, value: Any) -> tuple[int, int] | None:
        if value is None:
            return None
        sides = [value.get("height"), value.get("width")] if isinstance(value, dict) else []
        if not _is_size(sides):
            self.report(record, f"{name} is {shortened(value)}", 'Write {"width": ..., "height": ...} in pixels')
            return None
        return sides[0], sides[1]

    def label(self, record: str, entry: Any) -> ScalabelLabel | None:
        if not isinstance(entry, dict):
            self.report(record, f"is {kind_of(entry)}, expected an object", "Write an object with its keys")
            return None
        before = len(self.problems)
        object_id, category, attributes, score = (entry.get(key) for key in ("id", "category", "attributes", "score"))
        if not (isinstance(object_id, str) and object_id) and not is_integer(object_id):
            self.report(record, f"id is {shortened(object_id)}, expected a text", "Write the object's id")
        if not isinstance(category, str) or not category:
            self.report(record, f"category is {shortened(category)}, expected a text", "Name the category")
        elif fault := name_fault(category):
            self.report(record, f"category {shortened(category)} {fault}", "Give it a shorter, plain name")
        if score is not None and not is_finite(score):
            self.report(record, f"score is {shortened(score)}, expected a number", "Write a number, or leave it out")
        if attributes is not None and not isinstance(attributes, dict):
            self.report(record, f"attributes is {kind_of(attributes)}, expected an object", "Write an object, or null")
            attributes = None
        flags = [(attributes or {}).get(key) for key in ("truncated", "occluded", "crowd", "ignored")]
        if any(flag not in (None, True, False) for flag in flags):
            listed = ", ".join(map(shortened, flags))
            self.report(record, f"truncated, occluded, crowd, ignored are {listed}", "Write true or false")
        corners = self.corners(record, entry.get("box2d"))
        segmentation = None
        if self.with_masks or corners is None:
            segmentation = self.rle(record, entry.get("rle"))
            if segmentation is None:
                segmentation = self.polygons(record, entry.get("poly2d"))
        if len(self.problems) > before:
            return None
        return ScalabelLabel(str(object_id), category, corners, segmentation, score, *map(bool, flags))

    def corners(self, record: str, box: Any) -> tuple[float, float, float, float] | None:
        if box is None:
            return None
        corners = [box.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else []
        if not corners or not all(map(is_finite, corners)):
            self.report(record, f"box2d is {shortened(box)}", "Write numbers x1, y1, x2, y2 in pixels")
            return None
        x1, y1, x2, y2 = corners
        if x2 < x1 or y2 < y1:
            self.report(record, f"box2d is {shortened(box)}, its corners are swapped", "Write x1 <= x2 and y1 <= y2")
            return None
        return x1, y1, x2, y2

    def rle(self, record: str, rle: Any) -> dict[str, Any] | None:
        if rle is None:
            return None
        size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
        if not isinstance(size, list) or not _is_size(size) or not isinstance(counts, str) or not counts:
            self.report(record, f"rle is {shortened(rle)}", 'Write {"size": [height, width], "counts": text}')
            return None
        return {"size": size, "counts": counts}

    def polygons(self, record: str, poly2d: Any) -> list[list[float]] | None:
        if poly2d is None:
            return None
        if not isinstance(poly2d, list):
            self.report(record, f"poly2d is {kind_of(poly2d)}, expected a list", "Write a list of polygons")
            return None
        polygons = []
        for index, polygon in enumerate(poly2d):
            where = f"{record}, poly2d[{index}]"
            fields = polygon if isinstance(polygon, dict) else {}
            vertices, types, closed = (fields.get(key) for key in ("vertices", "types", "closed"))
            points = vertices if isinstance(vertices, list) else []
            valid = all(isinstance(point, list) and len(point) == 2 and all(map(is_finite, point)) for point in points)
            if closed is False and valid:  # a line, such as a lane boundary, is not part of a mask
                continue
            if len(points) < 3 or not valid:
                self.report(where, f"vertices are {shortened(vertices)}", "Write three or more points [x, y]")
            elif not isinstance(types, str) or len(types) != len(points) or not is_outline(types):
                problem = f"types are {shortened(types)} for {len(points)} points"
                self.report(where, problem, "Write one letter per point: L, or CC for a curve between two L")
            elif closed is not True:
                self.report(where, f"closed is {shortened(closed)}, expected true or false", "Say if it is closed")
            else:
                polygons.append(flatten_outline(points, types))
        return polygons


def _is_size(sides: list[Any]) -> bool:
    """True for a plausible height and width of an image."""
    return (
        len(sides) == 2
        and all(is_integer(side) and 0 < side <= LARGEST for side in sides)
        and sides[0] * sides[1] <= MAX_PIXELS
    )
