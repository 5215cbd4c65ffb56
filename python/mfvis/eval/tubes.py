"""Tubes, the masks of a track over the frames of a video, and their overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.masks import JOINTS, Masks


@dataclass(frozen=True)
class Tube:
    """Masks of one track: a valid compressed RLE or None for each frame."""

    rles: tuple[dict[str, Any] | None, ...]
    source: Masks | None = None
    """Checked masks that contain `rles` from index `start` on. None: they were not checked yet."""
    start: int = 0

    @cached_property
    def area_T(self) -> np.ndarray:
        """Mask areas in pixels, float64 ``[T]``; 0 for a frame without a mask."""
        if self.source is not None:
            return self.source.area_N[self.start : self.start + len(self.rles)].astype(np.float64)
        area_T = np.zeros(len(self.rles))
        drawn = [t for t, rle in enumerate(self.rles) if rle]
        area_T[drawn] = coco_mask.area([self.rles[t] for t in drawn]) if drawn else 0
        return area_T

    @cached_property
    def size_T(self) -> np.ndarray:
        """Height and width of each mask packed into one integer, int64 ``[T]``; 0 for a frame without a mask."""
        return np.array([rle["size"][0] << 32 | rle["size"][1] if rle else 0 for rle in self.rles], np.int64)

    def film(self, pixels: int) -> ConcatenatedRle:
        """All frames concatenated into one RLE, for checked masks of `pixels` pixels each.

        Four pixels join two frames: 1010 after a frame that ends with background, 0110 after one that ends with the
        object. Thus no run becomes empty, which pycocotools would not handle. A string stores each run as the
        difference to the run two before, so that only its first three values must be encoded again.
        """
        pieces: list[str] = []
        background_T = np.zeros(len(self.rles), bool)
        # Number of runs, and the last two of them.
        count = before = last = 0
        for t, (rle, joint) in enumerate(zip(self.rles, self._joints, strict=True)):
            runs, first, second, third, before_last, own_last, first_end, third_end = joint
            text = rle["counts"] if rle else ""
            background = t > 0 and background_T[t - 1]
            if count > 2 and runs > 2:
                pieces.append(number(1 - before) + (number(1 - last) + "0" if background else number(2 - last)))
                # The first run grows by one pixel, and so does the run two before it: their difference stays the same.
                changed = number(second - (1 if background else 2)) + number(third - first - 1)
                pieces += (text[:first_end], changed, text[third_end:])
                count += 6 if background else 5
            elif t == 0 and runs > 2:
                pieces.append(text)
                count = 3
            else:
                values = [first, second, third][:runs] if rle else [pixels]
                if t > 0:
                    values = [*((1, 1, 1) if background else (1, 2)), values[0] + 1, *values[1:]]
                for value in values:
                    # The first three runs are not stored as differences.
                    pieces.append(number(value - before if count > 2 else value))
                    count, before, last = count + 1, last, value
                pieces.append(text[third_end:] if runs > 3 else "")
            if runs > 2:
                count, before, last = count + runs - 3, before_last, own_last
            background_T[t] = rle is None or runs % 2 == 1
        total = pixels * len(self.rles) + 4 * (len(self.rles) - 1)
        return ConcatenatedRle(
            {"size": [1, total], "counts": "".join(pieces)}, float(self.area_T.sum()), background_T[:-1]
        )

    @cached_property
    def _joints(self) -> list[list[int]]:
        """Per frame, the values of JOINTS that `check_counts` found, in that order; zeros for a frame without a
        mask."""
        own = slice(self.start, self.start + len(self.rles))
        return np.stack([self.source.joints[name][own] for name in JOINTS], -1).tolist()


@dataclass(frozen=True)
class ConcatenatedRle:
    """Frames of a tube in one RLE, with the pixels that join them."""

    rle: dict[str, Any]
    area: float
    """Area of the masks only, without the joining pixels."""
    background_T: np.ndarray
    """True for a frame, except the last, that ends with background: bool ``[T - 1]``."""


def film_iou(films_a: Sequence[ConcatenatedRle], films_b: Sequence[ConcatenatedRle]) -> np.ndarray:
    """IoU of every pair of tubes of equal length and size, float64 ``[A, B]``."""
    iou_AB = coco_mask.iou([film.rle for film in films_a], [film.rle for film in films_b], [0] * len(films_b))
    area_A, area_B = (np.array([film.area for film in films]) for films in (films_a, films_b))
    after_AT, after_BT = (np.stack([film.background_T for film in films]) for films in (films_a, films_b))
    joins = after_AT.shape[1]
    # Two pixels of each join belong to the object. 1010 and 0110 have one of them in common.
    shared_AB = 2 * joins - (after_AT[:, None] ^ after_BT[None]).sum(2)
    both_AB = area_A[:, None] + area_B
    # pycocotools returns i / u in float64; the integer i is recovered from it and the two areas.
    intersection_AB = np.rint(iou_AB * (both_AB + 4 * joins) / (1 + iou_AB)) - shared_AB
    union_AB = both_AB - intersection_AB
    return np.divide(intersection_AB, union_AB, out=np.zeros_like(union_AB), where=union_AB > 0)


@lru_cache(maxsize=1 << 16)
def number(value: int) -> str:
    """An integer as encoded in a compressed RLE: five bits per character, lowest first, with a sign."""
    text = ""
    while not -16 <= value < 16:
        text += chr(48 + (32 | value & 31))
        value >>= 5
    return text + chr(48 + (value & 31))


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
    sizes = {size for tube in (*tubes_a, *tubes_b) for size in set(tube.size_T.tolist()) - {0}}
    alike = len(sizes) == 1 and all(len(tube.rles) == length and tube.source for tube in (*tubes_a, *tubes_b))
    pixels = next(iter(sizes)) if sizes else 0
    pixels = (pixels >> 32) * (pixels & 0xFFFFFFFF)
    # pycocotools counts in 32 bits
    if alike and (pixels + 4) * length < 1 << 31:
        return film_iou(*([tube.film(pixels) for tube in tubes] for tubes in (tubes_a, tubes_b)))
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
            found = coco_mask.iou([rles_a[n] for n in drawn_a], [rles_b[n] for n in drawn_b], [0] * len(drawn_b))
            iou_TAB[t][np.ix_(drawn_a, drawn_b)] = found
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
        own = min(length, len(tube.rles))
        area_TN[:own, n], size_TN[:own, n], exists_TN[:own, n] = tube.area_T[:own], tube.size_T[:own], True
    return area_TN, size_TN, exists_TN
