"""Box tracks during import, and box arithmetic that several formats share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from mfvis.data.jsonfile import LARGEST
from mfvis.data.marks import Point, Scribble
from mfvis.types import Video

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels, half-open, 0-based. The box may exceed the image."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


@dataclass
class BoxTrack:
    """One object of an imported file."""

    category: str
    boxes: dict[int, Box] = field(default_factory=dict)
    """Boxes by frame index, from 0."""
    masks: dict[int, Any] = field(default_factory=dict)
    """Masks of some frames that have a box, as in the JSON: polygons or either RLE."""
    marks: list[Point | Scribble] = field(default_factory=list)
    """Clicks and scribbles. They may exceed the image, and lie in frames without a box."""
    votes: Counter[str] = field(default_factory=Counter)
    """Number of boxes of each category, for trackers that classify each box separately."""


@dataclass
class BoxVideo:
    """One video of an imported file: its images, and its objects by the ids of the file."""

    video: Video
    tracks: dict[str, BoxTrack] = field(default_factory=dict)


def number_in(text: str) -> float | None:
    """Number given by a text. None for anything else, including nan, inf, 1_0 and numbers that are too large."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST else None


def whole_number_in(text: str) -> int | None:
    """Integer of any size given by a text (7, 7.0, 7e0). None for anything else."""
    if text.isdecimal() and text.isascii() and len(text) < 100:
        return int(text)
    if not _NUMBER.fullmatch(text):
        return None
    value = Decimal(text)
    return int(value) if value.adjusted() < 100 and value == value.to_integral_value() else None


def between(start: Sequence[float], end: Sequence[float], share: float) -> list[float]:
    """Values interpolated linearly at the fraction `share` from `start` to `end`."""
    return [a + (b - a) * share for a, b in zip(start, end, strict=True)]


def hull(box: Box, angle: float, pivot: tuple[float, float]) -> Box:
    """Upright box around a box that is rotated about `pivot` by an angle in degrees, clockwise."""
    if angle % 360 == 0:
        return box
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    corners = [(x - pivot[0], y - pivot[1]) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs = [pivot[0] + x * cosine - y * sine for x, y in corners]
    ys = [pivot[1] + x * sine + y * cosine for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)
