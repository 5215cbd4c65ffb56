"""Shapes of a CVAT track, and their bounding box in every frame."""

from __future__ import annotations

import math
from collections.abc import Set
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from mfvis.data.importers.boxes import Box, between, hull, number_in, whole_number_in
from mfvis.data.jsonfile import MAX_PIXELS
from mfvis.data.rle import encode_mask

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
    outline: tuple[float, ...] = ()
    """Points of a polygon, x and y alternately, or runs of a mask; empty if unknown, and for other kinds."""

    def mask(self, height: int, width: int) -> Any | None:
        """The mask of a polygon or mask, as in the JSON. None for other kinds, and if it is unknown or empty."""
        if not self.outline:
            return None
        if self.kind == "polygon":
            return [list(self.outline)] if len(self.outline) >= 6 else None
        left, top, right, bottom = (int(number) for number in self.numbers)
        pixels = np.repeat(np.arange(len(self.outline)) % 2 == 1, np.array(self.outline, int))
        mask_HW = np.zeros((height, width), bool)
        crop_HW = pixels.reshape(bottom - top, right - left)[max(-top, 0) :, max(-left, 0) :]
        target_HW = mask_HW[max(top, 0) : bottom, max(left, 0) : right]
        target_HW[:] = crop_HW[: target_HW.shape[0], : target_HW.shape[1]]
        return encode_mask(mask_HW) if mask_HW.any() else None

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
    numbers, outline = _numbers(element), _outline(element)
    angle = number_in(element.get("rotation", "0"))
    if numbers is None or outline is None or angle is None or not {*flags} <= {"0", "1"}:
        return None
    sides = numbers[2:] if element.tag == "ellipse" else (numbers[2] - numbers[0], numbers[3] - numbers[1])
    if min(sides) < 0:
        return None
    return Shape(element.tag, numbers, angle, flags[0] == "1", flags[1] == "1", outline)


def _outline(element: Element) -> tuple[float, ...] | None:
    """Points of a polygon or runs of a mask; empty for other shapes. None if they are invalid."""
    if element.tag == "polygon":
        points = [point.split(",") for point in element.get("points", "").strip("; ").split(";")]
        numbers = [number_in(part.strip()) for point in points for part in point]
        return None if None in numbers or any(len(point) != 2 for point in points) else tuple(numbers)
    if element.tag != "mask":
        return ()
    runs = [whole_number_in(run.strip()) for run in element.get("rle", "").split(",")]
    width, height = (whole_number_in(element.get(name, "")) for name in ("width", "height"))
    if None in runs or width is None or height is None or min(runs) < 0 or min(width, height) < 0:
        return None
    return tuple(runs) if sum(runs) == width * height <= MAX_PIXELS else None


def _numbers(element: Element) -> tuple[float, float, float, float] | None:
    if element.tag == "polygon":
        outline = _outline(element)
        if outline is None:
            return None
        xs, ys = outline[0::2], outline[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    names = {"ellipse": ("cx", "cy", "rx", "ry"), "mask": ("left", "top", "width", "height")}
    numbers = [number_in(element.get(name, "")) for name in names.get(element.tag, ("xtl", "ytl", "xbr", "ybr"))]
    if None in numbers:
        return None
    a, b, c, d = numbers
    return (a, b, a + c, b + d) if element.tag == "mask" else (a, b, c, d)


def visible_shapes(shapes: dict[int, Shape], length: int, known: Set[int]) -> tuple[dict[int, Shape], list[int], int]:
    """Shape in every frame in which the object is visible.

    Args:
        shapes: key frames and shapes interpolated by CVAT, by frame. An end may lie after the last frame.
        length: number of frames of the video.
        known: frames in which every visible object has a shape. Empty if only key frames were written.

    Returns:
        The shapes by frame; the frames whose interpolated shape contradicts the key frames; the number of
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
    return {t: shape for t, shape in sorted(seen.items()) if t < length}, wrong, unknown


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
    angle = start.angle + _turn(start.angle, end.angle) * share
    outline = start.outline if start.outline == end.outline else ()
    return start._replace(numbers=numbers, angle=angle, is_key=False, outline=outline)


def _turn(start: float, end: float) -> float:
    """Shorter rotation from one angle to another, in degrees in (-180, 180]."""
    return 180 - (180 - end + start) % 360


def _agree(ours: Shape | None, theirs: Shape) -> bool:
    """True if a shape that CVAT interpolated equals ours (None: not visible)."""
    if ours is None or theirs.outside:
        return ours is None and theirs.outside
    gaps = [a - b for a, b in zip(ours.numbers, theirs.numbers, strict=True)]
    return max(map(abs, [*gaps, _turn(theirs.angle, ours.angle)])) <= ROUNDING
