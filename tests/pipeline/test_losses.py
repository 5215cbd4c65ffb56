"""Losses and matcher against cases small enough to compute by hand, and against sums over single layers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from mfvis.errors import ConfigError
from mfvis.losses import criterion as criteria
from mfvis.losses import inputs
from mfvis.losses.background import background_loss
from mfvis.losses.config import LossConfig, MaskConfig, MatchConfig
from mfvis.losses.criterion import Criterion
from mfvis.losses.inputs import MaskLossInputs
from mfvis.losses.masks import mask_losses, point_sample, uncertain_points
from mfvis.losses.matcher import match, matching_cost
from mfvis.losses.pairwise import PairwiseConfig
from mfvis.losses.position_prior import PositionPriorConfig
from mfvis.losses.projection import projection_loss
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.types import Batch, ClipOrigin, DenseMasks, Match, Prediction

import mfvis_ext

H, W = 8, 12


def make_batch(objects: tuple[int, ...] = (2, 1), frames: int = 3, classes: int = 3, seed: int = 0) -> Batch:
    """Clips of 32 x 48 pixels: blocks of color that move by a cell per frame; objects that fill their boxes."""
    random = torch.Generator().manual_seed(seed)
    colors = torch.randint(20, 236, (len(objects), 3, H // 4, W // 4), generator=random)
    blocks = colors.repeat_interleave(16, -1).repeat_interleave(16, -2)
    images = torch.stack([blocks.roll(4 * t, -1) for t in range(frames)], 1)
    noise = torch.randint(-3, 4, images.shape, generator=random)
    count = sum(objects)
    corner = torch.randint(0, 5, (count, frames, 2), generator=random).float()
    size = torch.randint(2, 4, (count, frames, 2), generator=random).float()
    boxes = 4 * torch.cat([corner, corner + size], -1)
    y, x = torch.arange(4 * H)[:, None] + 0.5, torch.arange(4 * W) + 0.5
    x1, y1, x2, y2 = (side[..., None, None] for side in boxes.unbind(-1))
    return Batch(
        frames_BTCHW=(images + noise).to(torch.uint8),
        boxes_NT4=boxes,
        labels_N=torch.randint(0, classes, (count,), generator=random),
        video_index_N=torch.repeat_interleave(torch.tensor(objects)),
        masks_NTHW=(x > x1) & (x < x2) & (y > y1) & (y < y2),
        sizes_B2=torch.tensor([[4 * H, 4 * W]] * len(objects)),
        clips=tuple(ClipOrigin(video, tuple(range(frames)), tuple(range(n))) for video, n in enumerate(objects)),
    )


def make_prediction(batch: Batch, layers: int = 2, queries: int = 4, classes: int = 3, seed: int = 1) -> Prediction:
    random = torch.Generator().manual_seed(seed)
    clips, frames = batch.frames_BTCHW.shape[:2]
    return Prediction(
        logits_LBQK=torch.randn(layers, clips, queries, classes + 1, generator=random).requires_grad_(),
        masks=DenseMasks(torch.randn(layers, clips, queries, frames, H, W, generator=random).requires_grad_()),
    )


def only_layer(prediction: Prediction, layer: int) -> Prediction:
    return Prediction(
        prediction.logits_LBQK[layer : layer + 1], DenseMasks(prediction.masks.logits_LBQTHW[layer : layer + 1])
    )


def loss_inputs(masks_LNTHW: torch.Tensor, batch: Batch, objects: float = 1) -> MaskLossInputs:
    return MaskLossInputs(masks_LNTHW, batch, torch.tensor(objects), 0, LossConfig())


# ---- single terms


def test_projection_of_a_mask_that_fills_its_box_is_zero() -> None:
    batch = replace(make_batch((1,), frames=1), boxes_NT4=torch.tensor([[[8.0, 4, 24, 20]]]))
    masks = torch.full((1, 1, 1, H, W), -30.0)
    masks[..., 1:5, 2:6] = 30
    assert projection_loss(loss_inputs(masks, batch)).item() == pytest.approx(0, abs=1e-5)
    # p = 1 on all 8 rows and 12 columns, b = 1 on 4 of each
    everywhere = projection_loss(loss_inputs(torch.full_like(masks, 30.0), batch)).item()
    assert everywhere == pytest.approx((1 - 8 / 12) + (1 - 8 / 16), abs=1e-5)


def test_projection_is_summed_over_layers_and_divided_by_the_objects() -> None:
    batch = make_batch()
    masks = torch.randn(2, 3, 3, H, W)
    boxes = batch.boxes_NT4 / 4
    separate = sum(mfvis_ext.box_projection_loss(masks[:, n], boxes[[n, n]]) * 2 for n in range(3))
    assert projection_loss(loss_inputs(masks, batch, objects=6)).item() == pytest.approx(separate.item() / 6, rel=1e-5)


def test_projection_pairwise_and_temporal_terms_are_those_of_the_separate_operators() -> None:
    """With any of them left out, in one call for all layers."""
    batch, layers = make_batch((2, 1)), 2
    matched = Match(torch.tensor([[0, 1, 0]] * layers))
    pairwise, temporal = PairwiseConfig(dilation=1), TemporalConfig(radius=2, k=3, warmup=0)
    full = LossConfig(pairwise=pairwise, temporal=temporal)
    without = {
        "projection": replace(full, projection=0.0),
        "pairwise": replace(full, pairwise=replace(pairwise, weight=0.0)),
        "temporal": replace(full, temporal=replace(temporal, weight=0.0)),
    }
    gradients, losses = {}, {}
    for name, config in {"all": full, **without}.items():
        prediction = make_prediction(batch, layers)
        terms = Criterion(config, 3)(prediction, batch, 0, matched)
        terms.total.backward()
        gradients[name], losses[name] = prediction.masks.logits_LBQTHW.grad, terms.by_name
        assert (losses[name]["projection"] > 0) == (name != "projection")
    for name in without:
        others = set(without) - {name}
        assert losses[name][name] == 0
        assert all(losses[name][other] == losses["all"][other] for other in others)
    of_each = [gradients["all"] - gradients[name] for name in without]
    assert all(gradient.abs().sum() > 0 for gradient in of_each)
    torch.testing.assert_close(sum(of_each), gradients["all"], rtol=1e-4, atol=1e-7)


def test_background_counts_outside_pixels_only() -> None:
    boxes = torch.tensor([[[2.0, 1, 6, 5], [0, 0, 0, 0]]])
    masks = torch.zeros(1, 2, H, W)
    masks[0, 0, 1:5, 2:6] = 50  # inside: free
    assert background_loss(masks, boxes, 1.0).item() == pytest.approx(math.log(2), rel=1e-5)
    masks[0, 1] = -50  # the whole second frame is outside
    outside = 2 * H * W - 16
    assert background_loss(masks, boxes, 1.0).item() == pytest.approx(math.log(2) * (H * W - 16) / outside, rel=1e-5)


def test_background_of_a_box_as_large_as_the_image_is_zero() -> None:
    assert background_loss(torch.zeros(1, 1, H, W), torch.tensor([[[0.0, 0, W, H]]]), 1.0).item() == pytest.approx(
        0, abs=1e-6
    )


def test_pairwise_of_a_constant_image_is_the_mean_disagreement() -> None:
    boxes = torch.tensor([[[0.0, 0, W, H]]])
    lab = torch.zeros(1, 1, 3, H, W)
    loss, count = mfvis_ext.pairwise_loss_terms(torch.zeros(1, 1, H, W), lab, boxes, torch.zeros(1, dtype=torch.int64))
    assert count == 2 * (H - 2) * W + 2 * H * (W - 2) + 4 * (H - 2) * (W - 2)
    assert loss.item() == pytest.approx(count.item() * math.log(2), rel=1e-5)  # -log(1/4 + 1/4)


@pytest.mark.parametrize("tube", ["cyclic", "chain", "dense"])
def test_temporal_term_is_the_tk_loss_of_all_layers(tube: str) -> None:
    """The class that users of the operators import is the one that the pipeline trains with."""
    batch, layers = make_batch((2, 1)), 3
    prediction = make_prediction(batch, layers)
    matched = Match(torch.tensor([[0, 1, 0]] * layers))
    config = TemporalConfig(weight=0.7, warmup=0, radius=2, k=3, threshold=0.02, tube=tube)
    terms = Criterion(LossConfig(temporal=config), 3)(prediction, batch, 0, matched)
    tk_loss = mfvis_ext.TKLoss(radius=2, k=3, threshold=0.02, tube=tube, downsample=4)
    masks = prediction.masks.logits_LBQTHW[:, [0, 0, 1], [0, 1, 0]].flatten(0, 1)
    boxes, video_index = batch.boxes_NT4.repeat(layers, 1, 1) / 4, batch.video_index_N.repeat(layers)
    expected = tk_loss(masks, boxes, video_index, tk_loss.match(batch.frames_BTCHW))
    assert terms.by_name["temporal"].item() == pytest.approx(0.7 * layers * expected.item(), rel=1e-5)


def test_temporal_terms_of_a_still_image() -> None:
    tk_loss = TemporalConfig(radius=0, k=1).tk_loss()
    lab = torch.randn(1, 1, 3, H, W).repeat(1, 2, 1, 1, 1) * 20
    boxes = torch.tensor([[[2.0, 1, 6, 5], [2.0, 1, 6, 5]]])
    loss, weight = tk_loss.terms(torch.zeros(1, 2, H, W), boxes, torch.zeros(1, dtype=torch.int64), tk_loss.match(lab))
    # Every pixel matches itself: 16 pixels in the box, each undecided about its label in both frames.
    assert weight.tolist() == [[16, 16]]
    assert loss[0].tolist() == pytest.approx([16 * math.log(2)] * 2, rel=1e-5)


def test_point_sample_reads_pixel_centers() -> None:
    maps = torch.arange(H * W, dtype=torch.float32).view(1, H, W)
    points = torch.tensor([[[(3 + 0.5) / W, (2 + 0.5) / H], [(4 + 0.0) / W, (2 + 0.5) / H]]])
    assert point_sample(maps, points)[0].tolist() == pytest.approx([2 * W + 3, 2 * W + 3.5], rel=1e-5)


def test_most_points_lie_where_the_prediction_is_least_certain() -> None:
    torch.manual_seed(0)
    logits = (torch.arange(64.0) - 32).expand(1, 64, 64)
    x = uncertain_points(logits, 400, MaskConfig())[0, :, 0]
    assert x.shape == (400,)
    # The 300 least certain of 1200 candidates span the middle quarter of the width, twice that at the upper and lower
    # edge, where the reading is halved; the last 100 lie anywhere.
    assert (x[:300] - 0.5).abs().max() < 0.27
    assert (x[:300] - 0.5).abs().median() < 0.08
    assert (x[300:] - 0.5).abs().max() > 0.4


def test_mask_losses_of_right_and_wrong_masks() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(1, 2, 32, 48, dtype=torch.bool)
    truth[..., :24] = True
    right = torch.where(truth[..., ::4, ::4], 40.0, -40.0)[None]
    bce, dice = mask_losses(right, truth, MaskConfig(points=96, importance=0.0), 1.0)
    assert bce < 1.5 and dice < 0.05  # only points between the cells on both sides of the edge are unsure
    wrong_bce, wrong_dice = mask_losses(-right, truth, MaskConfig(points=96, importance=0.0), 1.0)
    assert wrong_bce > 30 and wrong_dice > 0.9
    # An even logit of 0 costs log 2 at every point, in each of two layers.
    flat, _ = mask_losses(torch.zeros(2, 1, 2, 8, 12), truth, MaskConfig(points=10), 4.0)
    assert flat.item() == pytest.approx(2 * 2 * math.log(2) / 4, rel=1e-5)


EVEN_LOGITS = [2.0, -1.0, 0.5, 0.0, 3.0]
EVEN_TRUTH = [1, 0, 0, 1, 1]


def even_frames(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip of even masks, whose values at points are those anywhere: logits and truth ``[T, H, W]``."""
    logits = torch.tensor(EVEN_LOGITS)[:frames, None, None].expand(-1, H, W)
    return logits, torch.tensor(EVEN_TRUTH)[:frames, None, None].bool().expand(-1, 4 * H, 4 * W)


