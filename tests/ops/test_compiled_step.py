"""A training step with all losses under torch.compile: one graph, whatever the sizes, and float32 under autocast."""

from __future__ import annotations

import pytest
import torch
from operator_tests import DEVICE, random_boxes
from torch import Tensor

import mfvis_ext


def losses(mask_logits: Tensor, frames: Tensor, boxes: Tensor, video_index: Tensor) -> Tensor:
    """The sum of the mask-free losses, and a matching cost, of `[N, T, H, W]` logits of uint8 `[B, T, 3, 4H, 4W]`."""
    lab = mfvis_ext.rgb_to_lab(frames, downsample=4)
    pairs = mfvis_ext.tube_pairs(frames.shape[1]).to(frames.device)
    distance, offset = mfvis_ext.temporal_topk(lab, pairs, radius=2, k=3)
    weight = mfvis_ext.match_weight(distance)
    cost = 1 - mfvis_ext.box_tube_dice(mfvis_ext.mask_to_boxes(mask_logits.detach()), boxes)
    return (
        mfvis_ext.tk_loss(mask_logits, offset, weight, pairs, boxes, video_index, radius=2)
        + mfvis_ext.pairwise_loss(mask_logits, lab, boxes, video_index)
        + mfvis_ext.box_projection_loss(mask_logits, boxes)
        + cost.diagonal().mean()
    )


def arguments(instances: int, height: int, width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(instances)
    made = (
        torch.randn(instances, 3, height, width, generator=generator),
        torch.randint(256, (2, 3, 3, 4 * height, 4 * width), generator=generator, dtype=torch.uint8),
        random_boxes(generator, instances, 3, height=height, width=width),
        torch.randint(2, (instances,), generator=generator),
    )
    logits, *constants = (tensor.to(DEVICE) for tensor in made)
    return logits.requires_grad_(), *constants


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch.compile(losses, fullgraph=True, dynamic=True, backend="aot_eager")
    torch._dynamo.reset()


def test_one_graph_for_all_sizes(compiled):
    # Never 4 instances first: torch takes sizes that are equal by chance, as that to a box's numbers, to stay equal.
    for sizes in [(5, 8, 12), (6, 9, 20), (4, 16, 13)]:
        logits, *constants = arguments(*sizes)
        loss = compiled(logits, *constants)
        (gradient,) = torch.autograd.grad(loss, logits)
        expected = losses(logits, *constants)
        (expected_gradient,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_autocast_keeps_the_losses_in_float32(compiled):
    logits, *constants = arguments(4, 8, 12)
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = compiled(logits.bfloat16(), *constants)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, losses(logits.bfloat16().float(), *constants), rtol=1e-4, atol=1e-4)


def test_a_second_derivative_is_refused():
    logits, *constants = arguments(4, 8, 12)
    (gradient,) = torch.autograd.grad(losses(logits, *constants), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated"):
        gradient.sum().backward()
