from __future__ import annotations

import math

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, OperatorTests, random_boxes

from mfvis_ext import tk_loss, tk_loss_terms
from mfvis_ext.reference.tk_loss import tk_loss as reference

MALFORMED = {
    "no frames": ({"mask_logits": torch.zeros(3, 9, 21)}, r"mask_logits has shape \[3, 9, 21\]; .* \[N, T, H, W\]"),
    "integers": ({"mask_logits": torch.zeros(3, 2, 9, 21).long()}, "mask_logits is int64; expected float32 or"),
    "other pairs": (
        {"pairs": torch.zeros(3, 2).long()},
        r"offset has shape \[2, 2, 3, 9, 21\]; .*\[any, 3, any, 9, 21\]",
    ),
    "no such frame": ({"pairs": torch.tensor([[0, 2], [1, 0]])}, "pairs contains 2; expected frames .* 0 to 1"),
    "instances as frames": (
        {"mask_logits": torch.zeros(2, 1, 9, 21)},
        r"boxes has shape \[3, 2, 4\]; .* = \[2, 1, 4\]",
    ),
    "a clip of no frames": (
        {"mask_logits": torch.zeros(3, 0, 9, 21), "boxes": torch.zeros(3, 0, 4)},
        "pairs has 2 pairs; expected none where the clip has no frame",
    ),
    "int64 offset": ({"offset": torch.zeros(2, 2, 3, 9, 21).long()}, "offset is int64; expected int16"),
    "fewer weights": ({"weight": torch.zeros(2, 2, 1, 9, 21)}, r"weight has shape \[2, 2, 1, 9, 21\]"),
    "float64 weights": ({"weight": torch.zeros(2, 2, 3, 9, 21).double()}, "weight is float64; expected float32"),
    "other count": ({"boxes": torch.zeros(4, 2, 4)}, r"boxes has shape \[4, 2, 4\]; .* \[N, T, 4\] = \[3, 2, 4\]"),
    "int64 boxes": ({"boxes": torch.zeros(3, 2, 4).long()}, "boxes is int64; expected float32"),
    "one index too few": (
        {"video_index": torch.zeros(2).long()},
        r"video_index has shape \[2\]; expected \[N\] = \[3\]",
    ),
    "no such video": ({"video_index": torch.tensor([0, 1, 2])}, "video_index contains 2; expected videos .* 0 to 1"),
    "negative radius": ({"radius": -1}, "radius is -1; expected 0 to 90"),
    "no dilation": ({"dilation": 0}, "dilation is 0; expected 1 to"),
    "shift of one video": ({"shift": torch.zeros(1, 2, 2).long()}, r"shift has shape \[1, 2, 2\]; .*\[2, 2, 2\]"),
    "a weight to learn": ({"weight": torch.ones(2, 2, 3, 9, 21).requires_grad_()}, "weight requires a gradient"),
}


class Arguments:
    """Arguments that both operators share."""

    sizes = {"N": 3, "T": 2, "H": 9, "W": 21, "B": 2, "P": 2, "K": 3, "radius": 2, "dilation": 2, "shift": 1}
    ranges = {
        "N": (0, 4), "T": (1, 4), "H": (1, 12), "W": (1, 40), "B": (1, 3), "P": (0, 3), "K": (1, 6), "radius": (0, 3),
        "dilation": (1, 3), "shift": (0, 20),
    }  # fmt: skip
    differentiable = ("mask_logits",)
    private = ("pairs", "boxes", "video_index", "shift")
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = MALFORMED

    def arguments(self, generator, dtype, N, T, H, W, B, P, K, radius, dilation, shift):
        shape = (B, P, K, H, W)
        weight = torch.rand(shape, generator=generator)
        return {
            "mask_logits": (torch.randn(N, T, H, W, generator=generator, dtype=DOUBLE) * 6).to(dtype),
            # Also ones that lead out of the window or the frame.
            "offset": torch.randint(-1, (2 * radius + 1) ** 2 + 2, shape, generator=generator).short(),
            "weight": torch.where(weight < 0.3, 0.0, weight),
            "pairs": torch.randint(T, (P, 2), generator=generator),
            "boxes": random_boxes(generator, N, T, height=H, width=W),
            "video_index": torch.randint(B, (N,), generator=generator),
            "radius": radius,
            "dilation": dilation,
            "shift": torch.randint(-shift, shift + 1, (B, P, 2), generator=generator),
        }