@pytest.fixture
def inner_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps points away from the border of the masks, where bilinear values mix with zeros."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **options: 0.1 + 0.8 * rand(*size, **options))


@pytest.mark.usefixtures("inner_points")
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_mask_losses_are_summed_over_frames_and_divided_by_the_objects(frames: int) -> None:
    logits, truth = even_frames(frames)
    points, objects = 1000, 2  # more points than cells are fine
    bce, dice = mask_losses(
        logits.expand(3, objects, -1, -1, -1), truth.expand(objects, -1, -1, -1), MaskConfig(points=points), objects
    )
    p = [1 / (1 + math.exp(-x)) for x in EVEN_LOGITS[:frames]]
    y = EVEN_TRUTH[:frames]
    bce_T = [-math.log(p if y else 1 - p) for p, y in zip(p, y, strict=True)]
    dice_T = [1 - (2 * points * p * y + 1) / (points * p + points * y + 1) for p, y in zip(p, y, strict=True)]
    assert bce.item() == pytest.approx(3 * sum(bce_T), rel=1e-5)
    assert dice.item() == pytest.approx(3 * sum(dice_T), rel=1e-5)


# ---- matcher


@pytest.mark.parametrize("with_masks", [False, True])
def test_matcher_is_optimal_at_every_layer(with_masks: bool) -> None:
    batch = make_batch((2, 0, 3))
    prediction, config = make_prediction(batch, queries=4), MatchConfig()
    torch.manual_seed(3)
    cost = matching_cost(prediction, batch, batch.boxes_NT4 / 4, config, with_masks)
    torch.manual_seed(3)
    matched = match(prediction, batch, batch.boxes_NT4 / 4, config, with_masks).query_LN
    assert cost.shape == (2, 4, 5) and matched.shape == (2, 5)
    for layer, clip in itertools.product(range(2), (0, 2)):
        mine = (batch.video_index_N == clip).nonzero()[:, 0]
        totals = [
            sum(cost[layer, q, n] for q, n in zip(queries, mine, strict=True))
            for queries in itertools.permutations(range(4), len(mine))
        ]
        chosen = matched[layer, mine]
        assert len(set(chosen.tolist())) == len(mine)
        assert cost[layer, chosen, mine].sum() == pytest.approx(min(totals).item(), rel=1e-6)


