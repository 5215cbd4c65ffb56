"""Cheaper labels of a study of label mode: boxes in every n-th frame, with or without a point in each other frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bench_corrections import click
from mfvis.data.marks import Point, fields_of
from mfvis.data.rle import decode_mask

Box = Sequence[float]
"""x, y, width, height in pixels."""


def with_sparse_boxes(root: dict[str, Any], every: int, points: bool) -> dict[str, Any]:
    """A YouTube-VIS file with the boxes of every n-th frame, interpolated in the others.

    points: give each track a click in the other frames. The pixel that is furthest from the border of the true mask
    stands for an annotator's. Label mode needs clicks inside the boxes, so a box that leaves out its click is moved.
    """
    sizes = {video["id"]: (video["height"], video["width"]) for video in root["videos"]}

    def sparse(annotation: dict[str, Any]) -> dict[str, Any]:
        boxes = interpolated(annotation["bboxes"], every)
        clicks = clicks_inside(annotation, every, *sizes[annotation["video_id"]]) if points else []
        for point in clicks:
            boxes[point.frame] = moved_to(boxes[point.frame], point)
        return annotation | {"bboxes": boxes} | fields_of(clicks)

    return root | {"annotations": [sparse(annotation) for annotation in root["annotations"]]}


def stretches(boxes: Sequence[Box | None]) -> list[list[int]]:
    """The frames with boxes, divided where there are frames without."""
    present = [t for t, box in enumerate(boxes) if box]
    return [part.tolist() for part in np.split(present, np.flatnonzero(np.diff(present) > 1) + 1)]


def drawn_in(stretch: Sequence[int], every: int) -> list[int]:
    """Every n-th frame of a stretch, and its last one."""
    return sorted({*stretch[::every], *stretch[-1:]})


def interpolated(boxes: Sequence[Box | None], every: int) -> list[list[float] | None]:
    """Boxes of a track of which every n-th one was drawn, and the last one of each stretch of frames with boxes."""
    found: list[list[float] | None] = [None] * len(boxes)
    for stretch in stretches(boxes):
        drawn = drawn_in(stretch, every)
        sides_4T = np.array([boxes[t] for t in drawn], float).reshape(-1, 4).T
        for t in stretch:
            found[t] = [float(np.interp(t, drawn, side_T)) for side_T in sides_4T]
    return found


def clicks_inside(annotation: dict[str, Any], every: int, height: int, width: int) -> list[Point]:
    """A click in the middle of the true mask in each frame whose box is not drawn."""
    boxes, clicks = annotation["bboxes"], []
    drawn = {t for stretch in stretches(boxes) for t in drawn_in(stretch, every)}
    for t, (box, rle) in enumerate(zip(boxes, annotation["segmentations"], strict=True)):
        if box and rle and t not in drawn:
            mask_HW = decode_mask(rle, height, width, record=f"track {annotation['id']}")
            clicks.append(click(mask_HW, np.zeros_like(mask_HW), t))
    return [point for point in clicks if point]


def moved_to(box: Box, point: Point) -> list[float]:
    """The box, moved by as little as needed for the point to lie in it."""
    x, y, width, height = box
    return [min(max(x, point.x - width), point.x), min(max(y, point.y - height), point.y), width, height]
