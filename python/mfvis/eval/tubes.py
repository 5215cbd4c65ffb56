"""Tubes, the masks of a track over the frames of a video, and their overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Tube:
    """Masks of one track: a valid compressed RLE or None for each frame."""

    rles: tuple[dict[str, Any] | None, ...]

    @cached_property
    def area_T(self) -> np.ndarray:
        """Mask areas in pixels, float64 ``[T]``; 0 for a frame without a mask."""
        area_T = np.zeros(len(self.rles))
        drawn = [t for t, rle in enumerate(self.rles) if rle]
        area_T[drawn] = coco_mask.area([self.rles[t] for t in drawn]) if drawn else 0
        return area_T

    @cached_property
    def size_T(self) -> np.ndarray:
        """Height and width of each mask packed into one integer, int64 ``[T]``; 0 for a frame without a mask."""
        return np.array([rle["size"][0] << 32 | rle["size"][1] if rle else 0 for rle in self.rles], np.int64)


def mean_area(areas: Sequence[float | None]) -> float:
    """Mean over the frames whose area is neither null nor 0; 0 without such frames."""
    counted = [area for area in areas if area]
    return float(np.mean(counted)) if counted else 0.0


def tube_iou(tubes_a: Sequence[Tube], tubes_b: Sequence[Tube]) -> np.ndarray:
    """IoU of every pair of tubes, float64 ``[A, B]``: intersections and unions are summed over the frames first.

    A pair is compared in the frames that both tubes have. A frame in which their mask sizes differ does not count.
    Pixel counts are exact integers: pycocotools returns i / u in float64, and i is recovered from it and the two areas.
    """
    length = min(max((len(tube.rles) for tube in tubes), default=0) for tubes in (tubes_a, tubes_b))
    if length == 0:
        return np.zeros((len(tubes_a), len(tubes_b)))
    iou_TAB = np.zeros((length, len(tubes_a), len(tubes_b)))
    frames_a, frames_b = (
        map(list, zip_longest(*(tube.rles[:length] for tube in tubes))) for tubes in (tubes_a, tubes_b)
    )
    for t, (rles_a, rles_b) in enumerate(zip(frames_a, frames_b, strict=False)):
        if None not in rles_a and None not in rles_b:
            iou_TAB[t] = coco_mask.iou(rles_a, rles_b, [0] * len(rles_b))
            continue
        drawn_a, drawn_b = ([n for n, rle in enumerate(rles) if rle] for rles in (rles_a, rles_b))
        if drawn_a and drawn_b:
            iou_AB = coco_mask.iou([rles_a[n] for n in drawn_a], [rles_b[n] for n in drawn_b], [0] * len(drawn_b))
            iou_TAB[t][np.ix_(drawn_a, drawn_b)] = iou_AB
    area_TA, size_TA, exists_TA = _by_frame(tubes_a, length)
    area_TB, size_TB, exists_TB = _by_frame(tubes_b, length)
    mismatch_TAB = (size_TA[:, :, None] != size_TB[:, None]) & (size_TA[:, :, None] > 0) & (size_TB[:, None] > 0)
    counted_TAB = exists_TA[:, :, None] & exists_TB[:, None] & ~mismatch_TAB
    iou_TAB[~counted_TAB] = 0
    both_TAB = area_TA[:, :, None] + area_TB[:, None]
    intersection_TAB = np.rint(iou_TAB * both_TAB / (1 + iou_TAB))
    intersection_AB = intersection_TAB.sum(0)
    union_AB = np.where(counted_TAB, both_TAB - intersection_TAB, 0).sum(0)
    return np.divide(intersection_AB, union_AB, out=np.zeros_like(union_AB), where=union_AB > 0)


def _by_frame(tubes: Sequence[Tube], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area, size and existence of the masks of each tube, each ``[T, N]`` with T = `length`."""
    area_TN, size_TN = np.zeros((length, len(tubes))), np.zeros((length, len(tubes)), np.int64)
    exists_TN = np.zeros((length, len(tubes)), bool)
    for n, tube in enumerate(tubes):
        frames = min(length, len(tube.rles))
        area_TN[:frames, n], size_TN[:frames, n], exists_TN[:frames, n] = (
            tube.area_T[:frames],
            tube.size_T[:frames],
            True,
        )
    return area_TN, size_TN, exists_TN
