"""The video model: shapes, what must not depend on what, box prompts, and bad input."""

import pytest
import torch
from mfvis.errors import ConfigError
from mfvis.models import decoder
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.pixel_decoder import grid_positions
from mfvis.models.prompts import _overlap
from mfvis.types import BoxPrompts
from tiny import every_mask
from torch.utils._python_dispatch import TorchDispatchMode

SMALL = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 3,
         "decoder_ffn_dim": 32, "num_queries": 5}  # fmt: skip


def build(**changes) -> VideoMask2Former:
    torch.manual_seed(0)
    return VideoMask2Former(ModelConfig(backbone=BackboneConfig("tiny"), **(SMALL | changes)), num_classes=3).eval()


def clip(batch=2, frames=3, height=64, width=96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def tubes(batch=2, frames=3) -> BoxPrompts:
    boxes = torch.tensor([[8.0, 8, 40, 50], [50, 5, 90, 30], [0, 0, 96, 64]]).expand(batch, frames, 3, 4)
    boxes = boxes.transpose(1, 2).clone()
    boxes[:, 1, 0] = 0
    return BoxPrompts(boxes, torch.ones(batch, 3, dtype=torch.bool))


def assert_same(one, other, atol=1e-5):
    torch.testing.assert_close(one.logits_LBQK, other.logits_LBQK, atol=atol, rtol=1e-4)
    torch.testing.assert_close(every_mask(one), every_mask(other), atol=atol, rtol=1e-4)


def test_every_layer_predicts_and_every_parameter_learns():
    model = build().train()
    prediction = model(clip())
    assert prediction.logits_LBQK.shape == (4, 2, 5, 4)
    assert every_mask(prediction).shape == (4, 2, 5, 3, 16, 24)
    (prediction.logits_LBQK.square().mean() + every_mask(prediction).square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class Filled(TorchDispatchMode):
    """Counts the gradients of parts, which are filled with zeros, of at least as many elements as given."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.count = least, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **kwargs or {})
        if operator in (torch.ops.aten.select_backward.default, torch.ops.aten.slice_backward.default):
            self.count += result.numel() >= self.least
        return result


def test_no_gradient_of_the_maps_of_all_clips_is_filled_for_each_clip():
    prediction = build().train()(clip())
    masks = [prediction.masks.select(i, torch.zeros(4, 1, dtype=torch.int64)) for i in range(2)]
    with Filled(least=2 * 3 * 16 * 24 * SMALL["hidden_dim"]) as filled:
        torch.cat(masks).sum().backward()
    assert filled.count == 0


@torch.no_grad()
def test_last_only_is_the_last():
    model, frames = build(), clip()
    every, last = model(frames), model(frames, last_only=True)
    torch.testing.assert_close(every_mask(last), every_mask(every)[-1:])
    torch.testing.assert_close(last.logits_LBQK, every.logits_LBQK[-1:])


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other():
    model, frames = build(), clip()
    both, second = model(frames), model(frames[1:])
    torch.testing.assert_close(every_mask(both)[:, 1:], every_mask(second), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_only_positions_give_the_order_of_frames(monkeypatch):
    model, frames, order = build(), clip(), [2, 0, 1]
    straight, shuffled = model(frames), model(frames[:, order])
    assert (every_mask(straight)[-1][:, :, order] - every_mask(shuffled)[-1]).abs().max() > 1e-3
    without_time = lambda t, h, w, c, device: grid_positions(h, w, c, device).expand(t, h, w, c)  # noqa: E731
    monkeypatch.setattr(decoder, "clip_positions", without_time)
    straight, shuffled = model(frames), model(frames[:, order])
    torch.testing.assert_close(every_mask(straight)[:, :, :, order], every_mask(shuffled), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(straight.logits_LBQK, shuffled.logits_LBQK, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_time_of_a_single_frame_changes_nothing(monkeypatch):
    model, frames = build(), clip(frames=1)
    timed = model(frames)
    monkeypatch.setattr(decoder, "clip_positions", lambda t, h, w, c, device: grid_positions(h, w, c, device)[None])
    assert_same(model(frames), timed)


@torch.no_grad()
def test_a_query_that_may_look_nowhere_looks_everywhere():
    model = build(decoder_layers=1)
    pixels = model.pixel_decoder(model.backbone(clip().flatten(0, 1)))
    learned = model.decoder.learned_queries(2)
    places = 3 * pixels.shapes[0][0] * pixels.shapes[0][1]

    def look(value: bool):
        attend = torch.full((2, 5, places), value)
        return model.decoder(pixels, decoder.Queries(learned.features_BQC, learned.positions_BQC, attend))

    assert_same(look(False), look(True))


def test_prompts_become_queries_and_learn():
    model = build(box_prompts=True).train()
    prediction = model(clip(), prompts=tubes())
    assert prediction.logits_LBQK.shape == (4, 2, 3, 4)
    assert every_mask(prediction).shape == (4, 2, 3, 3, 16, 24)
    every_mask(prediction).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.prompts.parameters())


@torch.no_grad()
def test_prompt_n_is_query_n():
    model, frames, prompts, order = build(box_prompts=True), clip(), tubes(), [2, 0, 1]
    straight = model(frames, prompts=prompts)
    shuffled = model(frames, prompts=BoxPrompts(prompts.boxes_BQT4[:, order], prompts.valid_BQ[:, order]))
    torch.testing.assert_close(every_mask(straight)[:, :, order], every_mask(shuffled), atol=1e-4, rtol=1e-4)
    assert (every_mask(straight)[:, :, 0] - every_mask(straight)[:, :, 1]).abs().max() > 1e-2


@torch.no_grad()
def test_a_prompt_looks_inside_its_box_and_ignores_absent_frames():
    model, frames, prompts = build(box_prompts=True), clip(), tubes()
    pixels = model.pixel_decoder(model.backbone(frames.flatten(0, 1)))
    queries = model.prompts(prompts, pixels, 64, 96)
    attend = queries.attend_BQS.view(2, 3, 3, 2, 3)
    assert attend[0, 0, 0].tolist() == [[True, True, False], [True, True, False]]
    assert not attend[0, 1, 0].any()
    assert attend[0, 1, 1].tolist() == [[False, True, True], [False, False, False]]
    # The whole frame's average is the plain average; a tube that is not valid pools nothing.
    whole = pixels.levels_NSC[-1].unflatten(0, (2, 3)).mean(dim=(1, 2))
    expected = model.prompts.embedding.weight + model.prompts.feature_projection(whole)
    everywhere = tubes()
    everywhere.boxes_BQT4[:] = torch.tensor([0.0, 0, 96, 64])
    pooled = model.prompts(everywhere, pixels, 64, 96).features_BQC
    torch.testing.assert_close(pooled, expected[:, None].expand(2, 3, -1), atol=1e-5, rtol=1e-4)
    empty = model(frames, prompts=BoxPrompts(everywhere.boxes_BQT4, torch.zeros(2, 3, dtype=torch.bool)))
    assert every_mask(empty).isfinite().all()


def test_overlap_is_exact():
    low, high = torch.tensor([5.0, -10.0, 31.0]), torch.tensor([20.0, 4.0, 32.0])
    expected = [[0.375, 1, 0.5, 0], [0.5, 0, 0, 0], [0, 0, 0, 0.125]]
    assert _overlap(low, high, 4, 32.0).tolist() == expected


@pytest.mark.parametrize(
    ("frames", "prompts", "message"),
    [
        (clip()[0], None, r"\[B, T, 3, H, W\] expected"),
        (clip()[:, :, :2], None, r"\[B, T, 3, H, W\] expected"),
        (clip(height=60), None, "multiples of 32 expected"),
        (clip(), tubes(frames=2), r"\[2, Q, 3, 4\] and \[2, Q\] expected"),
        (clip(), BoxPrompts(tubes().boxes_BQT4, torch.ones(2, 2, dtype=torch.bool)), r"\[2, Q, 3, 4\]"),
    ],
)
def test_malformed_input(frames, prompts, message):
    with pytest.raises(ValueError, match=message):
        build(box_prompts=True)(frames, prompts=prompts)


def test_prompts_need_a_model_with_prompts():
    with pytest.raises(ValueError, match="model.box_prompts"):
        build()(clip(), prompts=tubes())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_dim": 30}, "hidden_dim is 30; expected a multiple of the 4 heads, and of 4"),
        ({"num_heads": 3}, "hidden_dim is 32; expected a multiple of the 3 heads"),
        ({"num_heads": 0, "num_queries": 0}, "num_heads is 0; expected 1 to 8192\nnum_queries is 0; expected 1 to"),
        ({"decoder_layers": -1}, "decoder_layers is -1; expected 0 to 100"),
        ({"hidden_dim": 2**40}, "hidden_dim is 1099511627776; expected a multiple of the 4 heads, .* up to 8192"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 to below 1"),
    ],
)
def test_malformed_configuration(given, message):
    with pytest.raises(ConfigError, match=message):
        build(**given)