class TestTkLossTerms(Arguments, OperatorTests):
    name = "tk_loss_terms"


class TestTkLoss(Arguments, OperatorTests):
    name = "tk_loss"


def one_match(a: float, b: float, weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the gradient at the two ends, of a clip of two one-pixel frames."""
    logits = torch.tensor([a, b], device=DEVICE).view(1, 2, 1, 1).requires_grad_()
    loss = tk_loss(
        logits,
        torch.zeros(1, 1, 1, 1, 1, dtype=torch.int16, device=DEVICE),
        torch.full((1, 1, 1, 1, 1), weight, device=DEVICE),
        torch.tensor([[0, 1]], device=DEVICE),
        torch.tensor([[[0.0, 0, 1, 1], [0, 0, 0, 0]]], device=DEVICE),
        torch.tensor([0], device=DEVICE),
        radius=0,
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach().cpu(), gradient.flatten().cpu()


@pytest.mark.parametrize("a", [-1e4, -90.0, -20.0, -3.0, 0.0, 1e-3, 5.0, 88.0, 1e4])
@pytest.mark.parametrize("b", [-2e4, -95.0, -19.0, -1.0, 0.0, 7.0, 86.0, 3e4])
def test_logits_of_any_size(a, b):
    """Against float64; to seven digits also where the two agree and the loss is tiny."""
    x, y = torch.tensor(a, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE)
    softplus = torch.nn.functional.softplus
    small = torch.log1p(torch.exp(-x.abs())) + torch.log1p(torch.exp(-y.abs())) - torch.log1p(torch.exp(-(x + y).abs()))
    expected = (min(abs(a), abs(b)) if (a > 0) != (b > 0) else 0) + small
    assert expected.item() == pytest.approx((softplus(x) + softplus(y) - softplus(x + y)).item(), abs=1e-9)
    loss, gradient = one_match(a, b)
    assert loss.item() == pytest.approx(expected.item(), rel=3e-6, abs=1e-30)
    slopes = torch.sigmoid(torch.stack([x, y])) - torch.sigmoid(x + y)
    torch.testing.assert_close(gradient, slopes.float(), rtol=2e-6, atol=2e-7)


def test_one_match_by_hand():
    loss, gradient = one_match(0.0, 0.0)
    assert loss.item() == pytest.approx(math.log(2))
    loss, gradient = one_match(2.0, -2.0, weight=0.5)  # weights below 1 in all are not divided by
    assert loss.item() == pytest.approx(0.5 * (math.log1p(math.e**2) + math.log1p(math.e**-2) - math.log(2)))
    assert gradient[0] > 0 > gradient[1]


def test_infinite_logits_outside_the_matches_do_no_harm():
    arguments = TestTkLoss().make()
    arguments["weight"][:, :, :, :, :5] = 0
    expected = tk_loss(**{**arguments, "radius": 0})
    logits = arguments["mask_logits"].detach().clone()
    logits[..., :5] = math.inf
    arguments["offset"].zero_()
    arguments["shift"].zero_()
    loss = tk_loss(**{**arguments, "radius": 0, "mask_logits": logits.requires_grad_()})
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()
    assert expected.isfinite()


@pytest.mark.parametrize("change", ["no instance", "no pair", "no box", "no weight", "one frame"])
def test_nothing_to_learn_from_is_zero(change):
    arguments = TestTkLoss().make(
        **{"no instance": {"N": 0}, "no pair": {"P": 0}, "one frame": {"T": 1, "P": 0}}.get(change, {})
    )
    if change == "no box":
        arguments["boxes"].zero_()
    if change == "no weight":
        arguments["weight"].zero_()
    loss = tk_loss(**arguments)
    loss.backward()
    assert loss.item() == 0
    assert not arguments["mask_logits"].grad.any()


@pytest.mark.parametrize("videos, pairs", [(1, 1), (1, 2), (2, 3)])
def test_reference_of_more_instances_than_a_mask_has_bits(videos, pairs):
    """With few blocks the masks of instances are divided among more; with many a block processes all of them."""
    op = TestTkLossTerms()
    op.agree(op.make(N=70, H=5, W=9, B=videos, P=pairs))


def test_reference_of_more_frames_than_a_block_has_warps():
    op = TestTkLossTerms()
    op.agree(op.make(T=10, H=4, W=7, B=1))


@pytest.mark.parametrize("radius", [7, 8, 90])
def test_reference_of_a_window_of_any_size(radius):
    """A CUDA kernel marks the candidates that are matches as 256 bits: one candidate each, two, or 128."""
    op = TestTkLoss()
    op.agree(op.make(N=2, H=13, W=34, K=4, radius=radius, dilation=1, shift=5))


def test_reference_of_a_pixel_that_all_others_match():
    """It has more matches than a block keeps in shared memory."""
    op = TestTkLoss()
    arguments = op.make(N=2, T=2, H=11, W=11, B=1, P=1, K=1, radius=10, dilation=1, shift=0)
    y, x = torch.meshgrid(torch.arange(11), torch.arange(11), indexing="ij")
    arguments["offset"][0, 0, 0] = ((4 - y + 10) * 21 + 6 - x + 10).short()
    arguments["boxes"][:] = torch.tensor([0.0, 0, 11, 11])
    op.agree(arguments)


@pytest.mark.parametrize("instances, pairs", [(3, 300), (300, 3), (2, 130)])
def test_reference_of_a_mean_over_many_sums(instances, pairs):
    """One block of a GPU sums some rows or some columns at a time."""
    op = TestTkLoss()
    op.agree(op.make(N=instances, H=2, W=3, B=1, P=pairs, K=1, radius=0, shift=0))


def test_invalid_indices_are_harmless_on_a_gpu():
    """They are not checked there. An invalid pair has no matches; an invalid video index is clamped."""
    if DEVICE != "cuda":
        pytest.skip("MFVIS_TEST_DEVICE is not cuda")
    arguments = TestTkLoss().make()
    pairs, index = torch.tensor([[0, 1], [0, 7 * 10**9]]), torch.tensor([0, -(10**9), 10**9])
    loss = tk_loss(**{**arguments, "pairs": pairs.cuda(), "video_index": index.cuda()})
    (gradient,) = torch.autograd.grad(loss, arguments["mask_logits"])
    arguments["weight"][:, 1] = 0
    expected = tk_loss(
        **{**arguments, "pairs": torch.tensor([[0, 1], [0, 1]]).cuda(), "video_index": index.clamp(0, 1).cuda()}
    )
    (expected_gradient,) = torch.autograd.grad(expected, arguments["mask_logits"])
    assert torch.equal(loss, expected) and torch.equal(gradient, expected_gradient)


def test_a_pixel_counts_once_however_many_boxes_hold_it():
    arguments = TestTkLoss().make()
    arguments["boxes"][:] = torch.tensor([3.0, 2, 11, 7])
    _, both = tk_loss_terms(**arguments)
    arguments["boxes"][:, 1] = 0
    _, first = tk_loss_terms(**arguments)
    assert both.any() and torch.equal(both, first)


def test_autocast_keeps_the_loss_in_float32():
    arguments = TestTkLoss().make(BFLOAT)
    with torch.autocast("cpu", torch.bfloat16):
        assert tk_loss(**arguments).dtype == torch.float32


def gradient_of(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def test_backward_passes_in_any_order():
    first, second = TestTkLoss().make(seed=1), TestTkLoss().make(seed=2)
    losses = [tk_loss(**arguments) for arguments in (first, second)]
    expected = [gradient_of(reference(**arguments), arguments["mask_logits"]) for arguments in (first, second)]
    assert not torch.equal(*expected)
    for which in (1, 1, 0, 0, 1):
        logits = (first, second)[which]["mask_logits"]
        torch.testing.assert_close(gradient_of(losses[which], logits), expected[which])
    tk_loss_terms(**first)
    torch.testing.assert_close(gradient_of(losses[1], second["mask_logits"]), expected[1])


def test_lists_too_long_for_the_cached_memory():
    arguments = TestTkLoss().make(N=1, H=480, W=660, K=9, B=1, P=2)
    arguments["weight"][:, :, 1:, :, 64:192] = 0  # columns where only the nearest match has a weight
    logits = arguments["mask_logits"]
    loss, expected = tk_loss(**arguments), reference(**arguments)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(expected, logits))
