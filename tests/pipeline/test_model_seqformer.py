"""SeqFormer against numbers of the original code, where they are at hand, and against its own symmetries."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from mfvis.losses.boxes import generalized_iou
from mfvis.losses.config import BoxConfig, LossConfig, MaskConfig, MatchConfig
from mfvis.losses.criterion import Criterion
from mfvis.losses.matcher import match
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.deformable_attention import Levels
from mfvis.models.dynamic_masks import DynamicMasks, num_parameters, upsample_aligned
from mfvis.models.seqformer import SeqFormer, inverse_sigmoid
from mfvis.models.seqformer_encoder import sine_positions
from mfvis.types import Batch, ClipOrigin
from mfvis.weights.seqformer_names import ALIAS, SEQFORMER, UNUSED
from safetensors.torch import load_file
from tiny import every_mask
from torch import Tensor
from transformers.models.deformable_detr import modeling_deformable_detr as deformable_detr

SHARED = Path(os.environ.get("MFVIS_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "seqformer"
needs_numbers = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the numbers of the original code are not at {SHARED}")
TINY = ModelConfig(
    backbone=BackboneConfig(name="tiny"),
    hidden_dim=32,
    num_heads=2,
    encoder_layers=1,
    encoder_ffn_dim=16,
    decoder_layers=2,
    decoder_ffn_dim=16,
    num_queries=5,
    points=2,
)


def original() -> SeqFormer:
    """The original's tiny model; its backbone is never run."""
    sizes = json.loads((SHARED / "config.json").read_text())
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny"),
        hidden_dim=sizes["hidden_dim"],
        num_heads=sizes["heads"],
        encoder_layers=sizes["encoder_layers"],
        encoder_ffn_dim=sizes["ffn_dim"],
        decoder_layers=sizes["decoder_layers"],
        decoder_ffn_dim=sizes["ffn_dim"],
        num_queries=sizes["queries"],
        points=sizes["points"],
    )

    class NoBackbone(torch.nn.Module):
        channels = (16, *sizes["channels"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mfvis.models.seqformer.Backbone", lambda *_: NoBackbone())
        model = SeqFormer(config, sizes["classes"])
    unused = re.compile(f"{UNUSED}|{re.escape(ALIAS)}.*")
    weights = load_file(SHARED / "weights.safetensors")
    converted, unknown = SEQFORMER.from_foreign({k: v for k, v in weights.items() if not unused.fullmatch(k)})
    assert not unknown
    model.load_state_dict(converted)
    return model.eval()


def features_of(numbers: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return (torch.empty(0), *(numbers[f"in.features{stride}"] for stride in (8, 16, 32)))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * max(1, theirs.abs().max())


@needs_numbers
@pytest.mark.parametrize("name", ["infer_plain", "infer_padded", "infer_odd", "infer_one_frame"])
def test_outputs_equal_those_of_the_original(name: str) -> None:
    if not (SHARED / f"{name}.safetensors").is_file():
        pytest.skip(f"{name} is not at hand")
    numbers, model = load_file(SHARED / f"{name}.safetensors"), original()
    padding = numbers["in.padding"]
    frames = torch.zeros(len(padding), 3, *padding.shape[1:])
    with torch.no_grad():
        encoded = model.encode(
            frames, numbers["in.size"].long().view(1, 2).expand(len(padding), 2), features_of(numbers)
        )
        prediction = model.decode(encoded, 1)
    close(prediction.logits_LBQK, numbers["out.logits"])
    close(prediction.boxes_LBTQ4, numbers["out.boxes"])
    close(prediction.masks.centers_LBTQ2, numbers["out.mask_reference"])
    close(every_mask(prediction), numbers["out.masks"])


def training_batch(numbers: dict[str, Tensor]) -> Batch:
    boxes, masks, labels, sizes, index = [], [], [], [], []
    height, width = numbers["in.padding"].shape[-2:]
    for clip in range(2):
        of = {key: numbers[f"in.clip{clip}.{key}"] for key in ("boxes", "masks", "labels", "size")}
        h, w = (int(side) for side in of["size"])
        center, half = of["boxes"][..., :2], of["boxes"][..., 2:] / 2
        box = torch.cat([center - half, center + half], -1) * torch.tensor([w, h, w, h])
        boxes.append(torch.where(of["boxes"][..., 2:3] > 1e-5, box, 0.0))
        mask = of["masks"].bool()
        masks.append(torch.nn.functional.pad(mask, (0, width - mask.shape[-1], 0, height - mask.shape[-2])))
        labels.append(of["labels"])
        sizes.append([h, w])
        index += [clip] * len(of["labels"])
    frames = boxes[0].shape[1]
    return Batch(
        frames_BTCHW=torch.zeros(2, frames, 3, height, width, dtype=torch.uint8),
        boxes_NT4=torch.cat(boxes),
        labels_N=torch.cat(labels).long(),
        video_index_N=torch.tensor(index),
        masks_NTHW=torch.cat(masks),
        sizes_B2=torch.tensor(sizes),
        clips=tuple(ClipOrigin(n, tuple(range(frames)), tuple(range(len(labels[n])))) for n in range(2)),
    )


@needs_numbers
def test_assignments_losses_and_gradients_equal_those_of_the_original() -> None:
    numbers, model = load_file(SHARED / "train.safetensors"), original()
    batch = training_batch(numbers)
    boxes = BoxConfig(l1=5, giou=2, absent_as_corner=True)
    config = LossConfig(
        classification=2,
        boxes=boxes,
        masks=MaskConfig(bce=2, dice=5, dense=True),
        match=MatchConfig(classification=2, boxes=boxes),
    )
    frames = batch.frames_BTCHW.flatten(0, 1)
    sizes = batch.sizes_B2.repeat_interleave(batch.frames_BTCHW.shape[1], 0)
    prediction = model.decode(model.encode(frames, sizes, features_of(numbers)), 2)
    matched = match(prediction, batch, batch.boxes_NT4 / 4, config.match, with_masks=True)
    for layer in range(3):
        for clip, objects in enumerate(batch.objects_of_clips):
            query, instance = (numbers[f"out.layer{layer}.clip{clip}.{key}"] for key in ("query", "instance"))
            ours = matched.query_LN[layer, objects]
            assert dict(zip(instance.tolist(), query.tolist(), strict=True)) == dict(enumerate(ours.tolist()))
    terms = Criterion(config, model.num_classes, with_masks=True)(prediction, batch, 0)
    names = {"classification": ("ce", 2), "box_l1": ("bbox", 5), "box_giou": ("giou", 2)}
    names |= {"mask_bce": ("mask", 2), "mask_dice": ("dice", 5)}
    for ours, (theirs, weight) in names.items():
        expected = sum(numbers[f"loss.loss_{theirs}{ending}"] for ending in ("", "_0", "_1"))
        assert terms.by_name[ours].item() / weight == pytest.approx(expected.item(), rel=1e-5)
    assert terms.total.item() == pytest.approx(numbers["loss.total"].item(), rel=1e-5)
    terms.total.backward()
    state = {k: v for k, v in numbers.items() if k.startswith("grad_norm.") and ALIAS not in k}
    # The queries, keys and values of one attention are one tensor there.
    for name, norm in state.items():
        theirs = name.removeprefix("grad_norm.")
        if re.fullmatch(UNUSED, theirs):
            continue
        ours, _ = SEQFORMER.from_foreign({theirs: torch.zeros(3)})
        gradients = [model.get_parameter(parameter).grad for parameter in ours]
        assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(
            norm.item(), rel=1e-3, abs=1e-7
        )


# ---- symmetries


@pytest.fixture(scope="module")
def model() -> SeqFormer:
    torch.manual_seed(0)
    model = SeqFormer(TINY, 3).eval()
    # They begin at zero, where no box would move and no position would count.
    attentions = [layer.attention for layer in model.encoder.layers] + [
        layer.sampling for layer in model.decoder.layers
    ]
    starts = [head[-1] for head in model.decoder.box_heads] + [a.sampling_offsets for a in attentions]
    for linear in starts + [a.attention_weights for a in attentions]:
        torch.nn.init.normal_(linear.weight, std=0.2)
    return model


def clip(frames: int = 3, height: int = 64, width: int = 96) -> Tensor:
    return torch.randint(0, 256, (1, frames, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


def test_shapes_and_that_every_parameter_learns(model: SeqFormer) -> None:
    frames = torch.cat([clip(), clip().flip(1)])
    prediction = model(frames)
    assert prediction.logits_LBQK.shape == (2, 2, 5, 3) and prediction.boxes_LBTQ4.shape == (2, 2, 3, 5, 4)
    masks = every_mask(prediction)
    assert masks.shape == (2, 2, 5, 3, 16, 24)
    chosen = prediction.masks.select(1, torch.tensor([[4, 0], [2, 2]]))
    torch.testing.assert_close(chosen, torch.stack([masks[0, 1, [4, 0]], masks[1, 1, [2, 2]]]))
    (prediction.logits_LBQK.square().sum() + prediction.boxes_LBTQ4.sum() + masks.square().mean()).backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == [], "no parameter without a gradient"
    model.zero_grad()


@torch.no_grad()
def test_permuted_frames_permute_the_outputs(model: SeqFormer) -> None:
    order = [2, 0, 1]
    straight, shuffled = model(clip()), model(clip()[:, order])
    torch.testing.assert_close(straight.logits_LBQK, shuffled.logits_LBQK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(straight.boxes_LBTQ4[:, :, order], shuffled.boxes_LBTQ4, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(every_mask(straight)[:, :, :, order], every_mask(shuffled), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_copies_of_a_frame_are_one_frame(model: SeqFormer) -> None:
    one, three = model(clip(1)), model(clip(1).expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(one.logits_LBQK, three.logits_LBQK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.boxes_LBTQ4.expand_as(three.boxes_LBTQ4), three.boxes_LBTQ4, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_values_in_the_padding_are_never_sampled(model: SeqFormer) -> None:
    layer, tokens = model.encoder.layers[0], torch.randn(1, 4, 32)
    padding = torch.tensor([[False, False, True, True]])
    levels, reference = Levels.of(((1, 1),) * 4, tokens.device), torch.full((1, 4, 4, 2), 0.5)
    other = torch.where(padding[..., None], 100.0, tokens)
    straight, again = (layer(x, torch.zeros_like(x), reference, levels, padding) for x in (tokens, other))
    assert torch.equal(straight[:, :2], again[:, :2]) and not torch.equal(straight, again)


@torch.no_grad()
def test_a_video_is_decoded_exactly_in_chunks(model: SeqFormer) -> None:
    frames = clip(5).flatten(0, 1)
    whole = model.encode(frames)
    parts = [model.encode(frames[:2]), model.encode(frames[2:3]), model.encode(frames[3:])]
    joined = type(whole)(*(torch.cat([getattr(p, name) for p in parts]) for name in vars(whole)))
    one, other = model.decode(whole, 1, last_only=True), model.decode(joined, 1, last_only=True)
    torch.testing.assert_close(one.logits_LBQK, other.logits_LBQK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(every_mask(one), every_mask(other), atol=1e-4, rtol=1e-4)


def test_dynamic_masks_are_a_network_for_every_query() -> None:
    """Against three 1x1 convolutions whose weights are written out, weights before biases."""
    torch.manual_seed(0)
    parameters = torch.randn(1, 1, 2, num_parameters(3))
    centers, features = torch.rand(1, 1, 2, 2, 2) * 40, torch.randn(1, 2, 3, 4, 5)
    found = DynamicMasks(parameters, centers, features.unbind()).all_queries(0, 0)
    y, x = torch.meshgrid(torch.arange(4) * 8 + 4.0, torch.arange(5) * 8 + 4.0, indexing="ij")
    for query in range(2):
        w0, w1, w2, b0, b1, b2 = parameters[0, 0, query].split([40, 64, 8, 8, 8, 1])
        for t in range(2):
            offset = centers[0, 0, t, query][:, None, None] - torch.stack([x, y])
            z = torch.cat([offset, features[0, t]])[None]
            z = torch.relu(torch.nn.functional.conv2d(z, w0.view(8, 5, 1, 1), b0))
            z = torch.relu(torch.nn.functional.conv2d(z, w1.view(8, 8, 1, 1), b1))
            z = torch.nn.functional.conv2d(z, w2.view(1, 8, 1, 1), b2)
            expected = upsample_aligned(upsample_aligned(z[0, 0], 0), 1)
            torch.testing.assert_close(found[query, t], expected, atol=1e-3, rtol=1e-4)


def test_aligned_upsampling_interpolates_at_half_of_the_output_minus_one() -> None:
    x = torch.tensor([1.0, 3.0, 11.0])
    assert upsample_aligned(x, 0).tolist() == [1, 1, 2, 3, 7, 11]


def test_generalized_iou_by_hand() -> None:
    a, b = torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([2.5, 0.5, 1.0, 1.0])
    assert generalized_iou(a, a).item() == pytest.approx(1)
    assert generalized_iou(a, b).item() == pytest.approx(-1 / 3)


# ---- transformers' Deformable DETR; its encoder and decoder are compared where its weights are converted


def test_sine_positions_and_inverse_sigmoid_are_those_of_transformers() -> None:
    padding = torch.zeros(2, 5, 7, dtype=torch.bool)
    padding[1, 3:], padding[1, :, 4:] = True, True
    theirs = deformable_detr.DeformableDetrSinePositionEmbedding(8, normalize=True)
    expected = theirs((2, 16, 5, 7), torch.device("cpu"), torch.float32, mask=~padding)
    assert torch.equal(sine_positions(padding, 16), expected.permute(0, 2, 3, 1))
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.3, 1.0, 2.0])
    assert torch.equal(inverse_sigmoid(x), deformable_detr.inverse_sigmoid(x))
