"""Python faces that never wait for a GPU, checked on the device "meta", whose tensors have no values to wait for."""

from __future__ import annotations

import pytest
import torch

import mfvis_ext


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)


@pytest.mark.parametrize("tube", ["cyclic", "chain", "dense"])
def test_the_losses_of_a_step(tube):
    frames = empty(2, 3, 3, 16, 24, dtype=torch.uint8)
    boxes, video_index = empty(4, 3, 4).detach(), empty(4, dtype=torch.int64)
    logits = empty(4, 3, 8, 12)
    tk = mfvis_ext.TKLoss(radius=1, k=2, tube=tube, downsample=2)
    loss = tk(logits, boxes, video_index, tk.match(frames))
    loss = loss + mfvis_ext.box_projection_loss(logits, boxes)
    loss = loss + mfvis_ext.pairwise_loss(logits, mfvis_ext.rgb_to_lab(frames, 2), boxes, video_index)
    terms = mfvis_ext.mask_loss_terms(
        logits, boxes, video_index, frames=mfvis_ext.rgb_to_lab(frames, 2), matches=tk.match(frames)
    )
    loss = loss + terms.projection + terms.pairwise_sum + terms.tk_sum.sum()
    cost = 1 - mfvis_ext.box_tube_dice(mfvis_ext.mask_to_boxes(logits), boxes)
    loss.backward()
    assert loss.is_meta and cost.is_meta and logits.grad.is_meta
    assert loss.shape == () and cost.shape == (4, 4) and logits.grad.shape == logits.shape


def test_attention_and_cost_volume():
    shapes = torch.tensor([[4, 6], [2, 3]])  # on the CPU, where the model computes them
    value, locations, weights = empty(1, 30, 2, 8), empty(1, 5, 2, 2, 3, 2), empty(1, 5, 2, 2, 3)
    output = mfvis_ext.ms_deform_attn(value, shapes, torch.tensor([0, 24]), locations, weights)
    target, source = empty(1, 3, 8, 9), empty(1, 3, 8, 9)
    volume = mfvis_ext.patch_distance(target, source, radius=1)
    (output.sum() + volume.sum()).backward()
    assert output.shape == (1, 5, 16) and volume.shape == (1, 9, 8, 9)
    assert all(x.grad.shape == x.shape for x in (value, locations, weights, target, source))


def test_a_hidden_synchronization_would_be_noticed():
    pairs = empty(4, 2, dtype=torch.int64)
    with pytest.raises(NotImplementedError):
        pairs[pairs[:, 0] != pairs[:, 1]]
    with pytest.raises(RuntimeError):
        pairs[0, 0].item()
