"""Masks as stored in JSON files, COCO run-length encodings or polygons, and their conversion from and to pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.jsonfile import is_finite, is_integer, kind_of
from mfvis.errors import DataError, Problem

MAX_OUTLINE = 2**21
"""Maximum number of pixels of a mask's outline: pycocotools needs 100 bytes for each, and crashes when 32 bits
overflow."""


def decode_mask(
    segmentation: Any, height: int, width: int, *, file: str = "annotation", record: str = "segmentation"
) -> np.ndarray:
    """A mask of a JSON as pixels: bool ``[H, W]``.

    `segmentation` is None or [] (absent, without pixels), a list of polygons ``[x1, y1, x2, y2, ...]`` or just one
    polygon, or a COCO run-length encoding ``{"size": [h, w], "counts": ...}`` with counts as a list of runs or as the
    compressed string. Polygons of fewer than three points have no pixels and are ignored if there are others. `file`
    and `record` name the mask in messages.

    Raises:
        DataError: when it is none of these, is damaged, or has another size.
    """

    def broken(problem: str, remedy: str) -> DataError:
        return DataError([Problem(file, record, problem, remedy)])

    if segmentation is None:
        return np.zeros((height, width), bool)
    if isinstance(segmentation, list):
        polygons = _polygons(segmentation, broken)
        if not polygons:
            return np.zeros((height, width), bool)
        return decode_mask(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)), height, width)
    runs = _valid_runs(segmentation, height, width, broken)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T.copy()


def encode_mask(mask_HW: np.ndarray) -> dict[str, Any]:
    """A mask, bool or uint8 ``[H, W]``, as a compressed COCO RLE ``{"size": [h, w], "counts": str}``."""
    rle = coco_mask.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_box(mask_HW: np.ndarray) -> np.ndarray:
    """Smallest half-open box around a mask, float32 ``[4]`` xyxy; zeros if the mask is empty."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    if len(rows) == 0:
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def rle_box(
    rle: dict[str, Any], height: int, width: int, *, file: str = "annotation", record: str = "segmentation"
) -> np.ndarray:
    """`mask_box` of a run-length encoding, computed from its runs without decoding it, and therefore several times
    faster.

    Raises:
        DataError: as `decode_mask` does.
    """

    def broken(problem: str, remedy: str) -> DataError:
        return DataError([Problem(file, record, problem, remedy)])

    edges = np.cumsum(_valid_runs(rle, height, width, broken))
    starts, ends = edges[:-1:2], edges[1::2]
    starts, lasts = starts[ends > starts], ends[ends > starts] - 1
    if len(starts) == 0:
        return np.zeros(4, np.float32)
    # A run that continues in the next column touches the bottom row and the top row.
    wrapped = starts // height != lasts // height
    top = np.where(wrapped, 0, starts % height).min()
    bottom = np.where(wrapped, height - 1, lasts % height).max()
    return np.array([starts[0] // height, top, lasts[-1] // height + 1, bottom + 1], np.float32)


def _polygons(segmentation: list[Any], broken: Callable[[str, str], DataError]) -> list[list[float]]:
    """Polygons of a mask that pycocotools can draw. Otherwise raises ``broken(problem, remedy)``."""
    polygons = [segmentation] if segmentation and all(map(is_finite, segmentation)) else segmentation
    for index, polygon in enumerate(polygons):
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_finite, polygon)):
            raise broken(f"polygon {index} is not a list of points", "Write [[x1, y1, x2, y2, ...]]")
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if polygons and not drawn:
        raise broken("no polygon has three or more points", "Write [[x1, y1, x2, y2, x3, y3, ...]], or null")
    bound = sum((max(polygon) - min(polygon) + 1) * len(polygon) / 2 for polygon in drawn)
    if bound > MAX_OUTLINE and sum(map(_outline, drawn)) > MAX_OUTLINE:
        problem = f"the outlines of its polygons are longer than {MAX_OUTLINE} pixels, too long to be drawn"
        raise broken(problem, "Clip the polygons to the image, or encode the mask with pycocotools.mask.encode")
    return drawn


def _outline(polygon: list[float]) -> float:
    """Number of pixels of a polygon's outline, as counted by pycocotools."""
    points_N2 = np.reshape(polygon, (-1, 2))
    return float(np.abs(points_N2 - np.roll(points_N2, 1, 0)).max(1).sum())


def _valid_runs(rle: Any, height: int, width: int, broken: Callable[[str, str], DataError]) -> list[int]:
    """Runs of either encoding, background first. Otherwise raises ``broken(problem, remedy)``."""
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        raise broken(f"the mask is {kind_of(rle)}, expected polygons or an RLE with size and counts", "Encode it again")
    if list(rle["size"] if isinstance(rle["size"], list | tuple) else ()) != [height, width]:
        raise broken(
            f"the mask's size is {rle['size']}, the video's is [{height}, {width}] (height, width)",
            "Resize the mask, or correct the video's size",
        )
    counts = rle["counts"]
    if not isinstance(counts, list | str | bytes):
        raise broken(f"the RLE's counts are {kind_of(counts)}, expected a list or a string", "Encode the mask again")
    # pycocotools does not validate the string: runs that are too long would be written past the end of its buffer.
    runs = counts if isinstance(counts, list) else uncompress(counts)
    if runs is None or not all(is_integer(run) and run >= 0 for run in runs) or sum(runs) != height * width:
        what = "runs" if isinstance(counts, list) else "string's runs"
        raise broken(f"the RLE {what} are damaged or not of {height} x {width} pixels", "Encode the mask again")
    return runs


def uncompress(counts: str | bytes) -> list[int] | None:
    """Runs of a compressed RLE: variable-length integers, from the fourth on as differences. None if it is broken."""
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = character - 48
        if not 0 <= digit < 64 or shift > 30:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None
