"""Overlays and comparisons: what is drawn where, and in which color."""

from __future__ import annotations

import numpy as np
import pytest
from mfvis.vis.draw import OPACITY, color_of, enlarge, overlay, sheet, side_by_side

GRAY = np.full((60, 80, 3), 128, dtype=np.uint8)


def square() -> np.ndarray:
    mask_HW = np.zeros((60, 80), dtype=bool)
    mask_HW[20:40, 30:60] = True
    return mask_HW


def test_colors_are_stable_and_differ_between_tracks():
    colors = [color_of(number) for number in range(30)]
    assert len(set(colors)) == 30
    assert colors == [color_of(number) for number in range(30)]
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_the_inside_is_blended_the_outline_is_opaque_and_the_rest_untouched():
    mask_HW = square()
    drawn = overlay(GRAY, mask_HW[None], None, None, [1])
    blended = 128 + OPACITY * (np.array(color_of(1)) - 128)
    np.testing.assert_allclose(drawn[30, 45], blended, atol=1)
    assert tuple(drawn[20, 45]) == color_of(1)
    assert tuple(drawn[39, 30]) == color_of(1)
    np.testing.assert_array_equal(drawn[~mask_HW], GRAY[~mask_HW])


def test_the_frame_border_is_no_outline():
    mask_HW = np.zeros((60, 80), dtype=bool)
    mask_HW[:, :40] = True
    drawn = overlay(GRAY, mask_HW[None], None, None, [0])
    assert tuple(drawn[30, 0]) != color_of(0)
    assert tuple(drawn[30, 39]) == color_of(0)


def test_boxes_are_outlined_half_open_and_absent_ones_are_not_drawn():
    boxes = np.array([[10, 5, 30, 25], [0, 0, 0, 0]])
    drawn = overlay(GRAY, None, boxes, None, [2, 3])
    assert tuple(drawn[5, 10]) == color_of(2)
    assert tuple(drawn[24, 29]) == color_of(2)
    assert tuple(drawn[25, 30]) == (128, 128, 128)
    assert tuple(drawn[15, 20]) == (128, 128, 128)
    assert not (drawn == color_of(3)).all(-1).any()


@pytest.mark.parametrize("box", [[10, 40, 30, 55], [60, 0, 80, 20], [0, 0, 80, 60]])
def test_labels_stay_inside_the_frame(box):
    without, with_label = (overlay(GRAY, None, np.array([box]), labels, [0]) for labels in (None, ["cat 0.93"]))
    assert with_label.shape == GRAY.shape
    added = (with_label != without).any(-1)
    assert 100 < added.sum() < 60 * 80 / 2
    assert (with_label[added] == color_of(0)).all(-1).mean() > 0.4


def test_nothing_to_draw_gives_the_frame_back():
    np.testing.assert_array_equal(overlay(GRAY, np.zeros((0, 60, 80), bool), np.zeros((0, 4)), [], []), GRAY)
    np.testing.assert_array_equal(overlay(GRAY, None, None, None, []), GRAY)


def test_enlarging_masks_repeats_pixels():
    np.testing.assert_array_equal(
        enlarge(np.eye(2, dtype=bool)[None], 2, smooth=False)[0], np.kron(np.eye(2), np.ones((2, 2)))
    )
    assert enlarge(GRAY, 3, smooth=True).shape == (180, 240, 3)


def test_side_by_side_puts_frame_boxes_predicted_and_true_side_by_side():
    boxes = np.array([[30.0, 20, 60, 40]])
    row = side_by_side(GRAY, boxes, [0], [(np.zeros((0, 60, 80), bool), []), (square()[None], [0])])
    assert row.shape == (240, 4 * 320 + 3 * 6, 3), "four times as large, to be 220 high at least"
    panels = [row[:, start : start + 320] for start in range(0, 4 * 326, 326)]
    colored = [(panel == color_of(0)).all(-1).sum() for panel in panels]
    assert colored[0] == 0
    assert colored[1] > 0
    assert colored[2] == 0
    assert colored[3] > 0


def test_a_sheet_stacks_rows_under_their_captions():
    row = side_by_side(GRAY, np.array([[30.0, 20, 60, 40]]), [0], [(square()[None], [0])], with_frame=False)
    assert row.shape == (240, 2 * 320 + 6, 3)
    stacked = sheet([row, row], ("boxes", "masks"))
    header = stacked.shape[0] - 2 * 240 - 6
    np.testing.assert_array_equal(stacked[header : header + 240], row)
    np.testing.assert_array_equal(stacked[-240:], row)
    assert (stacked[:header, :100] < 100).any() and (stacked[:header, 323:423] < 100).any()  # the captions
