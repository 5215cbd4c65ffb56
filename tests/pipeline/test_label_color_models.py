"""Color models of label mode's refinement: global, local, and of videos with little contrast."""

from __future__ import annotations

import pytest
import torch
from mfvis.labeling.color_models import LOCAL_SIZES, ColorModels, color_models
from torch import Tensor

SIDE, FRAMES = 64, 3
BOX = (16.0, 16.0, 48.0, 48.0)
WHOLE = (slice(0, SIDE), slice(0, SIDE))


def models_of(lab_TCHW: Tensor, cell: float) -> ColorModels:
    windows = [(t, *WHOLE) for t in range(len(lab_TCHW))]
    return color_models(lab_TCHW, torch.tensor([BOX]).expand(len(lab_TCHW), 4), windows, cell)


def bright_box(difference: float) -> Tensor:
    """Lightness that is higher in the box."""
    lab_TCHW = torch.full((FRAMES, 3, SIDE, SIDE), 40.0)
    lab_TCHW[:, 0, 16:48, 16:48] += difference
    return lab_TCHW


def object_map() -> Tensor:
    """Probabilities of an object that fills the box."""
    soft_HW = torch.full((SIDE, SIDE), 0.1)
    soft_HW[16:48, 16:48] = 0.9
    return soft_HW


def test_a_local_model_knows_on_which_side_of_the_box_a_color_is_the_object() -> None:
    lab_TCHW = bright_box(40.0)
    lab_TCHW[:, 0, 16:48, 16:32] = 40.0  # the object's left half has the color of the background
    large, small = models_of(lab_TCHW, 32 / LOCAL_SIZES[1]), models_of(lab_TCHW, 32 / LOCAL_SIZES[0])
    assert large.local == 1 and small.local == 0
    local_HW, global_HW = (models.logits([object_map()] * FRAMES, 1)[1] for models in (large, small))
    assert local_HW[32, 24] > 1 and local_HW[4, 24] < -1
    assert global_HW[32, 24] == global_HW[4, 24]  # one value for each color


def test_the_bins_follow_the_contrast_of_the_video() -> None:
    logits_HW = models_of(bright_box(12.0), 4.0).logits([object_map()] * FRAMES, 1)[0]
    assert logits_HW[32, 32] > 1 and logits_HW[4, 4] < -1
    brighter = models_of(bright_box(12.0) + torch.tensor([30.0, 5, 5])[:, None, None], 4.0)
    torch.testing.assert_close(logits_HW, brighter.logits([object_map()] * FRAMES, 1)[0], atol=1e-4, rtol=1e-4)
    noise_HW = models_of(bright_box(0.01), 4.0).logits([object_map()] * FRAMES, 1)[0]
    assert noise_HW.abs().max() < 0.6  # bins are never that small


@pytest.mark.parametrize("cell", [1.0, 4.0])
def test_only_frames_within_reach_contribute(cell: float) -> None:
    lab_TCHW = bright_box(20.0).repeat(4, 1, 1, 1)
    soft_M = [object_map()] * len(lab_TCHW)
    models = models_of(lab_TCHW, cell)
    before = models.logits(soft_M, 1)
    after = models.logits([*soft_M[:-1], 1 - soft_M[-1]], 1)
    reach = 2 if models.local else 1
    changed = [not torch.allclose(a, b, atol=1e-3) for a, b in zip(before, after, strict=True)]
    assert changed == [t >= len(lab_TCHW) - 1 - reach for t in range(len(lab_TCHW))]


def test_frames_without_a_box_are_left_out() -> None:
    lab_TCHW = bright_box(20.0)
    boxes_T4 = torch.tensor([BOX, (0, 0, 0, 0), BOX])
    models = color_models(lab_TCHW, boxes_T4, [(0, *WHOLE), (2, *WHOLE)], 1.0)
    assert models.frames == [0, 2]
    assert [logits_HW.shape for logits_HW in models.logits([object_map()] * 2, 1)] == [(SIDE, SIDE)] * 2
