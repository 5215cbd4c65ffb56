"""Tracks of CVAT, exported as "CVAT for video 1.1" (XML)."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mfvis.data.importers.boxes import Box, BoxTrack, BoxVideo, angle_between, between, hull, number_in
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.types import Video

ROUNDING = 0.05
"""Pixels by which a box that CVAT computed may differ from ours: it writes two decimals."""


class _Shape(NamedTuple):
    corners: list[float]
    angle: float
    outside: bool


class _DoctypeError(Exception):
    pass


def sniff_cvat(source: ImportedFile) -> bool:
    """Whether it is XML."""
    return source.head.lstrip().startswith(b"<")


def read_cvat(source: ImportedFile) -> list[BoxVideo]:
    """The box tracks of a task: key frames, between them straight lines, as CVAT shows and imports them itself.

    A key frame that is "outside" ends an object until the next key frame; the last one that is not holds to the end.
    Boxes between key frames (keyframe="0") are CVAT's own interpolation: they are compared with ours, not taken.
    Turned boxes become the upright boxes around them. Occluded boxes are boxes.
    """
    root = _parsed(source)
    if root is None:
        return []
    if root.tag != "annotations":
        source.report("top level", f"is <{root.tag[:40]}>, expected <annotations>", "Export as CVAT for video 1.1")
        return []
    if root.find("image") is not None:
        source.report("top level", "has images, not tracks", "Export as CVAT for video 1.1, not for images")
        return []
    task = next((found for found in (root.find("meta/task"), root.find("meta/job")) if found is not None), None)
    if task is None and root.find("meta/project") is not None:
        source.report("meta", "is of a project", "Export each task by itself")
        return []
    task = Element("task") if task is None else task
    video = source.video("file", Path(task.findtext("source") or source.file.stem).name)
    if video is None:
        return []
    before = len(source.problems)
    first, step = _frame_numbers(task, video, source)
    if len(source.problems) > before:
        return []
    result = BoxVideo(video)
    for place, element in enumerate(root.findall("track")):
        label = element.get("label")
        record = f"track {element.get('id', f'at place {place}')}"
        if not label:
            source.report(record, "has no label", "Give it one")
        elif not source.unwanted(label):
            boxes = _boxes(element, record, first, step, video.length, source)
            result.tracks[str(place)] = BoxTrack(label, boxes)
    return [result]


def _parsed(source: ImportedFile) -> Element | None:
    """The XML's tree. A DOCTYPE is refused: only there are entities declared, which name files and grow without end."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise _DoctypeError

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(source.file.read_bytes(), True)
        return builder.close()
    except _DoctypeError:
        source.report("file", "has a DOCTYPE, which CVAT never writes", "Remove it")
    except (expat.ExpatError, ValueError, LookupError) as error:
        source.report("file", f"is not whole XML ({error})", "Export or copy it again")
    return None


def _frame_numbers(task: Element, video: Video, source: ImportedFile) -> tuple[int, int]:
    """The number of the task's first frame and the step from one to the next; reports what does not fit the video."""
    numbers = {}
    for name in ("size", "start_frame", "original_size/width", "original_size/height"):
        text = task.findtext(name)
        numbers[name] = None if text is None else _whole(text.strip())
        if text is not None and numbers[name] is None:
            source.report("meta", f"{name} is {text[:40]!r}", "Write a whole number")
    step_text = task.findtext("frame_filter") or ""
    step = re.fullmatch(r"\s*(step\s*=\s*([1-9]\d{0,6}))?\s*", step_text, re.ASCII)
    if step is None:
        source.report("meta", f"frame_filter is {step_text[:40]!r}", "Write step=N, or leave it empty")
    first, every = numbers["start_frame"] or 0, int(step[2]) if step and step[2] else 1
    if numbers["size"] not in (None, video.length):
        problem = f"the task has {numbers['size']} frames, the video {video.length}"
        taken = f" (from {first} on, every {every}.)" if (first, every) != (0, 1) else ""
        source.report("meta", problem, f"Give the frames of the task{taken} with --frames")
    declared = numbers["original_size/width"], numbers["original_size/height"]
    if None not in declared and declared != (video.width, video.height):
        problem = f"the task is {declared[0]} x {declared[1]}, the video {video.width} x {video.height}"
        source.report("meta", problem, "Give the frames that were annotated")
    return first, every


