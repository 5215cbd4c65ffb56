"""Python faces that never wait for a GPU, checked with fake CUDA tensors, which have no values to wait for.

Forward only: autograd needs a real device. The backward passes are single operators.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mfvis_ext

CUDA = torch.device("cuda")


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=CUDA)


@pytest.mark.parametrize("tube", ["cyclic", "chain", "dense"])
def test_the_losses_of_a_step(tube):
    with FakeTensorMode():
        frames = empty(2, 3, 3, 16, 24, dtype=torch.uint8)
        boxes, video_index = empty(4, 3, 4), empty(4, dtype=torch.int64)
        logits = empty(4, 3, 8, 12)
        tk = mfvis_ext.TKLoss(radius=1, k=2, tube=tube, downsample=2)
        loss = tk(logits, boxes, video_index, tk.match(frames))
        loss = loss + mfvis_ext.box_projection_loss(logits, boxes)
        loss = loss + mfvis_ext.pairwise_loss(logits, mfvis_ext.rgb_to_lab(frames, 2), boxes, video_index)
        cost = 1 - mfvis_ext.box_tube_dice(mfvis_ext.mask_to_boxes(logits), boxes)
    assert loss.device.type == cost.device.type == "cuda"
    assert loss.shape == () and cost.shape == (4, 4)


def test_attention_and_cost_volume():
    with FakeTensorMode():
        shapes = torch.tensor([[4, 6], [2, 3]])  # on the CPU, where the model computes them
        value, locations = empty(1, 30, 2, 8), empty(1, 5, 2, 2, 3, 2)
        starts = torch.tensor([0, 24])
        output = mfvis_ext.ms_deform_attn(value, shapes, starts, locations, empty(1, 5, 2, 2, 3))
        volume = mfvis_ext.patch_distance(empty(1, 3, 8, 9), empty(1, 3, 8, 9), radius=1)
    assert output.shape == (1, 5, 16) and volume.shape == (1, 9, 8, 9)


def test_a_hidden_synchronization_would_be_noticed():
    with FakeTensorMode(), pytest.raises(RuntimeError):
        pairs = empty(4, 2, dtype=torch.int64)
        pairs[pairs[:, 0] != pairs[:, 1]].tolist()
