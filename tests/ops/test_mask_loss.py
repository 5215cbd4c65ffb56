from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
import test_tk_loss
import torch
from operator_tests import DEVICE, DOUBLE, FLOAT, REFUSED, OperatorTests, strided
from torch import Tensor

from mfvis_ext import (
    MaskLossTerms,
    Matches,
    box_projection_loss,
    mask_loss_terms,
    pairwise_loss_terms,
    tk_loss_terms,
)
from mfvis_ext.reference.mask_loss import mask_loss_terms as reference

MATCHES = ("offset", "weight", "pairs", "shift")
LOSSES = ("projection", "frames", "matches")


def all_losses(function, mask_logits, boxes, video_index, frames, offset, weight, pairs, shift, radius, dilation):
    """`mask_loss_terms` with all losses, as a function of tensors."""
    matches = Matches(offset, weight, pairs, shift, radius, dilation)
    return tuple(function(mask_logits, boxes, video_index, frames=frames, dilation=dilation, matches=matches))


def separate_losses(mask_logits, boxes, video_index, frames, offset, weight, pairs, shift, radius, dilation):
    return MaskLossTerms(
        box_projection_loss(mask_logits, boxes),
        *pairwise_loss_terms(mask_logits, frames, boxes, video_index, dilation=dilation),
        *tk_loss_terms(mask_logits, offset, weight, pairs, boxes, video_index, radius, dilation, shift),
    )


class TestMaskLossTerms(OperatorTests):
    name = "mask_loss_terms"
    operators = ("box_projection_loss", "pairwise_loss", "tk_loss")
    sizes = test_tk_loss.Arguments.sizes
    ranges = test_tk_loss.Arguments.ranges
    differentiable = ("mask_logits",)
    private = ("pairs", "boxes", "video_index", "shift")
    dtypes = test_tk_loss.Arguments.dtypes
    malformed = {
        name: case
        for name, case in test_tk_loss.MALFORMED.items()
        if name not in ("a clip of no frames", "negative radius", "no dilation")  # another loss refuses these first
    } | {
        "gray": ({"frames": torch.zeros(2, 2, 1, 9, 21)}, r"frames has shape .*; expected \[B, T, 3, H, W\]"),
        "frames to learn": ({"frames": torch.zeros(2, 2, 3, 9, 21).requires_grad_()}, "frames require a gradient"),
    }

    def arguments(self, generator, dtype, **sizes):
        made = test_tk_loss.Arguments().arguments(generator, dtype, **sizes)
        frames = torch.rand(sizes["B"], sizes["T"], 3, sizes["H"], sizes["W"], generator=generator) * 4
        names = ("mask_logits", "boxes", "video_index", "offset", "weight", "pairs", "shift", "radius", "dilation")
        return {name: made[name] for name in names} | {"frames": frames}

    @property
    def function(self):
        return partial(all_losses, mask_loss_terms)

    @property
    def reference(self):
        return partial(all_losses, reference)

    def agree(self, arguments):
        """The tolerance is relative to the magnitudes of the summed gradients: their roundings do not cancel."""
        logits = arguments["mask_logits"]
        outputs, (gradient,) = self.gradients(self.function, arguments)
        expected = self.reference(**arguments)
        self.compare(outputs, expected, arguments)
        assert gradient.dtype == logits.dtype
        parts = self.gradients_of_each(expected, logits)
        error = (gradient.double() - sum(parts)).abs()
        tolerance = self.tolerance(logits.dtype)
        assert (error <= tolerance["atol"] + tolerance["rtol"] * sum(map(torch.abs, parts))).all()

    def gradients_of_each(self, outputs, logits):
        """Float64 gradients of the losses, each weighted as `gradients_of` does."""
        generator = torch.Generator().manual_seed(99)
        losses = [
            (output * torch.randn(output.shape, generator=generator).to(output)).sum()
            for output in outputs
            if output.requires_grad
        ]
        return [torch.autograd.grad(loss, logits, retain_graph=True)[0].double() for loss in losses]

    def test_opcheck(self):
        """Checks the operators that add to a gradient."""
        values = self.make()
        logits, boxes, video_index, frames = (
            values[name].detach() for name in ("mask_logits", "boxes", "video_index", "frames")
        )
        gradient, one = torch.zeros_like(logits), logits.new_ones(())
        _, divisor = torch.ops.mfvis.pairwise_loss_mean(logits, frames, boxes, video_index, 3, 2, 0.3)
        _, slope, position = torch.ops.mfvis.box_projection_terms(logits, boxes)
        of_pairs = (gradient, one, divisor, logits, frames, boxes, video_index, 3, 2, 0.3)
        torch.library.opcheck(torch.ops.mfvis.pairwise_loss_mean_add_gradient.default, of_pairs)
        of_maxima = (gradient, one, slope, position)
        torch.library.opcheck(torch.ops.mfvis.box_projection_terms_add_gradient.default, of_maxima)


def some_losses(arguments, losses):
    """`mask_loss_terms` with the named losses."""
    inputs = dict(arguments)
    matches = Matches(*(inputs.pop(name) for name in (*MATCHES, "radius", "dilation")))
    chosen = {"projection": True, "frames": inputs.pop("frames"), "matches": matches}
    left_out = {"projection": False, "frames": None, "matches": None}
    return mask_loss_terms(
        **inputs, dilation=2, **{name: (chosen if name in losses else left_out)[name] for name in LOSSES}
    )