def test_matching_cost_by_hand() -> None:
    batch = make_batch((1,), frames=1)
    batch = replace(batch, boxes_NT4=torch.tensor([[[8.0, 4, 24, 20]]]), labels_N=torch.tensor([1]))
    masks = torch.full((1, 1, 2, 1, H, W), -1.0)
    masks[0, 0, 0, 0, 1:5, 2:6] = 1  # the box itself
    masks[0, 0, 1, 0, 1:5, 4:8] = 1  # half of it
    logits = torch.zeros(1, 1, 2, 4)
    cost = matching_cost(Prediction(logits, DenseMasks(masks)), batch, batch.boxes_NT4 / 4, MatchConfig())
    assert cost[0, :, 0].tolist() == pytest.approx([2 * 0.75, 2 * 0.75 + 5 * 0.5], rel=1e-6)


@pytest.mark.usefixtures("inner_points")
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_matching_cost_of_masks_by_hand(frames: int) -> None:
    """Class 2, cross-entropy 5, dice 5 over the points of all frames together; the boxes count nothing."""
    batch = make_batch((1,), frames)
    logits, truth = even_frames(frames)
    batch = replace(batch, masks_NTHW=truth[None], labels_N=torch.tensor([1]))
    masks = torch.stack([logits, -logits])[None, None]  # one layer, one clip, two queries
    classes = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0]])[None, None]
    config = MatchConfig(points=1000)
    cost = matching_cost(Prediction(classes, DenseMasks(masks)), batch, batch.boxes_NT4 / 4, config, with_masks=True)

    def by_hand(sign: int, class_probability: float) -> float:
        p = [1 / (1 + math.exp(-sign * x)) for x in EVEN_LOGITS[:frames]]
        y = EVEN_TRUTH[:frames]
        bce = sum(-math.log(p if y else 1 - p) for p, y in zip(p, y, strict=True)) / frames
        overlap = sum(p * y for p, y in zip(p, y, strict=True))
        dice = 1 - (2 * 1000 * overlap + 1) / (1000 * sum(p) + 1000 * sum(y) + 1)
        return 2 * (1 - class_probability) + 5 * bce + 5 * dice

    assert cost[0, :, 0].tolist() == pytest.approx([by_hand(1, math.e / (math.e + 3)), by_hand(-1, 0.25)], rel=1e-5)
    moved = matching_cost(Prediction(classes, DenseMasks(masks)), batch, batch.boxes_NT4 * 0, config, with_masks=True)
    assert torch.equal(cost, moved)


