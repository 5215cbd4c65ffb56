"""Many masks at once: the check that makes them safe for pycocotools, without decoding one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.rle import decode_mask
from mfvis.errors import DataError, Problem

CHUNK = 1 << 16
"""Characters that `check_counts` works on at a time, so that they stay in the cache."""
_DIGITS = np.arange(256, dtype=np.uint8) - np.uint8(48)
# What a character adds to its number: five bits, of which the highest of the last character (bit 5 clear) is the sign.
_VALUES = (_DIGITS & 31).astype(np.int32) - np.where(_DIGITS & 48 == 16, 32, 0).astype(np.int32)


def compress_masks(
    masks: Iterable[tuple[str, Any, int, int]], *, file: str, problems: list[Problem]
) -> tuple[list[dict[str, Any] | None], np.ndarray]:
    """Masks as the JSON has them, each ``(record, segmentation, height, width)``, as compressed RLEs and their areas.

    A mask is None where it is absent or, with one more entry in `problems`, damaged; its area, int64 ``[N]``, is 0.
    What is returned can be given to pycocotools, which trusts its input: runs that do not add up to the picture make it
    write past its buffer, or loop for ever. Much faster than `decode_mask`, and of the same opinion.
    """
    masks = list(masks)
    rles: list[dict[str, Any] | None] = [None] * len(masks)
    area_N = np.zeros(len(masks), np.int64)
    usual, others, counts, pixels = [], [], [], []
    for place, (_, mask, height, width) in enumerate(masks):
        if type(mask) is dict and type(mask.get("counts")) is str and mask.get("size") == [height, width]:
            usual.append(place)
            counts.append(mask["counts"])
            pixels.append(height * width)
        elif mask is not None and mask != []:
            others.append(place)
    sound, usual_area = check_counts(counts, np.array(pixels, np.int64))
    area_N[usual] = np.where(sound, usual_area, 0)
    for place, good in zip(usual, sound.tolist(), strict=True):
        if good:
            _, mask, height, width = masks[place]
            # not the given size, which may be 720.0
            rles[place] = {"size": [height, width], "counts": mask["counts"]}
        else:
            others.append(place)
    for place in sorted(others):
        record, mask, height, width = masks[place]
        if not _listed_runs(mask, height, width):
            try:
                decode_mask(mask, height, width, file=file, record=record)
            except DataError as error:
                problems += error.problems
                continue
        if isinstance(mask, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
        else:
            rle = coco_mask.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
        rles[place], area_N[place] = rle, coco_mask.area(rle)
    return rles, area_N


def _listed_runs(mask: Any, height: int, width: int) -> bool:
    """Whether it is an RLE of listed runs that is seen to be sound at a glance."""
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), list) or mask.get("size") != [height, width]:
        return False
    try:
        runs = np.asarray(mask["counts"])
    except ValueError:
        return False
    return runs.ndim == 1 and runs.dtype == np.int64 and runs.min() >= 0 and runs.sum() == height * width


def check_counts(counts: Sequence[str], pixels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of N compressed strings of runs at once: is it sound, bool ``[N]``, and the area of its mask, int64 ``[N]``.

    Sound are non-negative runs that add up to the picture's pixels (int64 ``[N]``). Strings with a number of more than
    six characters, and pictures of more than 2^27 pixels, are not called sound. The area of others means nothing.
    """
    sound_N, area_N = np.zeros(len(counts), bool), np.zeros(len(counts), np.int64)
    length_N = np.fromiter(map(len, counts), np.int64, len(counts))
    ascii_N = np.fromiter(map(str.isascii, counts), bool, len(counts))
    # By length, so that the strings of a chunk fill a rectangle.
    order = np.argsort(length_N, kind="stable")
    order = order[(length_N[order] > 0) & ascii_N[order]]
    sorted_length = length_N[order]
    start = 0
    while start < len(order):
        stop = start + max(1, CHUNK // int(sorted_length[start]))
        # Strings that are much longer than the first one wait for the next chunk.
        stop = min(stop, max(start + 1, int(np.searchsorted(sorted_length, 1.25 * sorted_length[start], side="right"))))
        chosen = order[start:stop]
        sound_N[chosen], area_N[chosen] = _check_chunk([counts[n] for n in chosen], length_N[chosen], pixels_N[chosen])
        start = stop
    return sound_N, area_N


def _check_chunk(counts: list[str], length_N: np.ndarray, pixels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`check_counts` of strings in ascending order of their lengths, none of them empty."""
    longest, rows = int(length_N[-1]), np.arange(len(counts))
    # Blanks, to fill up the rows, have bit 5 set and so never end a number.
    text = "".join([text.ljust(longest) for text in counts]).encode("ascii")
    text_NC = np.frombuffer(text, np.uint8).reshape(len(counts), longest)
    digit_NC = text_NC - np.uint8(48)
    more_NC = digit_NC >> 5 & 1
    last_NC = more_NC ^ 1
    sound = (np.count_nonzero(digit_NC < 64, axis=1) == length_N) & (last_NC[rows, length_N - 1] == 1)

    value_NC = _VALUES.take(text_NC)
    value_NC[:, 1:] <<= more_NC[:, :-1] * np.uint8(5)
    # Third and later characters of a number are few.
    third = (more_NC[:, :-2] & more_NC[:, 1:-1]).view(bool) & (digit_NC[:, 2:] < 64)
    row, column = np.divmod(np.flatnonzero(third), max(longest - 2, 1))
    column, before = column + 2, 2
    while len(row) and before < 6:
        value_NC[row, column] <<= 5
        before += 1
        row, column = row[column >= before], column[column >= before]
        longer = more_NC[row, column - before] == 1
        row, column = row[longer], column[longer]
    sound[row] = False

    # From the fourth on, a run is stored as the difference to the run two before: sums over every other number.
    odd_NC = (np.cumsum(last_NC.astype(np.int32), axis=1, dtype=np.int32) - last_NC) & 1
    run_NC = np.cumsum(value_NC, axis=1, dtype=np.int32)
    first_N = run_NC[rows, last_NC.argmax(1)]
    odd_run_NC = np.cumsum(value_NC * odd_NC, axis=1, dtype=np.int32)
    run_NC -= odd_run_NC
    run_NC -= first_N[:, None]  # the third run is stored as it is
    run_NC += odd_NC * (odd_run_NC - run_NC)
    run_NC *= last_NC
    # As unsigned, a negative run is a huge one. No step exceeds 2^30, so that none within the bound has wrapped around.
    sound &= pixels_N <= 1 << 27
    sound &= (run_NC.view(np.uint32).max(1) <= pixels_N) & (first_N >= 0) & (first_N <= pixels_N)
    sound &= run_NC.sum(1, dtype=np.int64) + first_N == pixels_N
    return sound, (run_NC * odd_NC).sum(1, dtype=np.int64)
