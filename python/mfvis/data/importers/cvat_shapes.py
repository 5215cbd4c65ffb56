"""Shapes of a CVAT track, and their bounding box in every frame."""

from __future__ import annotations

import math
from collections.abc import Set
from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element

from mfvis.data.importers.boxes import Box, between, hull, number_in

LINEAR = frozenset({"box", "ellipse"})
"""Shapes that CVAT interpolates linearly."""
READABLE = LINEAR | {"polygon", "mask"}
ROUNDING = 0.05
"""Tolerance in pixels between CVAT's interpolation and ours, since CVAT writes two decimals."""


class Shape(NamedTuple):
    """A shape in one frame."""

    kind: str
    numbers: tuple[float, float, float, float]
    """Corners of a box or of the box around an outline, or center and radii of an ellipse."""
    angle: float
    """Rotation in degrees, clockwise about the center."""
    outside: bool
    """True if the object is not visible."""
    is_key: bool
    """True for a key frame, False for a shape that CVAT interpolated."""

    def box(self) -> Box:
        """Upright box around the shape."""
        if self.kind != "ellipse":
            x1, y1, x2, y2 = self.numbers
            return hull((x1, y1, x2, y2), self.angle, ((x1 + x2) / 2, (y1 + y2) / 2))
        x, y, *radii = self.numbers
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        width = math.hypot(radii[0] * cosine, radii[1] * sine)
        height = math.hypot(radii[0] * sine, radii[1] * cosine)
        return x - width, y - height, x + width, y + height


def shape_of(element: Element) -> Shape | None:
    """Shape of an XML element. None if it is invalid. An "outside" shape needs no size."""
    flags = element.get("outside"), element.get("keyframe")
    numbers = _numbers(element)
    angle = number_in(element.get("rotation", "0"))
    if numbers is None or angle is None or not {*flags} <= {"0", "1"}:
        return None
    sides = numbers[2:] if element.tag == "ellipse" else (numbers[2] - numbers[0], numbers[3] - numbers[1])
    if min(sides) < 0:
        return None
    return Shape(element.tag, numbers, angle, flags[0] == "1", flags[1] == "1")


def _numbers(element: Element) -> tuple[float, float, float, float] | None:
    if element.tag == "polygon":
        points = [point.split(",") for point in element.get("points", "").strip("; ").split(";")]
        corners = [[number_in(part.strip()) for part in point] for point in points]
        if any(len(point) != 2 or None in point for point in corners):
            return None
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    names = {"ellipse": ("cx", "cy", "rx", "ry"), "mask": ("left", "top", "width", "height")}
    numbers = [number_in(element.get(name, "")) for name in names.get(element.tag, ("xtl", "ytl", "xbr", "ybr"))]
    if None in numbers:
        return None
    a, b, c, d = numbers
    return (a, b, a + c, b + d) if element.tag == "mask" else (a, b, c, d)


def visible_boxes(shapes: dict[int, Shape], length: int, known: Set[int]) -> tuple[dict[int, Box], list[int], int]:
    """Bounding box in every frame in which the object is visible.

    Args:
        shapes: key frames and shapes interpolated by CVAT, by frame. An end may lie after the last frame.
        length: number of frames of the video.
        known: frames in which every visible object has a shape. Empty if only key frames were written.

    Returns:
        The boxes by frame; the frames whose interpolated shape contradicts the key frames; the number of
        frames between key frames whose shape is unknown.
    """
    seen = {t: shape for t, shape in shapes.items() if not shape.outside}
    wrong = [t for t, ours in _computed(shapes, length).items() if not _agree(ours, shapes[t])]
    unknown = 0
    frames = sorted(shapes)
    for left, right in pairwise([*frames, length] if frames and frames[-1] < length else frames):
        start, end = shapes[left], shapes.get(right, shapes[left])
        for t in range(left + 1, right) if not start.outside else ():
            if t in known:
                continue
            if start.kind in LINEAR or start.numbers == end.numbers:
                # CVAT also interpolates towards an end that is outside.
                seen[t] = _between(start, end, (t - left) / (right - left))
            else:
                unknown += 1
    return {t: shape.box() for t, shape in sorted(seen.items()) if t < length}, wrong, unknown


def _computed(shapes: dict[int, Shape], length: int) -> dict[int, Shape | None]:
    """Our interpolation of the frames that CVAT interpolated (None: not visible), if both must be equal.

    They may differ in spans with gaps, since CVAT omits the shapes of deleted frames, including key frames. They may
    also differ for outlines, and for rotations by 180 degrees, which CVAT's server exports differently from what its
    player shows.
    """
    computed: dict[int, Shape | None] = {}
    keys = sorted(t for t, shape in shapes.items() if shape.is_key)
    for left, right in pairwise([*keys, length] if keys and keys[-1] < length else keys):
        start, end = shapes[left], shapes[right] if right in keys else shapes[left]
        frames = range(left + 1, right)
        half_turn = _turn(start.angle, end.angle) == 180
        certain = not half_turn if start.kind in LINEAR else start.numbers == end.numbers
        if all(t in shapes for t in frames) and (start.outside or certain):
            for t in frames:
                computed[t] = None if start.outside else _between(start, end, (t - left) / (right - left))
    return computed


def _between(start: Shape, end: Shape, share: float) -> Shape:
    numbers = tuple(between(start.numbers, end.numbers, share))
    return start._replace(numbers=numbers, angle=start.angle + _turn(start.angle, end.angle) * share, is_key=False)


def _turn(start: float, end: float) -> float:
    """Shorter rotation from one angle to another, in degrees in (-180, 180]."""
    return 180 - (180 - end + start) % 360


def _agree(ours: Shape | None, theirs: Shape) -> bool:
    """True if a shape that CVAT interpolated equals ours (None: not visible)."""
    if ours is None or theirs.outside:
        return ours is None and theirs.outside
    gaps = [a - b for a, b in zip(ours.numbers, theirs.numbers, strict=True)]
    return max(map(abs, [*gaps, _turn(theirs.angle, ours.angle)])) <= ROUNDING
