"""Marks of a person on the frames of a track, which correct label mode: clicks, scribbles, and given masks.

An annotation of a YouTube-VIS JSON may have, besides its boxes and masks,

    "points":    [[frame, x, y, 1 or 0], ...]                    clicks: 1 on the object, 0 next to it
    "scribbles": [[frame, [x1, y1, x2, y2, ...], 1 or 0], ...]   lines through pixels of the object, or next to it
    "given":     [T of true or false]                            the frames whose masks are a person's
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mfvis.data.jsonfile import as_integer, is_finite
from mfvis.errors import Problem
from mfvis.text import counted, shortened
from mfvis.types import Track, Video, VideoDataset

OUTSIDE = 1.0
"""Pixels by which a mark on the object may lie outside its box."""


@dataclass(frozen=True)
class Point:
    """A click on a frame of a track."""

    frame: int
    x: float
    y: float
    positive: bool
    """True if the pixel belongs to the object."""

    @property
    def xy(self) -> tuple[tuple[float, float], ...]:
        """The position, as the corners of a scribble."""
        return ((self.x, self.y),)


@dataclass(frozen=True)
class Scribble:
    """A line on a frame of a track."""

    frame: int
    xy: tuple[tuple[float, float], ...]
    """Its corners, one or more."""
    positive: bool
    """True if its pixels belong to the object."""

    def as_points(self, spacing: float) -> list[Point]:
        """Clicks along the line, at most `spacing` pixels apart."""
        xs, ys = ([self.xy[0][axis]] for axis in (0, 1))
        for (x1, y1), (x2, y2) in zip(self.xy, self.xy[1:], strict=False):
            steps = max(1, int(np.ceil(np.hypot(x2 - x1, y2 - y1) / spacing)))
            xs += np.linspace(x1, x2, steps + 1)[1:].tolist()
            ys += np.linspace(y1, y2, steps + 1)[1:].tolist()
        return [Point(self.frame, x, y, self.positive) for x, y in zip(xs, ys, strict=True)]


class Place(NamedTuple):
    """Location of a mark, for messages."""

    file: str
    record: str

    def report(self, problems: list[Problem], problem: str, remedy: str) -> None:
        """Add a problem."""
        problems.append(Problem(self.file, self.record, problem, remedy))


@dataclass(frozen=True)
class Marks:
    """Marks on one track."""

    points: tuple[Point, ...] = ()
    scribbles: tuple[Scribble, ...] = ()
    given: tuple[bool, ...] | None = None
    """True for each frame whose mask is a person's; None: not in the file."""


def read_marks(record: Mapping[str, Any], track: Track, video: Video, file: str, problems: list[Problem]) -> Marks:
    """Marks of an annotation that are valid. Problems are added to `problems`."""
    name = f"annotation {track.id}"

    def valid(key: str, read: Callable[..., Any]) -> tuple[Any, ...]:
        entries = record.get(key)
        entries = [] if entries is None else entries if isinstance(entries, list) else [entries]
        marks = [
            read(entry, track, video, Place(file, f"{name}, {key}[{i}]"), problems) for i, entry in enumerate(entries)
        ]
        return tuple(mark for mark in marks if mark is not None)

    given = _given(record, track, video, Place(file, name), problems)
    return Marks(valid("points", point_of), valid("scribbles", scribble_of), given)


def touches(mark: Point | Scribble, box: Sequence[float]) -> bool:
    """True if a corner of the mark lies in a box ``(x1, y1, x2, y2)``, or next to it."""
    x1, y1, x2, y2 = box
    return any(x1 - OUTSIDE <= x <= x2 + OUTSIDE and y1 - OUTSIDE <= y <= y2 + OUTSIDE for x, y in mark.xy)


def fields_of(marks: Sequence[Point | Scribble]) -> dict[str, Any]:
    """``points`` and ``scribbles`` of an annotation; no field without any."""
    points = [[mark.frame, mark.x, mark.y, int(mark.positive)] for mark in marks if isinstance(mark, Point)]
    scribbles = [
        [mark.frame, [value for corner in mark.xy for value in corner], int(mark.positive)]
        for mark in marks
        if isinstance(mark, Scribble)
    ]
    return ({"points": points} if points else {}) | ({"scribbles": scribbles} if scribbles else {})


