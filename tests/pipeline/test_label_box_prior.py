"""Position prior of label mode: where it acts, and when propagated background is trusted instead."""

from __future__ import annotations

import math

import pytest
import torch
from mfvis.grid import STRIDE
from mfvis.labeling.box_prior import (
    COVERAGE,
    SMALL_CELLS,
    confidence,
    ellipses,
    reliable_propagation,
)
from mfvis.labeling.config import BackgroundPropagationConfig, RefineConfig
from mfvis.labeling.refine import refine
from mfvis.labeling.window_inputs import add_propagated_background, crop_around_boxes, prepare_window, select_clip
from mfvis.losses.background_propagation import inside_boxes
from mfvis.losses.box_positions import radius
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig

BOXES_NT4 = torch.tensor([[[4.0, 6, 24, 16]] * 4])


def test_ellipse_of_a_box_below_a_pixel_is_the_box():
    ellipse_NTHW = ellipses(torch.tensor([[[2.0, 2, 10, 10], [3.0, 3, 4, 4], [0.0, 0, 0, 0]]]), 12, 12)
    assert ellipse_NTHW[0, :, 2:10, 2:10].sum((1, 2)).tolist() == [52, 1, 0]
    assert ellipse_NTHW[0, 0].sum() == 52  # pi / 4 of 64 pixels is 50


def test_background_in_the_corners_is_reliable_and_background_anywhere_is_not():
    torch.manual_seed(0)
    inside_NTHW = inside_boxes(BOXES_NT4, 20, 30)
    corners_NTHW = inside_NTHW & (radius(BOXES_NT4, 20, 30) > 1)
    anywhere_NTHW = inside_NTHW & (torch.rand(inside_NTHW.shape) < 0.5)
    one_place_NTHW = inside_NTHW & (torch.arange(30) < 15)  # the left half, core and corners alike, in all frames
    propagated_NTHW = torch.cat([corners_NTHW, anywhere_NTHW, one_place_NTHW, torch.zeros_like(corners_NTHW)])
    reliable_N = reliable_propagation(propagated_NTHW, BOXES_NT4.expand(4, -1, -1))
    assert reliable_N[:3].tolist() == [True, False, True]
    weight_N = confidence(propagated_NTHW, BOXES_NT4.expand(4, -1, -1))
    torch.testing.assert_close(weight_N[2:], torch.tensor([math.exp(-((10 / SMALL_CELLS) ** 2)), 1.0]))
    large_N = confidence(one_place_NTHW.repeat_interleave(9, 2).repeat_interleave(9, 3), 9 * BOXES_NT4)
    torch.testing.assert_close(large_N, torch.tensor([math.exp(-11 / 20 / COVERAGE)]))
    absent_NT4 = torch.zeros(1, 4, 4)
    assert confidence(corners_NTHW, absent_NT4).tolist() == [1.0]
    assert reliable_propagation(corners_NTHW, absent_NT4).shape == (1,)


def test_background_in_whole_rows_of_a_box_is_not_reliable():
    """Each row of a box contains a part of its object. Rows with a gap may be background otherwise."""
    whole_NTHW = torch.zeros(1, 4, 20, 30, dtype=torch.bool)
    whole_NTHW[0, :2, 6:10, 4:24] = True
    whole_NTHW[0, 2:, 12:16, 4:24] = True
    gap_NTHW = whole_NTHW.clone()
    gap_NTHW[..., 13:15] = False
    assert not reliable_propagation(whole_NTHW, BOXES_NT4).item()
    assert reliable_propagation(gap_NTHW, BOXES_NT4).item()


def test_refinement_without_evidence_rounds_the_corners_off():
    logits_THW, lab_TCHW = torch.full((1, 60, 60), 1.0), torch.full((1, 3, 60, 60), 50.0)
    boxes_T4 = torch.tensor([[6.0, 6, 54, 54]])
    shares = [
        refine(logits_THW, lab_TCHW, boxes_T4, RefineConfig(), confidence).sum().item() / 48**2
        for confidence in (0.0, 1.0)
    ]
    assert 0.7 < shares[1] < shares[0] - 0.03


@pytest.fixture
def view():
    torch.manual_seed(0)
    frames_TCHW = torch.randint(0, 255, (3, 3, 96, 160), dtype=torch.uint8)
    boxes_NT4 = torch.tensor([[[40.0, 20, 70, 50]] * 3, [[60.0, 30, 80, 60], [0.0] * 4, [0.0] * 4]])
    return prepare_window(
        Backbone(BackboneConfig(name="tiny", frozen=True)), frames_TCHW, boxes_NT4, torch.zeros(2), (96, 160), 1
    )


def test_crop_around_boxes_keeps_what_lies_in_and_around_them(view):
    part, _ = select_clip(view, torch.tensor([0, 1]))
    crop, (rows, columns) = crop_around_boxes(part)
    assert crop.lab_TCHW.shape[-2:] < part.lab_TCHW.shape[-2:]
    assert crop.unknown_NTHW.sum() == part.unknown_NTHW.sum() and crop.ring_NTHW.sum() == part.ring_NTHW.sum()
    assert inside_boxes(crop.boxes_NT4 / STRIDE, *crop.lab_TCHW.shape[-2:]).equal(crop.unknown_NTHW[:, :])
    for level, whole in zip(crop.features, part.features, strict=True):
        scale = part.lab_TCHW.shape[-1] // whole.shape[-1]
        assert level.equal(
            whole[..., rows.start // scale : rows.stop // scale, columns.start // scale :][..., : level.shape[-1]]
        )
    assert crop.frames_TCHW.shape[-2:] == tuple(STRIDE * side for side in crop.lab_TCHW.shape[-2:])
    assert crop.size == crop.frames_TCHW.shape[-2:]


def test_without_propagation_the_prior_has_its_full_weight(view):
    assert add_propagated_background(view, BackgroundPropagationConfig(weight=0)).prior_N.tolist() == [1, 1]
