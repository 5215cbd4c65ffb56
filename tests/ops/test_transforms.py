"""Unsupported parts of torch.func and forward mode raise; no derivative silently becomes zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_tests import DEVICE
from torch import Tensor
from torch.autograd import forward_ad

import mfvis_ext


def losses() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """For each operator with a gradient a scalar function of one tensor, and that tensor."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(DEVICE)

    frames, logits = numbers(1, 3, 3, 8, 9), numbers(2, 3, 8, 9) - 0.5
    boxes = torch.tensor([[1.0, 2, 8, 7]], device=DEVICE).expand(2, 3, 4)
    index = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    module = mfvis_ext.TKLoss(radius=1, k=2, rgb=False)
    matches = module.match(frames)
    shapes, starts = torch.tensor([[4, 5]], device=DEVICE), torch.tensor([0], device=DEVICE)
    locations, weights = numbers(1, 6, 2, 1, 3, 2), numbers(1, 6, 2, 1, 3)
    inner = (0, slice(None), slice(2, -2), slice(2, -2))  # whose candidates all exist
    return {
        "tk_loss": (lambda x: module(x, boxes, index, matches), logits),
        "tk_loss_terms": (
            lambda x: mfvis_ext.tk_loss_terms(x, matches.offset, matches.weight, matches.pairs, boxes, index, radius=1)[
                0
            ].sum(),
            logits,
        ),
        "mask_loss_terms": (
            lambda x: mfvis_ext.mask_loss_terms(x, boxes, index, frames=frames, matches=matches).tk_sum.sum(),
            logits,
        ),
        "pairwise_loss": (lambda x: mfvis_ext.pairwise_loss(x, frames, boxes, index), logits),
        "box_projection_loss": (lambda x: mfvis_ext.box_projection_loss(x, boxes), logits),
        "patch_distance": (lambda x: mfvis_ext.patch_distance(x, x.flip(0), 3, 1)[inner].sum(), frames[0, :2]),
        "ms_deform_attn": (
            lambda x: mfvis_ext.ms_deform_attn(x, shapes, starts, locations, weights).sum(),
            numbers(1, 20, 2, 4),
        ),
    }


@pytest.mark.parametrize("name", losses())
def test_what_has_no_derivative_is_refused(name: str) -> None:
    function, point = losses()[name]
    direction = torch.ones_like(point)
    leaf = point.clone().requires_grad_()
    assert torch.autograd.grad(function(leaf), leaf)[0].any()
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(function)(point)
    with pytest.raises((RuntimeError, NotImplementedError), match="setup_context|no forward-mode derivative"):
        torch.func.jvp(function, (point,), (direction,))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp function|no forward-mode derivative"):
        function(forward_ad.make_dual(point, direction))
