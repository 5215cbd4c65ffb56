from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, REFUSED, OperatorTests, random_boxes

from mfvis_ext import box_projection_loss
from mfvis_ext.reference.box_projection_loss import box_projection_loss as reference


class TestBoxProjectionLoss(OperatorTests):
    name = "box_projection_loss"
    sizes = {"N": 3, "T": 2, "H": 9, "W": 21}
    ranges = {"N": (0, 3), "T": (0, 3), "H": (0, 9), "W": (0, 40)}
    differentiable = ("mask_logits",)
    private = ("boxes",)
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no frames": ({"mask_logits": torch.zeros(3, 9, 21)}, r"mask_logits has shape \[3, 9, 21\]; .* \[N, T, H, W\]"),
        "integers": ({"mask_logits": torch.zeros(3, 2, 9, 21).long()}, "mask_logits is int64; expected float32 or"),
        "other count": ({"boxes": torch.zeros(4, 2, 4)}, r"boxes has shape \[4, 2, 4\]; .* \[N, T, 4\] = \[3, 2, 4\]"),
        "three numbers": ({"boxes": torch.zeros(3, 2, 3)}, "boxes has shape"),
        "float16 boxes": ({"boxes": torch.zeros(3, 2, 4).half()}, "boxes is float16; expected float32"),
    }

    def arguments(self, generator, dtype, N, T, H, W):
        logits = torch.randn(N, T, H, W, generator=generator, dtype=DOUBLE) * 4
        return {"mask_logits": logits.to(dtype), "boxes": random_boxes(generator, N, T, height=H, width=W)}

    @pytest.mark.parametrize(("height", "width"), [(70, 264), (70, 261), (70, 16), (70, 31), (301, 205)])
    def test_reference_of_frames_in_many_parts(self, dtype, height, width):
        """With many equal maxima, of which the first one in the frame counts, whichever part finds it."""
        arguments = self.make(dtype, N=2, H=height, W=width)
        self.agree({**arguments, "mask_logits": arguments["mask_logits"].detach().round().requires_grad_()})


def test_a_perfect_mask_costs_nothing():
    logits = torch.full((1, 1, 6, 8), -100.0, device=DEVICE)
    logits[..., 1:4, 2:7] = 100
    box = torch.tensor([[[2.0, 1, 7, 4]]], device=DEVICE)
    assert box_projection_loss(logits, box).item() == pytest.approx(0, abs=1e-5)
    assert box_projection_loss(-logits, box).item() > 0.3


def test_pixel_centers_decide():
    logits = torch.full((1, 1, 1, 4), -100.0, device=DEVICE)
    logits[..., 1:3] = 100
    both = torch.tensor([[[1.5, 0, 2.6, 1]]], device=DEVICE)  # centers 1.5 and 2.5: half-open on the left
    neither = torch.tensor([[[1.51, 0, 2.5, 1]]], device=DEVICE)
    inside, outside = box_projection_loss(logits, both), box_projection_loss(logits, neither)
    assert inside.item() == pytest.approx(0, abs=1e-5)
    assert outside.item() == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([-8.0, 5, -2, 15], id="left of the frame"),
        pytest.param([30.0, 5, 40, 15], id="right of the frame"),
        pytest.param([4.0, -9, 15, -1], id="above the frame"),
        pytest.param([10.75, 5, 11.25, 15], id="thinner than a pixel"),
        pytest.param([4.0, 7.6, 15, 8.4], id="flatter than a pixel"),
    ],
)
def test_a_box_without_a_pixel_projects_to_nothing_on_both_axes(box):
    logits = torch.randn(1, 2, 24, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE).requires_grad_()
    boxes = torch.tensor([[[4.0, 5, 15, 15], box]], device=DEVICE)
    loss = box_projection_loss(logits, boxes)
    loss.backward()
    torch.testing.assert_close(loss, reference(logits, boxes))
    first = box_projection_loss(logits[:, :1], boxes[:, :1])
    assert loss.item() == pytest.approx((first.item() + 2) / 2, abs=1e-5)
    assert (logits.grad[0, 0] < 0).any() and not logits.grad[0, 1].any()


@pytest.mark.parametrize(
    ("row", "foreign"), [(0, 21), (8, -1), (9, 9), (29, 2**30)], ids=["row", "last row", "column", "last column"]
)
def test_the_backward_pass_refuses_positions_outside_of_the_frame(row, foreign):
    logits = torch.randn(2, 3, 9, 21, device=DEVICE)
    loss, slope, position = torch.ops.mfvis.box_projection_terms(logits, torch.ones(2, 3, 4, device=DEVICE))
    position[1, 2, row] = foreign
    backward = partial(torch.ops.mfvis.box_projection_terms_backward, torch.ones_like(loss), logits, slope, position)
    if DEVICE != "cpu":  # A look at the values would wait for the GPU; the kernel skips such a position.
        assert backward().isfinite().all()
        return
    with pytest.raises(REFUSED, match=f"position contains {foreign}; .* 0 to 20, .* 0 to 8"):
        backward()


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 0, 4, 5), (2, 1, 0, 5), (2, 1, 4, 5)])
def test_nothing_to_learn_from_is_zero(shape):
    logits = torch.randn(shape, device=DEVICE, requires_grad=True)
    loss = box_projection_loss(logits, torch.zeros(*shape[:2], 4, device=DEVICE))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_gradient_of_a_maximum_goes_to_its_first_position():
    logits = torch.zeros(1, 1, 3, 3, device=DEVICE, requires_grad=True)
    box_projection_loss(logits, torch.tensor([[[0.0, 0, 3, 3]]], device=DEVICE)).backward()
    assert logits.grad[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]


@pytest.mark.parametrize("position", [(0, 0), (3, 5), (8, 20)])
def test_nan_is_not_swallowed(position):
    logits = torch.zeros(1, 1, 9, 21, device=DEVICE)
    logits[0, 0][position] = math.nan
    assert box_projection_loss(logits, torch.tensor([[[2.0, 1, 7, 4]]], device=DEVICE)).isnan()


@pytest.mark.parametrize("width", [8, 40])
def test_infinite_logits_are_probabilities_zero_and_one(width):
    logits = torch.full((1, 1, 6, width), -math.inf, device=DEVICE)
    logits[..., 1:4, 2:7] = math.inf
    logits.requires_grad_()
    loss = box_projection_loss(logits, torch.tensor([[[2.0, 1, 7, 4]]], device=DEVICE))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.isfinite().all()


def test_autocast_keeps_the_loss_in_float32():
    logits, boxes = torch.randn(2, 1, 4, 5), torch.tensor([0.0, 0, 3, 3]).expand(2, 1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert box_projection_loss(logits, boxes).dtype == torch.float32
        assert box_projection_loss(logits.bfloat16(), boxes).dtype == torch.float32
