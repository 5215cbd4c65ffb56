from __future__ import annotations

import math

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, OperatorTests, random_boxes

from mfvis_ext import pairwise_loss
from mfvis_ext.reference.pairwise_loss import pairwise_loss as reference


class Arguments:
    sizes = {"N": 3, "T": 2, "H": 9, "W": 37, "B": 2, "half": 1, "dilation": 2}
    ranges = {"N": (0, 4), "T": (1, 3), "H": (1, 12), "W": (1, 40), "B": (1, 3), "half": (0, 2), "dilation": (1, 5)}
    differentiable = ("mask_logits",)
    private = ("boxes", "video_index")
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no frames": ({"mask_logits": torch.zeros(3, 9, 37)}, r"mask_logits has shape \[3, 9, 37\]; .* \[N, T, H, W\]"),
        "integers": ({"mask_logits": torch.zeros(3, 2, 9, 37).long()}, "mask_logits is int64; expected float32 or"),
        "gray": (
            {"frames": torch.zeros(2, 2, 1, 9, 37)},
            r"frames has shape .*; expected \[B, T, 3, H, W\] = \[any, 2, 3",
        ),
        "full size": ({"frames": torch.zeros(2, 2, 3, 36, 148)}, r"frames has shape \[2, 2, 3, 36, 148\]"),
        "bytes": ({"frames": torch.zeros(2, 2, 3, 9, 37).byte()}, "frames is uint8; expected float32"),
        "other count": ({"boxes": torch.zeros(4, 2, 4)}, r"boxes has shape \[4, 2, 4\]; .* \[N, T, 4\] = \[3, 2, 4\]"),
        "no such video": ({"video_index": torch.tensor([0, 1, -1])}, "video_index contains -1; expected videos"),
        "int32 index": ({"video_index": torch.zeros(3).int()}, "video_index is int32; expected int64"),
        "even kernel": ({"kernel_size": 2}, "kernel_size is 2; expected an odd number"),
        "no dilation": ({"dilation": 0}, "dilation is 0; expected 1 to"),
        "NaN threshold": ({"threshold": math.nan}, "threshold is nan; expected a number"),
        "frames to learn": ({"frames": torch.zeros(2, 2, 3, 9, 37).requires_grad_()}, "frames require a gradient"),
    }

    def arguments(self, generator, dtype, N, T, H, W, B, half, dilation):
        return {
            "mask_logits": (torch.randn(N, T, H, W, generator=generator, dtype=DOUBLE) * 6).to(dtype),
            "frames": torch.rand(B, T, 3, H, W, generator=generator) * 4,
            "boxes": random_boxes(generator, N, T, height=H, width=W),
            "video_index": torch.randint(B, (N,), generator=generator),
            "kernel_size": 2 * half + 1,
            "dilation": dilation,
            "threshold": 0.3,
        }


class TestPairwiseLoss(Arguments, OperatorTests):
    name = "pairwise_loss"


class TestPairwiseLossTerms(Arguments, OperatorTests):
    name = "pairwise_loss_terms"


@pytest.mark.parametrize("height, width, kernel_size", [(5, 9, 3), (9, 33, 3), (9, 33, 7)])
def test_reference_of_more_instances_than_a_mask_has_bits(height, width, kernel_size):
    """With few tiles a block processes one mask of instances, with many several."""
    op = TestPairwiseLoss()
    op.agree(op.make(N=130, B=2, T=1, H=height, W=width) | {"kernel_size": kernel_size})


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3, 1.0, 1.5])
def test_thresholds(threshold):
    op = TestPairwiseLoss()
    arguments = op.make()
    arguments["frames"] = arguments["frames"].round()  # some neighbors have equal colors: similarity 1
    arguments["threshold"] = threshold
    op.agree(arguments)


@pytest.mark.parametrize("dilation", [2, 9])
@pytest.mark.parametrize("agree", [False, True])
def test_logits_of_any_size(agree, dilation):
    """Against float64, also where all pixels agree and the loss is tiny. A large dilation has its own CUDA kernel."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([9.0, 20, 31] if agree else [0, 1e-3, 1, 12, 70, 95, 1e4])
    logits = sizes[torch.randint(len(sizes), (1, 1, 21, 34), generator=generator)]
    if not agree:
        logits = logits * (2 * torch.randint(2, logits.shape, generator=generator) - 1)
    arguments = {
        "frames": torch.zeros(1, 1, 3, 21, 34, device=DEVICE),
        "boxes": torch.tensor([[[1.0, 0, 33, 20]]], device=DEVICE),
        "video_index": torch.tensor([0], device=DEVICE),
        "dilation": dilation,
    }
    ours, exact = (logits.to(DEVICE, dtype).requires_grad_() for dtype in (FLOAT, DOUBLE))
    loss, expected = pairwise_loss(ours, **arguments), reference(exact, **arguments)
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=0)
    slope, expected_slope = (torch.autograd.grad(*pair)[0] for pair in ((loss, ours), (expected, exact)))
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-5, atol=1e-12 if agree else 1e-9)


def test_a_pair_counts_once_for_each_pixel_in_the_box():
    logits = torch.tensor([[3.0, -1.0, 2.0]]).view(1, 1, 1, 3)
    frames, index = torch.zeros(1, 1, 3, 1, 3), torch.tensor([0])

    def disagreement(a: float, b: float) -> float:
        return math.log1p(math.exp(a)) + math.log1p(math.exp(b)) - math.log1p(math.exp(a + b))

    left = pairwise_loss(logits, frames, torch.tensor([[[0.0, 0, 1, 1]]]), index, dilation=1)
    assert left.item() == pytest.approx(disagreement(3, -1))
    two = pairwise_loss(logits, frames, torch.tensor([[[0.0, 0, 2, 1]]]), index, dilation=1)
    assert two.item() == pytest.approx((2 * disagreement(3, -1) + disagreement(-1, 2)) / 3)


def test_infinite_logits_that_no_pair_counts_do_no_harm():
    logits = torch.zeros(1, 1, 5, 20, device=DEVICE)
    logits[..., 12:] = math.inf
    logits.requires_grad_()
    frames, boxes = torch.zeros(1, 1, 3, 5, 20, device=DEVICE), torch.tensor([[[0.0, 0, 9, 5]]], device=DEVICE)
    loss = pairwise_loss(logits, frames, boxes, torch.tensor([0], device=DEVICE))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("change", ["no instance", "no box", "no like colors"])
def test_nothing_to_learn_from_is_zero(change):
    arguments = TestPairwiseLoss().make(**({"N": 0} if change == "no instance" else {}))
    if change == "no box":
        arguments["boxes"].zero_()
    if change == "no like colors":
        arguments["frames"] *= 1000
    loss = pairwise_loss(**arguments)
    loss.backward()
    assert loss.item() == 0
    assert not arguments["mask_logits"].grad.any()


def test_autocast_keeps_the_loss_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        assert pairwise_loss(**TestPairwiseLoss().make(BFLOAT)).dtype == torch.float32