def _boxes(element: Element, record: str, first: int, step: int, length: int, source: ImportedFile) -> dict[int, Box]:
    """The boxes of one track by frame."""
    keys: dict[int, _Shape] = {}
    computed: dict[int, _Shape] = {}
    before = len(source.problems)
    for child in element:
        where = f"{record}, frame {child.get('frame', '?')[:20]}"
        if child.tag != "box":
            source.report(where, f"is a {child.tag[:40]}, not a box", "Leave its label out with --categories")
            return {}
        number = _whole(child.get("frame", ""))
        place, rest = divmod(number - first, step) if number is not None else (-1, 0)
        if rest or not 0 <= place < length:
            source.report(where, f"is none of the video's {length} frames", "Give the frames of the task")
            continue
        shape = _shape(child, where, source)
        if shape is not None and (place in keys or place in computed):
            source.report(where, "the frame occurs twice", "Keep one of the two")
        elif shape is not None:
            (keys if child.get("keyframe") == "1" else computed)[place] = shape
    if len(source.problems) == before and not keys:
        source.report(record, "has no key frame", "Export it again")
    if len(source.problems) > before:
        return {}
    shown = _interpolated(keys, length)
    for place, theirs in computed.items():
        if not _agree(shown.get(place), theirs):
            where = f"{record}, frame {place * step + first}"
            source.report(where, "is not what its key frames make of it", 'Write keyframe="1" if it is meant')
    return {
        place: hull(tuple(corners), angle, ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2))
        for place, (corners, angle, _) in sorted(shown.items())
    }


def _shape(box: Element, where: str, source: ImportedFile) -> _Shape | None:
    corners = [number_in(box.get(name, "")) for name in ("xtl", "ytl", "xbr", "ybr")]
    angle = number_in(box.get("rotation", "0"))
    outside = box.get("outside")
    if None in corners or angle is None or outside not in ("0", "1") or box.get("keyframe") not in ("0", "1"):
        problem = "has no sound xtl, ytl, xbr, ybr, outside, keyframe or rotation"
        source.report(where, problem, "Write numbers, and 0 or 1")
        return None
    sides = corners[2] - corners[0], corners[3] - corners[1]
    if min(sides) < 0 or outside == "0" and min(sides) == 0:
        source.report(where, f"the box {corners} has no size", "Write xtl < xbr and ytl < ybr")
        return None
    return _Shape(corners, angle, outside == "1")


def _interpolated(keys: dict[int, _Shape], length: int) -> dict[int, _Shape]:
    """The shape in every frame in which the object is seen."""
    shown = {place: shape for place, shape in keys.items() if not shape.outside}
    places = sorted(keys)
    for left, right in pairwise(places):
        start, end = keys[left], keys[right]
        for place in range(left + 1, right) if not start.outside else ():
            share = (place - left) / (right - left)
            # Also towards a key frame that is outside: CVAT moves the box there before it leaves it out.
            corners = between(start.corners, end.corners, share)
            shown[place] = _Shape(corners, angle_between(start.angle, end.angle, share), False)
    last = places[-1]
    if not keys[last].outside:
        shown |= dict.fromkeys(range(last + 1, length), keys[last])
    return shown


def _agree(ours: _Shape | None, theirs: _Shape) -> bool:
    """Whether a shape that CVAT computed is the one that we compute (None: not seen)."""
    if ours is None or theirs.outside:
        return ours is None and theirs.outside
    turned = (ours.angle - theirs.angle + 180) % 360 - 180
    gaps = [a - b for a, b in zip(ours.corners, theirs.corners, strict=True)]
    return max(map(abs, [*gaps, turned])) <= ROUNDING


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,8}", text, re.ASCII) else None


CVAT = Importer("cvat", sniff_cvat, read_cvat)
