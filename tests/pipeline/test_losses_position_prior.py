"""Position prior: its shape, its gradient, and its schedule in a training."""

from __future__ import annotations

import torch
from mfvis.losses.box_positions import position_cost, radius
from mfvis.losses.config import LossConfig
from mfvis.losses.criterion import Criterion
from mfvis.losses.inputs import MaskLossInputs
from mfvis.losses.position_prior import PositionPriorConfig
from mfvis.parsing import build
from mfvis.types import Batch, ClipOrigin

BOXES_NT4 = torch.tensor([[[4.0, 6, 24, 16]] * 4])


def test_radius_is_1_where_the_ellipse_touches_the_box():
    radius_HW = radius(torch.tensor([[[0.0, 0, 9, 5]]]), 5, 9)[0, 0]
    assert radius_HW[2, 4] == 0
    torch.testing.assert_close(radius_HW[2, 8], torch.tensor((8 / 9) ** 2))
    torch.testing.assert_close(radius_HW[0, 0], torch.tensor((8 / 9) ** 2 + (4 / 5) ** 2))
    assert radius(torch.tensor([[[0.0, 0, 9, 5]]]), 5, 9, power=4)[0, 0, 0, 0] < radius_HW[0, 0]


def test_cost_pulls_the_core_up_and_the_corners_down_except_where_ignored():
    masks_NTHW = torch.zeros(1, 4, 20, 30, requires_grad=True)
    ignored_NTHW = torch.zeros(masks_NTHW.shape, dtype=torch.bool)
    ignored_NTHW[..., 4:10] = True
    position_cost(masks_NTHW, BOXES_NT4, ignored_NTHW).sum().backward()
    slope_HW = masks_NTHW.grad[0, 0]
    assert slope_HW[11, 14] < 0 < slope_HW[6, 23]
    assert not slope_HW[:, :10].any() and not slope_HW[:6].any()
    assert position_cost(masks_NTHW, torch.zeros(1, 4, 4)).tolist() == [0.0]


def inputs_at(step: int, masks_LNTHW: torch.Tensor) -> MaskLossInputs:
    objects, frames, height, width = masks_LNTHW.shape[1:]
    batch = Batch(
        frames_BTCHW=torch.zeros(1, frames, 3, 4 * height, 4 * width, dtype=torch.uint8),
        boxes_NT4=4 * BOXES_NT4.expand(objects, -1, -1),
        labels_N=torch.zeros(objects, dtype=torch.int64),
        video_index_N=torch.zeros(objects, dtype=torch.int64),
        masks_NTHW=None,
        sizes_B2=torch.tensor([[4 * height, 4 * width]]),
        clips=(ClipOrigin(0, tuple(range(frames)), tuple(range(objects))),),
    )
    return MaskLossInputs(masks_LNTHW, batch, torch.tensor(float(objects)), step, LossConfig())


def test_weight_falls_linearly_to_0():
    masks_LNTHW = torch.randn(2, 3, 4, 20, 30)
    prior = PositionPriorConfig(weight=2, steps=4)
    mean = position_cost(masks_LNTHW.flatten(0, 1), BOXES_NT4.expand(6, -1, -1)).sum() / 3
    torch.testing.assert_close(prior.term(inputs_at(1, masks_LNTHW)), mean)
    assert [prior.weight_at(step) for step in (0, 1, 3, 4, 9)] == [2, 1.5, 0.5, 0, 0]


def test_the_prior_and_the_delay_of_tk_loss_are_flags_of_the_criterion():
    config = build(LossConfig, {"prior": {"weight": 1.0}, "temporal": {"start": 5, "warmup": 1}}, "test")
    assert "prior" in Criterion(config, 2).names
    assert [config.temporal.weight_at(step) for step in (4, 5)] == [0, 0.5]
