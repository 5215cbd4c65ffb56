"""The preset `reference-code` against numbers of the released code, and against its formulas written down once more."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from mfvis.errors import ConfigError
from mfvis.losses import released_code
from mfvis.losses.config import LossConfig
from mfvis.losses.criterion import Criterion, LossTerms
from mfvis.parsing import build, load_preset
from mfvis.train.config import Config
from mfvis.types import Batch, ClipOrigin, DenseMasks, Match, Prediction
from torch import Tensor

from mfvis_ext.reference.rgb_to_lab import rgb_to_lab

CLASSES, LAYERS = 3, 10
SIZES = [(61, 93), (47, 70)]
H, W = 64, 96
MEASURED = {
    1: {"projection": (56.515732, 0.569747), "pairwise": (0.731016, 0.360069)},
    3: {"projection": (45.284209, 0.651953), "pairwise": (43.48886, 21.455714), "temporal": (1.809375, 0.74956)},
    5: {"projection": (43.450742, 0.672774), "pairwise": (47.041931, 22.211012), "temporal": (3.15417, 1.328759)},
}
"""Frames of a clip: the weighted losses of `made` at `STEP` in the released code, each with the sum of |gradient|."""
STEP = {1: 6, 3: 37, 5: 37}
"""In the warm-up, which in its code counts decoder outputs: 1000 for images, 2000 for videos."""


@cache
def preset() -> LossConfig:
    return build(Config, {"data": "any"} | load_preset("reference-code"), "reference-code").loss


def triangle(x: Tensor) -> Tensor:
    return (x % 200 - 100).abs()


def made(frames: int) -> tuple[Batch, Prediction, Match]:
    """Two padded clips of gradients with texture that move; boxes at odd places, some absent; one query per object."""
    t, c, y, x = torch.meshgrid(*(torch.arange(n) for n in (frames, 3, H, W)), indexing="ij")
    texture = (7 * x * x + 13 * y * y + 5 * x * y + t) % 11
    image = (30 + triangle(2 * x + t + 31 * c) + triangle(5 * y + 17 * c) // 2 + texture).to(torch.uint8)
    corners = torch.tensor([[3.2, 5.5, 60.1, 50.9], [20.4, 10.1, 93.0, 61.0], [1.0, 2.0, 33.7, 40.2], [9, 9, 10.2, 60]])
    boxes = corners[:, None] + 1.7 * torch.arange(frames)[None, :, None]
    boxes[1, :1], boxes[3, 1:2] = 0, 0
    boxes = boxes.minimum(torch.tensor([[w, h, w, h] for h, w in SIZES])[[0, 0, 1, 1], None])
    count = LAYERS * 4 * frames * (H // 4) * (W // 4)
    masks = ((torch.arange(count) * 37 % 1009 - 504) / 120).view(LAYERS, 4, frames, H // 4, W // 4)
    batch = Batch(
        frames_BTCHW=torch.stack([image, image.flip(1)]),
        boxes_NT4=boxes,
        labels_N=torch.tensor([0, 1, 2, 0]),
        video_index_N=torch.tensor([0, 0, 1, 1]),
        masks_NTHW=None,
        sizes_B2=torch.tensor(SIZES),
        clips=(ClipOrigin(0, (), (0, 1)), ClipOrigin(1, (), (0, 1))),
    )
    prediction = Prediction(torch.zeros(LAYERS, 2, 4, CLASSES + 1), DenseMasks(masks[:, None].repeat(1, 2, 1, 1, 1, 1)))
    return batch, prediction, Match(torch.arange(4).expand(LAYERS, 4))


def losses_of(frames: int, config: LossConfig | None = None) -> tuple[LossTerms, Tensor]:
    batch, prediction, matched = made(frames)
    masks = prediction.masks.logits_LBQTHW.requires_grad_()
    return Criterion(config or preset(), CLASSES)(prediction, batch, STEP[frames], matched), masks


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_numbers_of_the_released_code(frames: int) -> None:
    terms, masks = losses_of(frames)
    for name, (loss, gradient) in MEASURED[frames].items():
        assert terms.by_name[name].item() == pytest.approx(loss, rel=1e-5), name
        (grad,) = torch.autograd.grad(terms.by_name[name], masks, retain_graph=True)
        assert grad.double().abs().sum().item() == pytest.approx(gradient, rel=1e-5), name
    assert frames > 1 or terms.by_name["temporal"] == 0


# ---- The formulas once more, by shifts instead of unfolding, and with boxes that are drawn and resized.


def shifted(maps: Tensor, dy: int, dx: int) -> Tensor:
    """The value at (y + dy, x + dx) for every pixel; 0 outside."""
    margin = max(abs(dy), abs(dx))
    padded = F.pad(maps, (margin,) * 4)
    return padded[..., margin + dy :, margin + dx :][..., : maps.shape[-2], : maps.shape[-1]]


def same_label(a: Tensor, b: Tensor) -> Tensor:
    return a.sigmoid() * b.sigmoid() + (-a).sigmoid() * (-b).sigmoid()


def restated(batch: Batch, masks_NTHW: Tensor) -> dict[str, Tensor]:
    """The losses of one decoder output before weights and warm-up."""
    frames = batch.frames_BTCHW.clone()
    for clip, (height, width) in enumerate(batch.sizes_B2.tolist()):
        frames[clip, ..., height:, :] = 0
        frames[clip, ..., width:] = 0
    blocks = frames.double().unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4)).mean((-1, -3))
    lab = released_code.lab_in_float64(blocks.floor().flip(2).flatten(0, 1)).unflatten(0, frames.shape[:2])
    lab = lab.float().double()[batch.video_index_N]

    x1, y1, x2, y2 = batch.boxes_NT4[..., None, None].unbind(2)
    y, x = torch.arange(H)[:, None] + 0.5, torch.arange(W) + 0.5
    drawn = ((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).float()
    box = F.interpolate(drawn, (H // 4, W // 4), mode="bilinear").double()
    assert set(box.unique().tolist()) == {0, 0.25, 0.5, 1}

    p = masks_NTHW.sigmoid()
    projection = 0
    for axis in (-1, -2):
        mask, target = p.amax(axis), box.amax(axis)
        dice = 2 * (mask * target).sum(-1) / ((mask**2).sum(-1) + (target**2).sum(-1) + 1e-5)
        projection = projection + (1 - dice).mean()

    inside = torch.ones_like(masks_NTHW)
    loss = count = 0
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            if dy or dx:
                similar = torch.exp(-(lab - shifted(lab, dy, dx)).norm(dim=2) / 2) >= 0.3
                weight = similar * box
                cost = -same_label(masks_NTHW, shifted(masks_NTHW, dy, dx)).log() * shifted(inside, dy, dx)
                loss, count = loss + (weight * cost).sum(), count + weight.sum()
    pairwise = loss / count

    region = box.sum(1) >= 1
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    patches = torch.cat([shifted(lab, *step) for step in around], 2)
    temporal = 0
    pairs = {1: [], 3: [(1, 0), (2, 0), (2, 1)], 5: [(1, 0), (2, 1), (3, 2), (4, 3), (0, 4)]}
    for target, source in pairs[p.shape[1]]:
        candidates = [shifted(patches[:, source], 3 * dy, 3 * dx) for dy, dx in around]
        similar = torch.stack([torch.exp(-(patches[:, target] - c).norm(dim=1) / 2) for c in candidates], 1)
        rank = similar.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        weight = (similar >= 0.05) & (rank < 5) & region[:, None]
        cost = torch.stack(
            [
                -same_label(masks_NTHW[:, target], shifted(masks_NTHW[:, source], 3 * dy, 3 * dx)).log()
                * shifted(inside[:, source], 3 * dy, 3 * dx)
                for dy, dx in around
            ],
            1,
        )
        assert weight.any()
        temporal = temporal + (weight * cost).sum() / weight.sum()
    return {"projection": projection, "pairwise": pairwise, "temporal": temporal}


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_formulas_of_the_released_code(frames: int) -> None:
    batch, prediction, matched = made(frames)
    masks = prediction.masks.logits_LBQTHW[:2].detach().requires_grad_()
    prediction = Prediction(prediction.logits_LBQK[:2], DenseMasks(masks))
    terms = Criterion(preset(), CLASSES)(prediction, batch, STEP[frames], Match(matched.query_LN[:2]))
    first, last = (restated(batch, layer[batch.video_index_N, range(4)].double()) for layer in masks)
    # The last output comes first in the warm-up, of 200 steps for videos and 100 for images, two outputs each.
    before = 2 * STEP[frames]
    temporal = 0.5 / 400 * ((before + 1) * last["temporal"] + (before + 2) * first["temporal"])
    pairwise = 5 * (last["pairwise"] + first["pairwise"])
    if frames == 1:
        pairwise = 0.25 * 5 / 200 * ((before + 1) * last["pairwise"] + (before + 2) * first["pairwise"])
    expected = {"projection": 5 * (last["projection"] + first["projection"]), "pairwise": pairwise}
    for name, loss in (expected | ({"temporal": temporal} if frames > 1 else {})).items():
        assert terms.by_name[name].item() == pytest.approx(loss.item(), rel=1e-5), name
        (ours,) = torch.autograd.grad(terms.by_name[name], masks, retain_graph=True)
        (theirs,) = torch.autograd.grad(loss, masks, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * theirs.abs().max().item(), msg=name)


def test_warmup_ends_where_that_of_the_released_code_does() -> None:
    factors = [released_code.warmup_factor(step, layer, 10, 200) for step in (0, 199, 200) for layer in (9, 0, 8)]
    assert factors == pytest.approx([1 / 2000, 2 / 2000, 10 / 2000, 1991 / 2000, 1992 / 2000, 1, 1, 1, 1])
    assert released_code.warmup_factor(0, 3, 10, 0) == 1


def test_an_edge_between_pixels_weighs_a_half() -> None:
    # Of 16 columns, in cells of four: 5.4 to 10.4 draws columns 5 to 9, of which 5 and 6, then 9 are middle ones.
    boxes = torch.tensor([[[5.4, 0, 10.4, 8], [2, 0, 10.4, 8], [7.0, 0, 9.0, 8], [0, 0, 0, 0]]])
    rows, columns = released_code.box_weights(boxes, 2, 4)
    assert columns[0].tolist() == [[0, 1, 0.5, 0], [0.5, 1, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert rows[0].tolist() == [[1, 1]] * 3 + [[0, 0]]


def test_lab_is_that_of_the_operators_but_for_rounding() -> None:
    colors = torch.cartesian_prod(*[torch.arange(0, 256, 15)] * 3).T.reshape(1, 3, 18, -1).to(torch.uint8)
    torch.testing.assert_close(released_code.lab_in_float64(colors).float(), rgb_to_lab(colors), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("frames", "labels"), [(3, [0, 1, 2, 0]), (5, [0, 1, 3, 3])])
def test_of_five_frames_the_last_one_names_the_class(frames: int, labels: list[int]) -> None:
    """Objects without a box there are trained as "no object", as the code for five frames does."""
    batch, prediction, matched = made(frames)
    boxes = batch.boxes_NT4.clone()
    boxes[2:, -1] = 0
    batch = replace(batch, boxes_NT4=boxes)
    random = torch.randn(prediction.logits_LBQK.shape, generator=torch.Generator().manual_seed(0))
    terms = Criterion(preset(), CLASSES)(replace(prediction, logits_LBQK=random), batch, 0, matched)
    target = torch.full((2, 4), CLASSES)
    target[0, :2], target[1, 2:] = torch.tensor(labels[:2]), torch.tensor(labels[2:])
    weight = torch.tensor([1, 1, 1, 0.1])
    expected = sum(F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight) for logits in random)
    assert terms.by_name["classification"].item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_other_clips_are_refused() -> None:
    batch, prediction, matched = made(3)
    two = replace(prediction, masks=DenseMasks(prediction.masks.logits_LBQTHW[:, :, :, :2]))
    batch = replace(batch, frames_BTCHW=batch.frames_BTCHW[:, :2], boxes_NT4=batch.boxes_NT4[:, :2])
    with pytest.raises(ConfigError, match="a clip has 2 frames; the code takes 1, 3 or 5: set clip.frames"):
        Criterion(preset(), CLASSES)(two, batch, 0, matched)


def test_a_batch_without_objects_has_no_loss() -> None:
    batch, prediction, _ = made(3)
    none = torch.zeros(0, dtype=torch.int64)
    batch = replace(batch, boxes_NT4=batch.boxes_NT4[:0], labels_N=none, video_index_N=none)
    masks = prediction.masks.logits_LBQTHW.requires_grad_()
    terms = Criterion(preset(), CLASSES)(prediction, batch, 0, Match(torch.zeros(LAYERS, 0, dtype=torch.int64)))
    terms.total.backward()
    assert (terms.by_name["projection"], terms.by_name["pairwise"], terms.by_name["temporal"]) == (
        0,
        0,
        0,
    ) and not masks.grad.any()
