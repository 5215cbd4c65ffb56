"""Many masks at once: the check that makes them safe for pycocotools without decoding them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.jsonfile import MAX_PIXELS
from mfvis.data.rle import decode_mask, encode_mask, uncompress
from mfvis.errors import DataError, Problem

CHUNK = 1 << 17
"""Number of characters that `check_counts` processes at a time, so that they stay in the cache."""
_DIGITS = np.arange(256, dtype=np.uint8) - np.uint8(48)
# Each character adds five bits to its value. The highest bit of the last character (bit 5 clear) is the sign.
_VALUES = (_DIGITS & 31).astype(np.int32) - np.where(_DIGITS & 48 == 16, 32, 0).astype(np.int32)


@dataclass(frozen=True)
class Masks:
    """N masks that can be passed to pycocotools, which does not validate its input. If runs do not add up to the image
    size, it writes past its buffer or loops forever."""

    rles: list[dict[str, Any] | None]
    """Compressed RLEs ``{"size": [h, w], "counts": str}``. None for a mask that is absent or damaged."""
    area_N: np.ndarray
    """Areas in pixels, int64; 0 without a mask."""


def compress_masks(masks: Iterable[tuple[str, Any, int, int]], *, file: str, problems: list[Problem]) -> Masks:
    """Check masks of a JSON, each ``(record, segmentation, height, width)``, and return them as compressed RLEs.

    A damaged mask adds an entry to `problems`. Accepts the same masks as `decode_mask`, but is much faster.
    """
    masks = list(masks)
    rles: list[dict[str, Any] | None] = [None] * len(masks)
    usual, others = [], []
    for i, (_, mask, height, width) in enumerate(masks):
        if type(mask) is dict and type(mask.get("counts")) is str and mask.get("size") == [height, width]:
            # not the given size, which may be 720.0
            rles[i] = {"size": [height, width], "counts": mask["counts"]}
            usual.append(i)
        elif mask is not None and mask != []:
            others.append(i)
    area_N = np.zeros(len(masks), np.int64)
    others += _check(usual, rles, area_N)
    for i in sorted(others):
        record, mask, height, width = masks[i]
        rles[i] = None
        if height * width > MAX_PIXELS:
            problem = f"an image of {width} x {height} pixels is more than can be worked with"
            problems.append(Problem(file, record, problem, f"Give images of at most {MAX_PIXELS} pixels"))
            continue
        try:
            if _listed_runs(mask, height, width):
                rle = coco_mask.frPyObjects(mask, height, width)
                rles[i] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
            else:
                rles[i] = encode_mask(decode_mask(mask, height, width, file=file, record=record))
                counts = mask["counts"] if isinstance(mask, dict) else ()
                runs = uncompress(counts) if isinstance(counts, str) else counts
                if 0 in runs[1:-1]:
                    problem = "the RLE has runs of length 0 inside, where the field's programs stop reading"
                    problems.append(Problem(file, record, problem, "Encode the mask with pycocotools.mask.encode"))
                    rles[i] = None
        except DataError as error:
            problems += error.problems
    _check([i for i in others if rles[i] is not None], rles, area_N)
    return Masks(rles, area_N)


def _check(indices: list[int], rles: list[dict[str, Any] | None], area_N: np.ndarray) -> list[int]:
    """Fill in the areas of the RLEs at these indices. Returns the indices of the invalid ones."""
    pixels = np.array([rles[i]["size"][0] * rles[i]["size"][1] for i in indices], np.int64)
    valid_N, area_N[indices] = check_counts([rles[i]["counts"] for i in indices], pixels)
    return [indices[n] for n in np.flatnonzero(~valid_N).tolist()]


def _listed_runs(mask: Any, height: int, width: int) -> bool:
    """True if a quick check shows that the mask is a valid RLE with a list of runs."""
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), list) or mask.get("size") != [height, width]:
        return False
    try:
        runs = np.asarray(mask["counts"])
    except ValueError:
        return False
    return (
        runs.ndim == 1
        and runs.dtype == np.int64
        and runs[1:].all()
        and runs.min() >= 0
        and runs.sum() == height * width
    )


def check_counts(counts: Sequence[str], pixels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validity, bool ``[N]``, and mask areas, int64 ``[N]``, of N compressed RLE strings.

    Runs are valid if they add up to the image's pixels (int64 ``[N]``) and all are positive, except that the first may
    be 0. Strings with a value of more than six characters, and images of more than `MAX_PIXELS`, are reported as
    invalid. The area of an invalid string is 0.
    """
    valid_N, area_N = np.zeros(len(counts), bool), np.zeros(len(counts), np.int64)
    length_N = np.fromiter(map(len, counts), np.int64, len(counts))
    ascii_N = np.fromiter(map(str.isascii, counts), bool, len(counts))
    # Sort by length, so that the strings of a chunk fill a rectangle.
    order = np.argsort(length_N, kind="stable")
    order = order[(length_N[order] > 0) & ascii_N[order]]
    sorted_length = length_N[order]
    start = 0
    while start < len(order):
        stop = start + max(1, CHUNK // int(sorted_length[start]))
        # Strings that are much longer than the first one are left to the next chunk.
        stop = min(stop, max(start + 1, int(np.searchsorted(sorted_length, 1.25 * sorted_length[start], side="right"))))
        indices = order[start:stop]
        chunk = [counts[n] for n in indices]
        valid_N[indices], area_N[indices] = _check_chunk(chunk, length_N[indices], pixels_N[indices])
        start = stop
    return valid_N, np.where(valid_N, area_N, 0)


def _check_chunk(counts: list[str], length_N: np.ndarray, pixels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validity and mask areas of non-empty strings in ascending order of length.

    A string with a run of length 0, except the first one, is also reported as invalid.
    """
    longest, rows = int(length_N[-1]), np.arange(len(counts))
    # Blanks that pad the rows have bit 5 set, so that they never end a value.
    text = "".join([text.ljust(longest) for text in counts]).encode("ascii")
    text_NC = np.frombuffer(text, np.uint8).reshape(len(counts), longest)
    digit_NC = text_NC - np.uint8(48)
    more_NC = digit_NC >> 5 & 1
    last_NC = more_NC ^ 1
    valid = (np.count_nonzero(digit_NC < 64, axis=1) == length_N) & (last_NC[rows, length_N - 1] == 1)

    value_NC = _VALUES.take(text_NC)
    value_NC[:, 1:] <<= more_NC[:, :-1] * np.uint8(5)
    # Third and later characters of a value are rare.
    third = (more_NC[:, :-2] & more_NC[:, 1:-1]).view(bool) & (digit_NC[:, 2:] < 64)
    row, column = np.divmod(np.flatnonzero(third), max(longest - 2, 1))
    column, before = column + 2, 2
    while len(row) and before < 6:
        value_NC[row, column] <<= 5
        before += 1
        row, column = row[column >= before], column[column >= before]
        longer = more_NC[row, column - before] == 1
        row, column = row[longer], column[longer]
    valid[row] = False

    # From the fourth on, a run is stored as the difference to the run two before: sum over every second value.
    count_NC = np.cumsum(last_NC.astype(np.int32), axis=1, dtype=np.int32)
    odd_NC = (count_NC - last_NC) & 1
    run_NC = np.cumsum(value_NC, axis=1, dtype=np.int32)
    first_N = run_NC[rows, last_NC.argmax(1)]
    odd_run_NC = np.cumsum(value_NC * odd_NC, axis=1, dtype=np.int32)
    run_NC -= odd_run_NC
    run_NC -= first_N[:, None]  # the third run is not stored as a difference
    run_NC += odd_NC * (odd_run_NC - run_NC)
    run_NC *= last_NC
    # As unsigned, a negative run is huge. No step exceeds 2^30, so that values within the bound have not wrapped
    # around.
    valid &= pixels_N <= MAX_PIXELS
    valid &= (run_NC.view(np.uint32).max(1) <= pixels_N) & (first_N >= 0) & (first_N <= pixels_N)
    valid &= run_NC.sum(1, dtype=np.int64) + first_N == pixels_N

    # pycocotools stops comparing where both masks have a run of length 0. Only the first run may need length 0.
    empty = np.count_nonzero((run_NC == 0) & (last_NC == 1), axis=1) > 1
    return valid & ~empty, (run_NC * odd_NC).sum(1, dtype=np.int64)
