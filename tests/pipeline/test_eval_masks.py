"""Many masks at once: the fast check must be of one opinion with the slow decoder."""

from __future__ import annotations

import numpy as np
import pytest
from mfvis.data.masks import check_counts, compress_masks
from mfvis.data.rle import decode_mask
from mfvis.errors import DataError
from pycocotools import mask as coco_mask


def counts_of(mask_HW: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"].decode()


def slow(counts: str, height: int, width: int) -> int | None:
    """The area, or None for a damaged mask."""
    try:
        return int(decode_mask({"size": [height, width], "counts": counts}, height, width).sum())
    except DataError:
        return None


def mutated(text: str, rng: np.random.Generator) -> str:
    for _ in range(rng.integers(0, 4)):
        place, kind = int(rng.integers(len(text) + 1)), rng.integers(4)
        new = chr(rng.integers(44, 116))
        text = [text[:place], text[:place] + new + text[place:], text[:place] + new + text[place + 1 :], text + new][
            kind
        ]
    return text


def test_500_mutated_strings_are_judged_as_the_decoder_judges_them():
    rng = np.random.default_rng(0)
    strings, sizes = [], []
    for case in range(500):
        height, width = (int(side) for side in (rng.integers(1, 24, 2) if case % 4 else rng.integers(100, 900, 2)))
        mask = rng.random((height, width)) < rng.random()
        if case % 3:
            mask = np.add.outer(np.arange(height), np.arange(width)) % (width + 1) < width // 2
        strings.append(mutated(counts_of(mask), rng))
        sizes.append((height, width))
    sound, area = check_counts(strings, np.array([height * width for height, width in sizes]))
    wanted = [slow(text, *size) for text, size in zip(strings, sizes, strict=True)]
    assert sound.tolist() == [one is not None for one in wanted]
    assert area[sound].tolist() == [one for one in wanted if one is not None]
    assert 100 < sound.sum() < 400


def test_two_wrongs_that_add_up_are_not_right():
    # Runs 10, -5, 20, 375: the sum is that of the picture.
    def text(*numbers: int) -> str:
        return "".join(
            chr(48 + (number & 31)) if -16 <= number < 16 else chr(80 + (number & 31)) + chr(48 + (number >> 5))
            for number in numbers
        )

    strings = [text(10, -5, 20, 380), text(10, 5, 20, 360), "", "o", "12\u00e9"]
    assert check_counts(strings, np.full(5, 400))[0].tolist() == [False, True, False, False, False]


def test_every_kind_of_mask_is_compressed_and_absent_ones_are_none():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:5] = True
    runs = [13, 3, 3, 3, 3, 3, 20]
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    usual = {"size": [6, 8], "counts": counts_of(mask)}
    problems = []
    masks = [
        usual,
        {"size": [6, 8], "counts": runs},
        polygon,
        None,
        [],
        {"size": [6.0, 8.0], "counts": counts_of(mask)},
    ]
    rles, area = compress_masks([("one", one, 6, 8) for one in masks], file="a.json", problems=problems)
    assert not problems
    assert area.tolist() == [9, 9, 9, 0, 0, 9]
    assert [rle is None for rle in rles] == [False, False, False, True, True, False]
    for place in (0, 1, 2, 5):
        np.testing.assert_array_equal(coco_mask.decode(rles[place]).astype(bool), mask)


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [8, 6], "counts": "`1"},
        {"size": [6, 8], "counts": "`2"},
        {"size": [6, 8], "counts": [0, 47]},
        {"size": [6, 8], "counts": [50, -2]},
        {"size": [6, 8], "counts": [48, None]},
        {"size": [6, 8], "counts": [[48]]},
        {"size": [6, 8], "counts": 48},
        {"size": 6, "counts": "`1"},
        {},
        7,
        [[1, 2]],
        [["a", 1, 2, 3, 4, 5]],
    ],
)
def test_broken_masks_are_named_and_none(broken):
    problems = []
    rles, area = compress_masks([("mask 3", broken, 6, 8)], file="a.json", problems=problems)
    assert (rles, area.tolist()) == ([None], [0])
    assert [(problem.file, problem.record) for problem in problems] == [("a.json", "mask 3")]