def test_too_few_queries_are_reported() -> None:
    batch = make_batch((5,))
    with pytest.raises(
        ConfigError, match="model.num_queries is 4, but video 0 has 5 objects .* set model.num_queries to 5"
    ):
        match(make_prediction(batch, queries=4), batch, batch.boxes_NT4 / 4, MatchConfig())


# ---- criterion


@pytest.mark.parametrize("with_masks", [False, True])
def test_total_is_the_sum_of_the_terms_and_reaches_the_prediction(with_masks: bool) -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    terms = Criterion(LossConfig(background=1.0), 3, with_masks)(prediction, batch, step=500)
    parts = {name: value for name, value in terms.as_dict().items() if name != "total"}
    assert sum(parts.values()).item() == pytest.approx(terms.total.item(), rel=1e-6)
    used = {name for name, value in parts.items() if value > 0}
    boxes_only = {"classification", "projection", "pairwise", "temporal", "background"}
    assert used == ({"classification", "mask_bce", "mask_dice"} if with_masks else boxes_only)
    terms.total.backward()
    assert prediction.masks.logits_LBQTHW.grad.abs().sum() > 0 and prediction.logits_LBQK.grad.abs().sum() > 0


def test_layers_in_one_call_equal_the_sum_over_layers() -> None:
    batch = make_batch()
    prediction = make_prediction(batch, layers=3)
    criterion = Criterion(LossConfig(background=0.5, temporal=TemporalConfig(radius=2, k=3)), 3)
    together = criterion(prediction, batch, step=500).as_dict()
    apart = [criterion(only_layer(prediction, layer), batch, step=500).as_dict() for layer in range(3)]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(terms[name].item() for terms in apart), rel=1e-5), name