SUBSETS = [losses for count in range(4) for losses in combinations(LOSSES, count)]


@pytest.mark.parametrize("losses", SUBSETS, ids="-".join)
def test_values_equal_those_of_the_separate_operators(losses):
    arguments = TestMaskLossTerms().make()
    terms = some_losses(arguments, losses)
    separate = separate_losses(**arguments)
    asked = [loss in losses for loss in ("projection", "frames", "frames", "matches", "matches")]
    for ours, theirs, is_asked in zip(terms, separate, asked, strict=True):
        assert torch.equal(ours, theirs) if is_asked else ours is None


@pytest.mark.parametrize("used", [losses for losses in SUBSETS if losses], ids="-".join)
def test_the_gradient_of_the_losses_that_are_used(used):
    """Also of all losses when only some take part in the sum."""
    arguments = TestMaskLossTerms().make(DOUBLE, N=5)
    logits = arguments["mask_logits"]

    def total(terms: MaskLossTerms) -> Tensor:
        by_loss = {"projection": terms.projection, "frames": terms.pairwise_sum, "matches": terms.tk_sum}
        return sum((i + 1) * by_loss[loss].sum() for i, loss in enumerate(used))

    separate = separate_losses(**arguments)
    (expected,) = torch.autograd.grad(total(separate), logits)
    assert expected.any()
    for losses in (used, LOSSES):
        (gradient,) = torch.autograd.grad(total(some_losses(arguments, losses)), logits)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_no_instance():
    arguments = TestMaskLossTerms().make(N=0)
    terms = some_losses(arguments, LOSSES)
    (terms.projection + terms.pairwise_sum + terms.tk_sum.sum()).backward()
    assert terms.projection == terms.pairwise_sum == terms.pairwise_count == 0
    assert terms.tk_sum.shape == terms.tk_weight.shape == (0, 2)
    assert arguments["mask_logits"].grad.shape == (0, 2, 9, 21)


def test_reference_of_more_instances_than_a_mask_has_bits():
    op = TestMaskLossTerms()
    op.agree(op.make(N=70, H=5, W=9))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("dtype", test_tk_loss.Arguments.dtypes, ids=str)
def test_adding_does_not_change_pixels_outside(dtype, kernel_size):
    """Touched pixels are the old value plus the gradient."""
    arguments = TestMaskLossTerms().make(dtype, H=14)
    logits, frames, video_index = (arguments[name].detach() for name in ("mask_logits", "frames", "video_index"))
    boxes = torch.tensor([[6.0, 4, 12, 9], [0, 0, 0, 0]], device=DEVICE).expand(3, 2, 4).contiguous()
    one = torch.ones((), dtype=torch.float64 if dtype == DOUBLE else FLOAT, device=DEVICE)
    _, divisor = torch.ops.mfvis.pairwise_loss_mean(logits, frames, boxes, video_index, kernel_size, 1, 0.3)
    pairwise = (one, divisor, logits, frames, boxes, video_index, kernel_size, 1, 0.3)
    _, slope, position = torch.ops.mfvis.box_projection_terms(logits, boxes)
    dense = torch.ops.mfvis.pairwise_loss_mean_backward(*pairwise)
    scattered = torch.ops.mfvis.box_projection_terms_backward(one, logits, slope, position)
    assert dense.any() and not dense[:, 1].any() and scattered.any()
    gradient = torch.ones_like(logits)
    torch.ops.mfvis.pairwise_loss_mean_add_gradient(gradient, *pairwise)
    torch.testing.assert_close(gradient, 1 + dense, rtol=torch.finfo(dtype).eps, atol=0)
    gradient.fill_(1)
    torch.ops.mfvis.box_projection_terms_add_gradient(gradient, one, slope, position)
    torch.testing.assert_close(gradient, 1 + scattered, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gradient: gradient[:2], "grad_logits has shape"),
        (lambda gradient: gradient.double(), "grad_logits is float64|slope is float32"),
        (strided, "grad_logits has the strides of a view"),
    ],
    ids=["shape", "dtype", "strides"],
)
def test_another_gradient_to_add_to_is_refused(change, message):
    arguments = TestMaskLossTerms().make()
    logits, boxes, video_index, frames = (
        arguments[name].detach() for name in ("mask_logits", "boxes", "video_index", "frames")
    )
    gradient, one = change(torch.zeros_like(logits)), logits.new_ones(())
    _, divisor = torch.ops.mfvis.pairwise_loss_mean(logits, frames, boxes, video_index, 3, 2, 0.3)
    _, slope, position = torch.ops.mfvis.box_projection_terms(logits, boxes)
    with pytest.raises(REFUSED, match=message):
        torch.ops.mfvis.pairwise_loss_mean_add_gradient(
            gradient, one, divisor, logits, frames, boxes, video_index, 3, 2, 0.3
        )
    with pytest.raises(REFUSED, match=message.replace("grad_logits has shape", "slope has shape")):
        torch.ops.mfvis.box_projection_terms_add_gradient(gradient, one, slope, position)


def test_other_matches_are_refused():
    arguments = TestMaskLossTerms().make()
    with pytest.raises(TypeError, match="matches is a tuple; expected what TKLoss.match returns"):
        mask_loss_terms(*(arguments[name] for name in ("mask_logits", "boxes", "video_index")), matches=())
