"""The fast check of many masks at once must agree with the slow decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.data.masks import check_counts, compress_masks
from mfvis.data.rle import decode_mask, uncompress
from mfvis.errors import DataError
from mfvis.eval.tubes import Tube, tube_iou
from pycocotools import mask as coco_mask


def counts_of(mask_HW: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"].decode()


def compressed(*numbers: int) -> str:
    """A compressed RLE of numbers from -512 to 511, of which all but the first three are differences."""
    return "".join(
        chr(48 + (number & 31)) if -16 <= number < 16 else chr(80 + (number & 31)) + chr(48 + (number >> 5 & 31))
        for number in numbers
    )


def slow(counts: str, height: int, width: int) -> int | None:
    """The area, or None for a damaged mask."""
    try:
        area = int(decode_mask({"size": [height, width], "counts": counts}, height, width).sum())
    except DataError:
        return None
    return None if 0 in uncompress(counts)[1:] else area


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
    valid, area = check_counts(strings, np.array([height * width for height, width in sizes]))
    expected = [slow(text, *size) for text, size in zip(strings, sizes, strict=True)]
    assert valid.tolist() == [one is not None for one in expected]
    assert area[valid].tolist() == [one for one in expected if one is not None]
    assert 100 < valid.sum() < 400


def test_two_wrongs_that_add_up_are_not_right():
    # Runs 10, -5, 20, 375: the sum is that of the image.
    strings = [compressed(10, -5, 20, 380), compressed(10, 5, 20, 360), "", "o", "12\u00e9"]
    valid, area = check_counts(strings, np.full(5, 400))
    assert valid.tolist() == [False, True, False, False, False] and area[1] == 370


def test_runs_of_length_zero_are_refused_inside_and_mended_at_the_end():
    # pycocotools stops comparing two masks where both have such a run.
    inside, end = ({"size": [4, 5], "counts": compressed(*numbers)} for numbers in ((2, 3, 15, -3, -15), (2, 18, 0)))
    assert uncompress(inside["counts"]) == [2, 3, 15, 0, 0]
    listed = {"size": [4, 5], "counts": [2, 3, 0, 4, 11]}
    problems = []
    found = compress_masks([("one", one, 4, 5) for one in (inside, end, listed)], file="a.json", problems=problems)
    assert [rle is None for rle in found.rles] == [True, False, True]
    assert uncompress(found.rles[1]["counts"]) == [2, 18]
    assert all("runs of length 0 inside" in problem.problem for problem in problems)


def test_images_beyond_any_memory_are_refused_unseen():
    problems = []
    huge = {"size": [10**6, 10**6], "counts": [10**12]}
    assert compress_masks([("one", huge, 10**6, 10**6)], file="a.json", problems=problems).rles == [None]
    assert "more than can be worked with" in problems[0].problem


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_tubes_have_the_iou_of_their_pixels(data):
    height, width, length = (data.draw(st.integers(1, most)) for most in (6, 6, 4))
    pixels = st.lists(st.booleans(), min_size=height * width, max_size=height * width)
    frame = st.one_of(st.none(), st.just([False] * height * width), st.just([True] * height * width), pixels)
    tubes, drawn = [], []
    for _ in range(3):
        frames = [data.draw(frame) for _ in range(length)]
        masks = [None if one is None else np.array(one).reshape(height, width) for one in frames]
        rles = [None if mask is None else {"size": [height, width], "counts": counts_of(mask)} for mask in masks]
        found = compress_masks([("one", rle, height, width) for rle in rles], file="a.json", problems=[])
        tubes.append(Tube(tuple(found.rles)))
        drawn.append(np.array([np.zeros((height, width), bool) if mask is None else mask for mask in masks]))
    union = [(drawn[0] | other).sum() for other in drawn[1:]]
    expected = [(drawn[0] & other).sum() / u if u else 0.0 for other, u in zip(drawn[1:], union, strict=True)]
    assert tube_iou(tubes[:1], tubes[1:])[0].tolist() == expected


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
    found = compress_masks([("one", one, 6, 8) for one in masks], file="a.json", problems=problems)
    rles = found.rles
    assert not problems
    assert found.area_N.tolist() == [9, 9, 9, 0, 0, 9]
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
    found = compress_masks([("mask 3", broken, 6, 8)], file="a.json", problems=problems)
    assert (found.rles, found.area_N.tolist()) == ([None], [0])
    assert [(problem.file, problem.record) for problem in problems] == [("a.json", "mask 3")]