def test_classification_by_hand() -> None:
    batch = make_batch((1,))
    prediction = make_prediction(batch, layers=1, queries=3)
    matched = Match(torch.tensor([[2]]))
    terms = Criterion(LossConfig(classification=1.0), 3)(prediction, batch, 0, matched)
    log_p = prediction.logits_LBQK[0, 0].log_softmax(-1)
    expected = -(log_p[2, batch.labels_N[0]] + 0.1 * (log_p[0, 3] + log_p[1, 3])) / 1.2
    assert terms.by_name["classification"].item() == pytest.approx(expected.item(), rel=1e-5)


def of_process(batch: Batch, prediction: Prediction, clip: int) -> tuple[Batch, Prediction]:
    """One clip of a batch, as a process of its own has it."""
    mine, only = batch.video_index_N == clip, slice(clip, clip + 1)
    part = Batch(
        frames_BTCHW=batch.frames_BTCHW[only],
        boxes_NT4=batch.boxes_NT4[mine],
        labels_N=batch.labels_N[mine],
        video_index_N=torch.zeros(int(mine.sum()), dtype=torch.int64),
        masks_NTHW=None,
        sizes_B2=batch.sizes_B2[only],
        clips=batch.clips[only],
    )
    logits, masks = prediction.logits_LBQK[:, only], prediction.masks.logits_LBQTHW[:, only]
    return part, Prediction(logits.detach().requires_grad_(), DenseMasks(masks.detach().requires_grad_()))