def check_marks(root: Mapping[str, Any], dataset: VideoDataset) -> list[Problem]:
    """All problems of the marks in the content of the JSON that the data set was read from."""
    problems: list[Problem] = []
    records = records_of(root)
    for video in dataset.videos:
        for track in video.tracks:
            read_marks(records.get((video.id, track.id), {}), track, video, str(dataset.path), problems)
    return problems


def records_of(root: Any) -> dict[tuple[int | None, int | None], dict[str, Any]]:
    """Annotations of a JSON's content by the ids of their video and track."""
    entries = root.get("annotations") if isinstance(root, dict) else None
    entries = [entry for entry in entries or () if isinstance(entry, dict)]
    return {(as_integer(entry.get("video_id")), as_integer(entry.get("id"))): entry for entry in entries}


def point_of(entry: Any, track: Track, video: Video, place: Place, problems: list[Problem]) -> Point | None:
    """The click ``[frame, x, y, 1 or 0]`` of a track. None, with a problem, if it is faulty."""
    if isinstance(entry, list) and len(entry) == 4 and entry[3] in (0, 1):
        frame, x, y, positive = entry
        if _is_frame(frame, video) and _in_frame(x, y, video):
            point = Point(int(frame), float(x), float(y), bool(positive))
            return point if _is_usable(point, track, place, problems) else None
    remedy = f"Write [frame, x, y, 1 or 0], with frames 0 to {video.length - 1}, in pixels of the frame"
    place.report(problems, f"{shortened(entry)} is not a click", remedy)
    return None


def scribble_of(entry: Any, track: Track, video: Video, place: Place, problems: list[Problem]) -> Scribble | None:
    """The scribble ``[frame, [x1, y1, x2, y2, ...], 1 or 0]`` of a track. None, with a problem, if it is faulty."""
    if isinstance(entry, list) and len(entry) == 3 and entry[2] in (0, 1) and isinstance(entry[1], list):
        frame, values, positive = entry
        xy = tuple(zip(values[0::2], values[1::2], strict=False))
        even = len(values) > 0 and len(values) % 2 == 0
        if _is_frame(frame, video) and even and all(_in_frame(x, y, video) for x, y in xy):
            scribble = Scribble(int(frame), tuple((float(x), float(y)) for x, y in xy), bool(positive))
            return scribble if _is_usable(scribble, track, place, problems) else None
    remedy = f"Write [frame, [x1, y1, x2, y2, ...], 1 or 0], with frames 0 to {video.length - 1}, in pixels"
    place.report(problems, f"{shortened(entry)} is not a scribble", remedy)
    return None


def _is_frame(frame: Any, video: Video) -> bool:
    return is_finite(frame) and as_integer(frame) is not None and 0 <= frame < video.length


def _in_frame(x: Any, y: Any, video: Video) -> bool:
    return is_finite(x) and is_finite(y) and 0 <= x < video.width and 0 <= y < video.height


def _is_usable(mark: Point | Scribble, track: Track, place: Place, problems: list[Problem]) -> bool:
    """True if the object has a box in that frame, which a mark on the object touches. Others are reported."""
    t = mark.frame
    if not track.present_T[t]:
        if track.segmentations is not None and track.segmentations[t] is not None:
            return True  # the mask defines the box
        place.report(problems, f"is on frame {t}, where the track has no box", "Write that box, or drop the mark")
        return False
    box = track.boxes_T4[t].tolist()
    if mark.positive and not touches(mark, box):
        corners = [round(value, 1) for value in box]
        remedy = "Enlarge the box, since a mask never leaves it, or correct the mark"
        place.report(problems, f"is on the object, but outside its box {corners} (x1, y1, x2, y2)", remedy)
        return False
    return True


def _given(
    record: Mapping[str, Any], track: Track, video: Video, place: Place, problems: list[Problem]
) -> tuple[bool, ...] | None:
    flags = record.get("given")
    if flags is None:
        return None
    if not isinstance(flags, list) or len(flags) != video.length or not all(flag in (0, 1) for flag in flags):
        remedy = "Write true or false per frame, or leave it out: all masks are given then"
        place.report(problems, f"given is not a list of {video.length} values, true or false", remedy)
        return None
    masks = track.segmentations or (None,) * video.length
    bare = [t for t, (flag, mask) in enumerate(zip(flags, masks, strict=True)) if flag and mask is None]
    if bare:
        problem = f"given is true in {counted(len(bare), 'frame')} without a mask, such as frame {bare[0]}"
        place.report(problems, problem, "Write the mask there, or false")
    return tuple(bool(flag) for flag in flags)
