"""SeqFormer in every command: training, resuming, prediction of long videos, labels, compilation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mfvis.cli import main
from mfvis.data.augment import pad_frames, resize_frames
from mfvis.data.rle import decode_mask
from mfvis.data.video import open_video, read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.model_factory import FinetunedModels
from mfvis.labeling.models import QuerySegmenter
from mfvis.labeling.run import label_video
from mfvis.labeling.window_inputs import prepare_window, select_clip
from mfvis.losses.config import MatchConfig
from mfvis.models.seqformer import SeqFormer
from mfvis.models.video_model import build_model
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import WindowFeatures, predict_video
from mfvis.predict.upsample import at_original_size
from mfvis.progress import Progress
from mfvis.train import checkpoint, replay
from mfvis.train.config import Config, ReplayConfig
from mfvis.train.engine import train
from mfvis.train.optim import make_optimizer
from mfvis.train.optim_config import OptimConfig
from mfvis.types import BoxPrompts
from test_label import HASTY
from test_train import assert_same_checkpoint, configure
from tiny import CATEGORIES, TINY

SEQFORMER = replace(TINY, name="seqformer")


def tiny_seqformer() -> SeqFormer:
    """Untrained, but with boxes that move, as the heads begin at zero."""
    torch.manual_seed(0)
    model = build_model(SEQFORMER, len(CATEGORIES))
    for head in model.decoder.box_heads:
        torch.nn.init.normal_(head[-1].weight, std=0.2)
    return model.eval()


def training(data: Path, out: Path, **changes: object) -> Config:
    config = configure(data, out)
    return replace(config, model=replace(config.model, name="seqformer"), train=replace(config.train, **changes))


# ---- training


@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_resume_equals_uninterrupted_bit_for_bit(amp: str, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(training(demo_data[0], whole, amp=amp))
    shutil.copytree(whole, halves, symlinks=True)
    shutil.rmtree(halves / "checkpoints" / "000006")
    (halves / "checkpoints" / "last").unlink()
    (halves / "checkpoints" / "last").symlink_to("000003")
    last = train(replace(training(demo_data[0], halves, amp=amp), resume=True))
    assert_same_checkpoint(last, whole / "checkpoints" / "000006")
    for record in map(json.loads, (whole / "log.jsonl").read_text().splitlines()):
        assert record["box_l1"] > 0 and record["box_giou"] > 0 and record["projection"] > 0
        assert record["mask_bce"] == record["mask_dice"] == 0


def test_optimizer_groups_are_the_published_ones() -> None:
    model = tiny_seqformer()
    optimizer = make_optimizer(model, OptimConfig(lr=1.0, backbone_lr_multiplier=0.2, sampling_lr_multiplier=0.1))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        slow = "sampling_offsets" in name or "reference_points" in name
        assert rate[id(parameter)] == (0.2 if name.startswith("backbone.") else 0.1 if slow else 1.0), name
    assert sum(value == 0.1 for value in rate.values()) == 2 * (SEQFORMER.encoder_layers + SEQFORMER.decoder_layers + 1)


def test_heads_begin_as_published() -> None:
    torch.manual_seed(0)
    decoder = build_model(SEQFORMER, 3).decoder
    for head in decoder.class_heads:
        assert torch.equal(head.weight, decoder.class_heads[0].weight)
        assert head.bias.sigmoid().tolist() == pytest.approx([0.01] * 3)
    assert [head[-1].bias.tolist() for head in decoder.box_heads] == [[0, 0, -2, -2], [0, 0, 0, 0]]
    dim = SEQFORMER.hidden_dim
    for projection in (decoder.layers[0].box_attention.q_proj, decoder.layers[1].instance_attention.v_proj):
        bound = (6 / (dim + 3 * dim)) ** 0.5  # queries, keys and values are one tensor there
        assert 0.9 * bound < projection.weight.abs().max() <= bound


@pytest.mark.slow
def test_train_predict_evaluate_and_label(demo_data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_json, val_json = map(str, demo_data)
    run, found, labels = (str(tmp_path / name) for name in ("run", "found", "labels"))
    flags = ["--preset", "test,seqformer-masks", "--model.name", "seqformer", "--data", train_json, "--out", run]
    assert main(["train", *flags, "--clip.frames", "2", "--loss.masks.dense"]) == 0
    assert all(json.loads(line)["mask_dice"] > 0 for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    model, categories, _ = checkpoint.load_model(run)
    assert isinstance(model, SeqFormer) and model.num_classes == len(categories)
    assert main(["predict", val_json, "--checkpoint", run, "--out", found, "--infer.short-side", "64"]) == 0
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert results and {result["category_id"] for result in results} <= {category.id for category in categories}
    assert main(["eval", f"{found}/results.json", "--data", val_json]) == 0
    assert "AP" in capsys.readouterr().out
    flags = ["--checkpoint", run, "--out", labels, "--optim.steps", "8", "--short-side", "64", "--no-overlays"]
    assert main(["label", val_json, *flags]) == 0
    annotations = json.loads((tmp_path / "labels" / Path(val_json).name).read_text())["annotations"]
    for annotation in annotations:
        masks = zip(annotation["segmentations"], annotation["bboxes"], strict=True)
        assert all((mask is None) == (box is None) for mask, box in masks)


def test_a_failing_batch_is_replayed(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    from mfvis.errors import TrainingError

    with pytest.raises(TrainingError, match="mfvis replay"):
        train(training(demo_data[0], tmp_path, lr=1e30, clip_norm=0.0, backbone_lr_multiplier=1.0))
    (kept,) = (tmp_path / "failed").iterdir()
    assert not torch.isfinite(replay.run(ReplayConfig(kept)).total)


# ---- prediction


@pytest.mark.parametrize("chunk", [1, 4])
def test_equals_the_plain_way_of_all_frames_at_once(chunk: int, six_images: Path) -> None:
    model, video = tiny_seqformer(), open_video(six_images)
    results = predict_video(model, video, CATEGORIES, InferConfig(short_side=45, max_tracks=4, chunk=chunk))
    frames = pad_frames(resize_frames(read_frames(video, range(6)), 45, 60), 64, 64)
    with torch.no_grad():
        prediction = model(frames[None], torch.tensor([[45, 60]]), last_only=True)
        scores_QK = prediction.logits_LBQK[-1, 0].sigmoid()
        best = sorted(((s.item(), q, k) for q, row in enumerate(scores_QK) for k, s in enumerate(row)), reverse=True)
        masks_QTHW = prediction.masks.all_queries(0, 0)
    assert len(results) == 4
    for result, (score, query, label) in zip(results, best, strict=False):
        assert result.score == pytest.approx(score, abs=1e-5) and result.category_id == CATEGORIES[label].id
        expected = at_original_size(masks_QTHW[query], (45, 60), (video.height, video.width)) > 0
        for t, rle in enumerate(result.segmentations):
            mask_HW = decode_mask(rle, video.height, video.width)
            assert (mask_HW != expected[t].numpy()).mean() < 0.002  # a logit of 0 but for rounding may fall either way


def test_windows_bound_the_memory_for_seqformer_too(six_images: Path) -> None:
    model, video = tiny_seqformer(), open_video(six_images)
    features = WindowFeatures(model, video, (60, 80), 2, Progress(visible=False))
    with torch.no_grad():
        whole = WindowFeatures(model, video, (60, 80), 4, Progress(visible=False)).move_to(range(6))
        for window in (range(4), range(2, 6)):
            for name, value in vars(features.move_to(window)).items():
                expected = getattr(whole, name)[window.start : window.stop]
                torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)
    results = predict_video(model, video, CATEGORIES, InferConfig(short_side=60, window=4, chunk=3))
    assert results and all(len(result.segmentations) == 6 for result in results)


def test_masks_of_some_frames_are_those_of_all() -> None:
    prediction = tiny_seqformer()(torch.randint(0, 256, (2, 4, 3, 64, 64)).byte())
    query_LM = torch.tensor([[3, 0], [1, 1]])
    part = prediction.masks.select(1, query_LM, slice(1, 3))
    torch.testing.assert_close(part, prediction.masks.select(1, query_LM)[:, :, 1:3])


@pytest.mark.parametrize(
    ("frames", "sizes", "prompts", "message"),
    [
        (torch.zeros(2, 3, 64, 64), None, None, r"\[B, T, 3, H, W\] expected"),
        (torch.zeros(1, 2, 1, 64, 64), None, None, r"\[B, T, 3, H, W\] expected"),
        (torch.zeros(1, 2, 3, 64, 64), torch.ones(2, 2), None, r"sizes_B2: shape \(2, 2\) given, \[1, 2\] expected"),
        (
            torch.zeros(1, 2, 3, 64, 64),
            None,
            BoxPrompts(torch.ones(1, 1, 2, 4), torch.ones(1, 1)),
            "SeqFormer makes no queries from boxes",
        ),
    ],
)
def test_malformed_input(frames, sizes, prompts, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_seqformer()(frames, sizes, prompts)


# ---- labels


def test_labels_start_from_a_seqformer(demo_data: tuple[Path, Path]) -> None:
    (video, *_) = load_dataset(demo_data[1]).videos
    model = build_model(replace(SEQFORMER, num_queries=2), len(CATEGORIES))
    assert len(video.tracks) >= 2
    config = LabelConfig(demo_data[1], short_side=64, clip=2, **HASTY)
    results = label_video(FinetunedModels(config, model, CATEGORIES), config, video)
    assert [result.track_id for result in results] == [track.id for track in video.tracks]
    for result, track in zip(results, video.tracks, strict=True):
        assert [rle is not None for rle in result.segmentations] == track.present_T.tolist()


def test_label_mode_gives_each_track_the_query_whose_boxes_are_nearest() -> None:
    model = tiny_seqformer()
    frames = torch.randint(0, 256, (3, 3, 64, 96), generator=torch.Generator().manual_seed(2)).byte()
    with torch.no_grad():
        boxes_TQ4 = model(frames[None], last_only=True).boxes_LBTQ4[0, 0]
    center, half = boxes_TQ4[..., :2], boxes_TQ4[..., 2:] / 2
    pixels = torch.cat([center - half, center + half], -1) * torch.tensor([96, 64, 96, 64])
    tracks_NT4 = pixels[:, [4, 1]].transpose(0, 1)
    view = prepare_window(model.backbone, frames, tracks_NT4, torch.tensor([0, 1]), (64, 96), 1)
    part, objects = select_clip(view, torch.arange(3))
    prediction, matched = QuerySegmenter(model, MatchConfig()).eval()(part, objects)
    assert prediction.boxes_LBTQ4.shape == (1, 1, 3, 5, 4) and matched.query_LN.tolist() == [[4, 1]]


# ---- compilation


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    model, frames = tiny_seqformer(), torch.randint(0, 256, (1, 2, 3, 64, 64)).byte()
    sizes = torch.tensor([[64, 48]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        ours, theirs = model(frames, sizes), compiled(frames, sizes)
    torch.testing.assert_close(ours.logits_LBQK, theirs.logits_LBQK, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.boxes_LBTQ4, theirs.boxes_LBTQ4, atol=1e-5, rtol=1e-4)
