from __future__ import annotations

import copy
import pickle
import re
import textwrap
from pathlib import Path

import pytest
import torch
from operator_tests import random_boxes, reference_of

from mfvis_ext import TKLoss, match_weight, rgb_to_lab, temporal_topk, tk_loss, tube_pairs


@pytest.mark.parametrize(("text", "downsample"), [("docstring", 4), ("README", 1)])
def test_the_example_computes_the_published_sum(text, downsample):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = {
        "docstring": textwrap.dedent(TKLoss.__doc__.split("Example::")[1]),
        "README": re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1],
    }[text]
    names: dict = {}
    exec(example, names)
    assert names["matches"].weight.any(), "noise matches nowhere: the example would show a loss of 0"
    logits = names["logits"].detach().requires_grad_()
    clip = names["boxes"], names["video_index"]
    lab = reference_of("rgb_to_lab")(names["frames"], downsample)
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]])
    distance, offset = reference_of("temporal_topk")(lab, pairs, 3, 5, 1, 5)
    weight = reference_of("match_weight")(distance, 0.05)
    temporal = 0.1 * reference_of("tk_loss")(logits, offset, weight, pairs, *clip, radius=5)
    pairwise = reference_of("pairwise_loss")(logits, lab, *clip, kernel_size=3, dilation=2, threshold=0.3)
    expected = reference_of("box_projection_loss")(logits, clip[0]) + 0.2 * (pairwise + temporal)
    expected.backward()
    assert names["matches"].weight.sum() == pytest.approx(weight.sum().item(), rel=1e-3)
    torch.testing.assert_close(names["loss"], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(names["logits"].grad, logits.grad, rtol=1e-3, atol=1e-7)


def test_pairs_of_a_tube():
    assert tube_pairs(3).tolist() == [[0, 1], [1, 2], [2, 0]]
    assert tube_pairs(2).tolist() == [[0, 1], [1, 0]]
    assert tube_pairs(3, "chain").tolist() == [[0, 1], [1, 2]]
    assert tube_pairs(3, "dense").tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert all(tube_pairs(1, tube).shape == (0, 2) for tube in ("cyclic", "chain", "dense"))


@pytest.mark.parametrize("tube", ["cyclic", "chain", "dense"])
def test_equals_the_operators(tube):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(100, 110, (2, 3, 3, 26, 35), generator=generator, dtype=torch.uint8)
    boxes = random_boxes(generator, 4, 3, height=13, width=17)
    video_index = torch.tensor([0, 1, 1, 0])
    logits = torch.randn(4, 3, 13, 17, generator=generator)
    module = TKLoss(radius=2, k=3, threshold=0.1, tube=tube, downsample=2)
    matches = module.match(frames)
    pairs = tube_pairs(3, tube)
    distance, offset = temporal_topk(rgb_to_lab(frames, 2), pairs, 3, 2, 1, 3)
    expected = tk_loss(logits, offset, match_weight(distance, 0.1), pairs, boxes, video_index, 2, 1)
    assert matches.weight.any()
    assert torch.equal(module(logits, boxes, video_index, matches), expected)
    loss, weight = (terms.sum(0) for terms in module.terms(logits, boxes, video_index, matches))
    torch.testing.assert_close((loss / weight.clamp(min=1)).sum(), expected)


def test_equal_layers_have_the_loss_of_one():
    generator = torch.Generator().manual_seed(0)
    module = TKLoss(radius=1, k=2, rgb=False)
    matches = module.match(torch.rand(1, 3, 3, 12, 13, generator=generator))
    boxes, index = torch.tensor([1.0, 2, 9, 10]).expand(2, 3, 4), torch.tensor([0, 0])
    logits = torch.randn(2, 3, 12, 13, generator=generator)
    layers = 4
    stacked = module(logits.repeat(layers, 1, 1, 1), boxes.repeat(layers, 1, 1), index.repeat(layers), matches)
    torch.testing.assert_close(stacked, module(logits, boxes, index, matches))


def test_one_frame_has_no_loss():
    module = TKLoss(rgb=False)
    logits = torch.randn(1, 1, 6, 7, requires_grad=True)
    loss = module(logits, torch.tensor([[[0.0, 0, 6, 6]]]), torch.tensor([0]), module.match(torch.rand(1, 1, 3, 6, 7)))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_the_module_and_its_matches_can_be_pickled_and_copied():
    """For worker processes, checkpoints of whole models, and averaged copies."""
    module = TKLoss(radius=1, k=2, threshold=0.1, tube="chain", rgb=False)
    matches = module.match(torch.rand(1, 3, 3, 12, 13, generator=torch.Generator().manual_seed(0)))
    boxes, index = torch.tensor([1.0, 2, 9, 10]).expand(1, 3, 4), torch.tensor([0])
    logits = torch.randn(1, 3, 12, 13, generator=torch.Generator().manual_seed(1))
    loss = module(logits, boxes, index, matches)
    assert loss > 0 and not module.state_dict()
    for copied in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        again, found = copied(module), copied(matches)
        assert repr(again) == repr(module) and found.weight is not matches.weight
        assert torch.equal(again(logits, boxes, index, found), loss)


def test_matching_takes_no_gradient():
    assert not TKLoss(rgb=False).match(torch.rand(1, 2, 3, 6, 7, requires_grad=True)).weight.requires_grad


def test_malformed():
    with pytest.raises(ValueError, match="tube is 'ring'; expected one of 'cyclic', 'chain', 'dense'"):
        TKLoss(tube="ring")
    with pytest.raises(ValueError, match="downsample is 4 with rgb=False"):
        TKLoss(rgb=False, downsample=4)
    with pytest.raises(ValueError, match=r"frames has shape \[3, 8, 8\]; expected \[B, T, 3, H, W\]"):
        TKLoss().match(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match="frames is a list; expected a tensor"):
        TKLoss().match([torch.zeros(3, 8, 8)])
    logits, boxes, index = torch.randn(1, 2, 17, 25), torch.zeros(1, 2, 4), torch.tensor([0])
    frames = torch.zeros(1, 2, 3, 66, 99)
    with pytest.raises(TypeError, match="matches is a Tensor; expected what TKLoss.match returns"):
        TKLoss(downsample=4)(logits, boxes, index, frames)
    with pytest.raises(ValueError, match=r"are \[16, 24\]; expected one size: match frames of 68 x 100, padded"):
        TKLoss(downsample=4)(logits, boxes, index, TKLoss(downsample=4).match(frames))
    with pytest.raises(TypeError, match="matches is a list"):
        TKLoss().terms(logits, boxes, index, [])


IMAGE = torch.randint(0, 256, (1, 2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEAN_STD = (torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375]))


@pytest.mark.parametrize(
    ("frames", "remedy"),
    [
        (rgb_to_lab(IMAGE), "Match LAB and other features with rgb=False"),
        (rgb_to_lab(IMAGE[:, :, :1].expand(-1, -1, 3, -1, -1)), "with rgb=False"),  # gray: a and b are nearly 0
        (rgb_to_lab(IMAGE).half(), "with rgb=False"),
        ((IMAGE - MEAN_STD[0].view(3, 1, 1)) / MEAN_STD[1].view(3, 1, 1), "undo the mean and standard deviation"),
        (IMAGE / 127.5 - 1, "undo the mean"),
        (IMAGE * 257.0, "from [0-9.]+ to 6.5[0-9]+e[+]04; expected RGB in 0..255"),
        (IMAGE.float() * torch.nan, "from nan to nan; expected RGB in 0..255"),
        (IMAGE / 255, "from [0-9.]+ to 1; expected RGB in 0..255. Multiply images in 0..1 by 255"),
        ((IMAGE / 300).bfloat16(), "Multiply images in 0..1 by 255"),
    ],
)
def test_frames_that_cannot_be_rgb_are_refused(frames, remedy):
    with pytest.raises(ValueError, match=remedy):
        TKLoss(radius=1, k=1).match(frames)
    matches = TKLoss(radius=1, k=1, rgb=False).match(frames.float())  # the remedy of each message, or another choice
    assert matches.offset.shape == (1, 2, 1, 12, 12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "frames",
    [
        IMAGE,
        IMAGE * 0,  # black
        IMAGE % 2,  # black but for noise: 0 and 1
        IMAGE * 0 + 255,
        torch.nn.functional.interpolate(IMAGE[0].float(), scale_factor=1.3, mode="bilinear")[None],
        IMAGE[:0],
    ],
)
def test_frames_in_rgb_are_accepted_in_every_dtype(frames, dtype):
    frames = frames.to(dtype)
    matches = TKLoss(radius=1, k=1).match(frames)
    expected, _ = temporal_topk(rgb_to_lab(frames), tube_pairs(2), 3, 1, 1, 1)
    assert torch.equal(matches.weight, match_weight(expected))


def test_frames_are_not_checked_in_a_compiled_graph():
    module = TKLoss(radius=1, k=1)
    compiled = torch.compile(module.match, fullgraph=True, backend="aot_eager")
    frames = IMAGE.float()
    assert torch.equal(compiled(frames).weight, module.match(frames).weight)
    assert compiled(frames / 255).weight.all()
