"""Clicks and scribbles of CVAT: points and polylines over a track."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mfvis.data.importers.boxes import number_in
from mfvis.data.importers.cvat_meta import Task, whole
from mfvis.data.importers.cvat_objects import CvatObject
from mfvis.data.importers.source import ImportedFile
from mfvis.data.marks import Point, Scribble, touches

KINDS = frozenset({"points", "polyline"})
NEGATIVE = "negative"
"""Name of the attribute, and end of the label, that say that pixels do not belong to the object."""


@dataclass(frozen=True)
class CvatMarks:
    """Clicks of one points shape, or one scribble."""

    marks: tuple[Point | Scribble, ...]
    label: str
    """Without the ending that says that it is negative; it may be empty."""
    group: str
    """``group_id``; empty if it has none."""


def is_marks(element: Element) -> bool:
    """True for a track of points or polylines."""
    return len(element) > 0 and {child.tag for child in element} <= KINDS


def label_of_marks(label: str) -> tuple[str, bool]:
    """Label without the ending ``negative``, and True if it had it."""
    match = re.fullmatch(rf"(.*?)[\s_-]*{NEGATIVE}", label, re.IGNORECASE | re.DOTALL)
    return (match[1], True) if match else (label, False)


def read_marks(element: Element, record: str, task: Task, length: int, source: ImportedFile) -> list[CvatMarks]:
    """Marks of a track of points or polylines, from its key frames; interpolated ones are not clicks."""
    label, is_negative = label_of_marks(element.get("label", ""))
    group = element.get("group_id", "")
    found = []
    for child in element:
        if child.get("outside") == "1" or child.get("keyframe") == "0":
            continue
        where = f"{record}, frame {child.get('frame', '?')[:20]}"
        number = whole(child.get("frame", ""))
        t = None if number is None else task.frame(number)
        corners = [part.split(",") for part in child.get("points", "").strip("; ").split(";")]
        xy = [(number_in(c[0].strip()), number_in(c[1].strip())) for c in corners if len(c) == 2]
        if len(xy) < len(corners) or any(None in corner for corner in xy):
            source.report(where, "has no valid points", "Write points as x,y;x,y")
        elif t is None or not 0 <= t < length:
            source.report(where, f"is none of the video's {length} frames", "Give the frames of the task")
        else:
            positive = not (is_negative or _says_negative(child))
            if child.tag == "points":
                marks = tuple(Point(t, x, y, positive) for x, y in xy)
            else:
                marks = (Scribble(t, tuple(xy), positive),)
            found.append(CvatMarks(marks, label, "" if group == "0" else group))
    return found


def attach_marks(
    marks: Sequence[CvatMarks], objects: Sequence[CvatObject], source: ImportedFile
) -> dict[str, list[Point | Scribble]]:
    """Marks of each object, by its id: of the objects of their group or else of their label, those below them.

    Marks whose label no object has may belong to any object. If several objects lie below a mark, the smallest counts.
    """
    labels = {entry.label for entry in objects}
    attached: dict[str, list[Point | Scribble]] = {}
    for entry in marks:
        group = [thing for thing in objects if entry.group and thing.group == entry.group]
        alike = [thing for thing in objects if thing.label == entry.label or entry.label not in labels]
        best = _below(entry, group or alike, anywhere=bool(group))
        if best is None:
            noun = "click" if isinstance(entry.marks[0], Point) else "scribble"
            source.leave_out("without a track below it in its frame", noun, len(entry.marks))
        else:
            attached.setdefault(best.id, []).extend(entry.marks)
    count = sum(map(len, attached.values()))
    if count:
        source.note(f"{count} points and polylines became clicks and scribbles of the tracks below them")
    return attached


def _below(entry: CvatMarks, objects: Sequence[CvatObject], anywhere: bool) -> CvatObject | None:
    """The object whose box holds most of the marks, the smallest of equals; None if none holds any.

    anywhere: The marks may lie next to all boxes.
    """
    best = None
    for i, thing in enumerate(objects):
        shape = thing.shapes.get(entry.marks[0].frame)
        if shape is not None:
            x1, y1, x2, y2 = box = shape.box()
            inside = sum(touches(mark, box) for mark in entry.marks)
            rank = (-inside, (x2 - x1) * (y2 - y1), i)
            best = rank if (inside or anywhere) and (best is None or rank < best) else best
    return None if best is None else objects[best[2]]


def _says_negative(element: Element) -> bool:
    """True if the attribute ``negative`` is set."""
    return any(
        attribute.get("name", "").strip().lower() == NEGATIVE
        and (attribute.text or "").strip().lower() in ("true", "1", "yes", NEGATIVE)
        for attribute in element.findall("attribute")
    )