@pytest.mark.parametrize("objects", [(1, 3), (2, 0), (0, 0)])
def test_two_processes_have_the_gradient_of_one_with_the_same_clips(
    objects: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(objects)
    prediction = make_prediction(batch, queries=5)
    pairwise, temporal = PairwiseConfig(dilation=1), TemporalConfig(radius=2, k=3, warmup=0)
    criterion = Criterion(LossConfig(background=1.0, pairwise=pairwise, temporal=temporal), 3)
    whole = criterion(prediction, batch, 0).total
    whole.backward()

    parts = [of_process(batch, prediction, clip) for clip in range(2)]
    counts: list[list[torch.Tensor]] = []
    for part, own in parts:
        counts.append([])
        for module in (criteria, inputs):
            monkeypatch.setattr(module, "mean_over_processes", lambda x: counts[-1].append(x) or x)
        criterion(own, part, 0)
    totals = []
    for clip, (part, own) in enumerate(parts):
        means = [torch.stack(both).mean(0) for both in zip(*counts, strict=True)]
        for module in (criteria, inputs):
            monkeypatch.setattr(module, "mean_over_processes", lambda _, means=means: means.pop(0))
        totals.append(criterion(own, part, 0).total)
        totals[-1].backward()
        # Data-parallel training averages the gradients of the processes.
        for of_part, of_whole in (
            (own.logits_LBQK.grad, prediction.logits_LBQK.grad),
            (own.masks.logits_LBQTHW.grad, prediction.masks.logits_LBQTHW.grad),
        ):
            torch.testing.assert_close(of_part / 2, of_whole[:, clip : clip + 1], rtol=1e-5, atol=1e-8)
    assert sum(totals).item() / 2 == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("term", ["temporal", "pairwise"])
def test_pairwise_and_temporal_terms_rise_over_their_warmup(term: str) -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    config = LossConfig(temporal=TemporalConfig(warmup=10), pairwise=PairwiseConfig(warmup=10))
    criterion = Criterion(config, 3)
    at = [criterion(prediction, batch, step).by_name[term].item() for step in (0, 4, 9, 100)]
    assert at[:3] == pytest.approx([at[3] / 10, at[3] / 2, at[3]], rel=1e-5)


def test_masks_without_a_loss_at_a_step_have_a_gradient_of_zeros() -> None:
    """Else processes that train together would wait for it."""
    batch = make_batch()
    prediction = make_prediction(batch)
    late = {"pairwise": PairwiseConfig(start=5), "temporal": TemporalConfig(start=5)}
    terms = Criterion(LossConfig(projection=0, prior=PositionPriorConfig(weight=0), **late), 3)(prediction, batch, 0)
    assert terms.total == terms.by_name["classification"]
    terms.total.backward()
    gradient = prediction.masks.logits_LBQTHW.grad
    assert gradient is not None and not gradient.any()


@pytest.mark.parametrize("term", ["temporal", "pairwise"])
def test_a_term_before_its_start_is_not_computed_but_logged_as_0(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    setting = {"temporal": TemporalConfig, "pairwise": PairwiseConfig}[term](start=5, warmup=2)
    criterion = Criterion(LossConfig(**{term: setting}), 3)
    computed: list[mfvis_ext.MaskLossTerms] = []
    original = mfvis_ext.mask_loss_terms

    def recorded(*args: Any, **kwargs: Any) -> mfvis_ext.MaskLossTerms:
        computed.append(original(*args, **kwargs))
        return computed[-1]

    monkeypatch.setattr(mfvis_ext, "mask_loss_terms", recorded)
    at = [criterion(prediction, batch, step).as_dict()[term].item() for step in (4, 5, 6, 50)]
    sums = [{"temporal": terms.tk_sum, "pairwise": terms.pairwise_sum}[term] for terms in computed]
    assert [loss is None for loss in sums] == [True, False, False, False]
    assert at[0] == 0
    assert at[1:] == pytest.approx([at[3] / 2, at[3], at[3]], rel=1e-5)


def left_behind() -> tuple[Batch, Prediction]:
    """A still camera and an object that moves from the left part of its box to elsewhere: one clip of two frames."""
    batch = make_batch((1,), frames=2)
    image = torch.randint(0, 200, (3, 4 * H, 4 * W), generator=torch.Generator().manual_seed(3))
    frames = torch.stack([image, image])[None]
    frames[0, 0, :, 8:16, 4:12] = frames[0, 1, :, 8:16, 36:44] = 255
    boxes = torch.tensor([[[4.0, 8, 20, 16], [28.0, 8, 44, 16]]])
    return replace(batch, frames_BTCHW=frames.to(torch.uint8), boxes_NT4=boxes), make_prediction(batch)


def test_background_that_another_frame_of_the_clip_shows_is_a_negative() -> None:
    batch, prediction = left_behind()
    config = LossConfig(propagation=BackgroundPropagationConfig(2.0, 0.0, (1,), radius=1, distance=1.0, min_frames=1))
    criterion, matched = Criterion(config, 3), Match(torch.zeros(2, 1, dtype=torch.int64))
    masks_LNTHW = criteria.matched_masks(prediction, matched, batch)
    loss = criterion.terms(prediction, matched, masks_LNTHW, batch, 0).by_name["propagation"]
    # Of the first box, the cells right of the object; of the second, those left of it.
    known_THW = torch.zeros(2, H, W, dtype=torch.bool)
    known_THW[0, 2:4, 4], known_THW[1, 2:4, 7] = True, True
    gradient = torch.autograd.grad(loss, prediction.masks.logits_LBQTHW)[0][:, 0, 0]
    assert (gradient.abs() > 0).any(0)[known_THW].all()
    inside_THW = torch.zeros_like(known_THW)
    inside_THW[0, 2:4, 1:5], inside_THW[1, 2:4, 7:11] = True, True
    assert not ((gradient.abs() > 0).any(0) & ~inside_THW).any()
    assert not gradient[:, 0, 2:4, 1:3].any() and not gradient[:, 1, 2:4, 9:11].any()
    known_THW = (gradient.abs() > 0).any(0)
    mean = torch.nn.functional.softplus(masks_LNTHW[:, 0])[:, known_THW].sum() / known_THW.sum()
    assert loss.item() == pytest.approx(2 * mean.item(), rel=1e-5)


def test_search_follows_the_camera() -> None:
    """The camera moves by 8 pixels, thus 2 cells, to the right, so the image moves to the left."""
    batch = make_batch((0,), frames=2)
    world = torch.randint(0, 256, (3, 4 * H, 4 * W + 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = replace(batch, frames_BTCHW=torch.stack([world[..., :-8], world[..., 8:]])[None])
    found = loss_inputs(torch.zeros(1, 0, 2, H, W), batch)
    assert found.camera_motion("chain").tolist() == [[[0, -2]]]


@pytest.mark.parametrize(
    "setting",
    [
        {"propagation": BackgroundPropagationConfig()},
        {"temporal": TemporalConfig(camera_motion=True)},
        {"temporal": TemporalConfig(start=1)},
    ],
)
def test_terms_that_the_released_code_lacks_are_refused_with_it(setting: dict) -> None:
    with pytest.raises(ConfigError, match=r"released_code.*off with propagation.weight, temporal.camera_motion or"):
        LossConfig(released_code=True, **setting)


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize(("objects", "frames"), [((0, 0), 3), ((1,), 1)])
def test_no_objects_and_single_frames(objects: tuple[int, ...], frames: int, with_masks: bool) -> None:
    batch = make_batch(objects, frames)
    prediction = make_prediction(batch)
    terms = Criterion(LossConfig(background=1.0), 3, with_masks)(prediction, batch, step=0)
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert torch.isfinite(prediction.masks.logits_LBQTHW.grad).all()
    if not sum(objects):
        assert prediction.masks.logits_LBQTHW.grad.abs().sum() == 0
    assert terms.by_name["temporal"].item() == 0


def test_padding_is_never_matched_nor_paired() -> None:
    """The black padding of an image, black itself at the edge, changes no loss."""
    batch = make_batch((1,), frames=2)
    content = replace(batch, frames_BTCHW=batch.frames_BTCHW.clone(), sizes_B2=torch.tensor([[4 * H, 4 * W - 16]]))
    content.frames_BTCHW[..., -24:] = 0
    boxes = torch.tensor([[[8.0, 0, 4.0 * W - 16, 32]] * 2])
    prediction = make_prediction(batch, layers=1)
    criterion = Criterion(LossConfig(temporal=TemporalConfig(radius=2, k=5, warmup=0)), 3)
    matched = Match(torch.tensor([[0]]))
    reference = criterion(prediction, replace(content, boxes_NT4=boxes), 0, matched).as_dict()
    with torch.no_grad():
        prediction.masks.logits_LBQTHW[..., -4:] = -100 * prediction.masks.logits_LBQTHW[..., -4:].abs()
    changed = criterion(prediction, replace(content, boxes_NT4=boxes), 0, matched).as_dict()
    assert changed["pairwise"] == reference["pairwise"]
    assert changed["temporal"] == reference["temporal"]


def test_broken_prediction_reaches_the_loss() -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    with torch.no_grad():
        prediction.logits_LBQK[0, 0, 0, 0] = float("nan")
    assert not torch.isfinite(Criterion(LossConfig(), 3)(prediction, batch, step=0).total)


def test_half_precision_masks() -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    half = Prediction(prediction.logits_LBQK.bfloat16(), DenseMasks(prediction.masks.logits_LBQTHW.bfloat16()))
    matched = Match(torch.tensor([[0, 1, 0]] * 2))
    widened = Prediction(half.logits_LBQK.float(), DenseMasks(half.masks.logits_LBQTHW.float()))
    full = Criterion(LossConfig(), 3)(widened, batch, 500, matched).as_dict()
    for name, value in Criterion(LossConfig(), 3)(half, batch, 500, matched).as_dict().items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(full[name].item(), rel=1e-5), name
