"""Prediction over whole videos: what is chosen, at which size, and what the command writes."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mfvis.config import Config
from mfvis.data.augment import pad_frames, resize_frames
from mfvis.data.clips import ClipConfig
from mfvis.data.rle import decode_mask, mask_box
from mfvis.data.video import open_video, read_frames, video_writer
from mfvis.errors import ConfigError
from mfvis.infer import predictor
from mfvis.infer.full_size import encode_tubes
from mfvis.infer.predictor import InferConfig, predict_video
from mfvis.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from mfvis.models.mask2former import VideoMask2Former
from tiny import CATEGORIES, TINY, every_mask, tiny_model

TRAINED = Config(("train.json",), model=TINY, clip=ClipConfig(short_sides=(48, 32)))


@pytest.fixture
def model() -> VideoMask2Former:
    return tiny_model()


@pytest.fixture
def video_file(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "moving.mp4"
    with video_writer(path, 10, (50, 70)) as write:
        background = random.integers(0, 255, (50, 70, 3), dtype=np.uint8)
        for t in range(11):
            frame = background.copy()
            frame[10:30, 5 + 3 * t : 25 + 3 * t] = (250, 20, 20)
            write(frame)
    return path


def test_equals_the_plain_way_that_enlarges_every_mask_first(model, video_file):
    video = open_video(video_file)
    results = predict_video(model, video, CATEGORIES, InferConfig(short_side=45, max_tracks=4, chunk=3))

    frames = resize_frames(read_frames(video, range(video.length)), 45, 63)
    with torch.no_grad():
        prediction = model(pad_frames(frames, 64, 64)[None])
    logits = F.interpolate(every_mask(prediction)[-1, 0], scale_factor=4, mode="bilinear", align_corners=False)
    masks_QTHW = F.interpolate(logits[..., :45, :63], (50, 70), mode="bilinear", align_corners=False) > 0
    scores_QK = prediction.logits_LBQK[-1, 0].softmax(-1)[:, :2]
    best = sorted(((s.item(), q, k) for q, row in enumerate(scores_QK) for k, s in enumerate(row)), reverse=True)
    assert len(results) == 4
    for result, (score, query, label) in zip(results, best, strict=False):
        assert result.score == pytest.approx(score, abs=1e-5)
        assert result.category_id == CATEGORIES[label].id
        for t, rle in enumerate(result.segmentations):
            mask_HW = decode_mask(rle, 50, 70)
            # A pixel whose logit is 0 but for rounding may fall either way.
            assert (mask_HW != masks_QTHW[query, t].numpy()).mean() < 0.002
            np.testing.assert_array_equal(result.boxes_T4[t], mask_box(mask_HW))
            assert (rle is None) == (not mask_HW.any())


def test_frames_are_padded_with_what_normalises_to_nothing():
    """As in Mask2Former, which pads after normalising: black would be a thing that the model may take for an object."""
    frames = torch.randint(0, 256, (2, 3, 45, 63), dtype=torch.uint8)
    padded = pad_frames(frames, 64, 64)
    assert torch.equal(padded[..., :45, :63], frames)
    normalised = (padded - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert normalised[:, :, 45:].abs().max() < 0.01
    assert normalised[..., 63:].abs().max() < 0.01


def test_the_model_sees_frames_padded_so(model, video_file):
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    video = open_video(video_file)
    predict_video(model, video, CATEGORIES, InferConfig(short_side=45))
    frames = resize_frames(read_frames(video, range(video.length)), 45, 63)
    assert torch.equal(torch.cat(seen), pad_frames(frames, 64, 64))


def test_the_chunk_does_not_change_the_result(model, video_file):
    video = open_video(video_file)
    one, all_at_once = (
        predict_video(model, video, CATEGORIES, InferConfig(short_side=32, chunk=chunk)) for chunk in (1, 99)
    )
    assert [result.category_id for result in one] == [result.category_id for result in all_at_once]
    for a, b in zip(one, all_at_once, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-5)
        np.testing.assert_allclose(a.boxes_T4, b.boxes_T4, atol=1)  # where a logit is next to nothing, a pixel flips


def test_no_more_tracks_than_pairs_of_query_and_class(model, video_file):
    assert (
        len(predict_video(model, open_video(video_file), CATEGORIES, InferConfig(short_side=32, max_tracks=99))) == 10
    )


def test_masks_come_out_where_their_logits_are():
    masks_MTHW = torch.full((2, 2, 8, 16), -5.0)
    masks_MTHW[0, 0, 2:6, 4:8] = 5.0  # 16 pixels a side of a 32x64 padded frame, of which 30x60 are picture
    (full, full_boxes), (empty, empty_boxes) = encode_tubes(masks_MTHW, (30, 60), (60, 120))
    assert full_boxes[0].tolist() == [32, 16, 64, 48]
    assert full[1] is None
    assert empty == (None, None)
    assert not empty_boxes.any()
    assert full[0]["size"] == [60, 120]


def test_the_command_writes_results_tracks_and_an_overlay(model, video_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predictor, "load_model", lambda path, device: (model, CATEGORIES, TRAINED))
    out = tmp_path / "out"
    config = predictor.PredictConfig(str(video_file), Path("any"), out, 0.0, "cpu")
    predictor.run(config)
    results = json.loads((out / "results.json").read_text())
    tracks = json.loads((out / "tracks.json").read_text())
    with zipfile.ZipFile(out / "results.zip") as archive:
        assert archive.namelist() == ["results.json"]
        assert json.loads(archive.read("results.json")) == results
    assert len(results) == 10
    assert all(len(result["segmentations"]) == 11 for result in results)
    assert {result["category_id"] for result in results} <= {3, 8}
    assert tracks[0]["video"] == "moving"
    assert {track["class"] for track in tracks[0]["tracks"]} <= {"cat", "dog"}
    written = open_video(out / "moving.mp4")
    assert (written.length, written.height, written.width) == (11, 50, 70)

    assert "11 frames, 10 tracks\n" in capsys.readouterr().out

    predictor.run(replace(config, min_score=1.0))
    best = max(result["score"] for result in results)
    reason = f"0 tracks: the best of 10 candidates scores {best:.3f}, --min-score is 1\n"
    assert reason in capsys.readouterr().out
    assert json.loads((out / "tracks.json").read_text())[0]["tracks"] == []


def test_frames_are_sized_as_in_training_unless_told_otherwise():
    assert predictor.sized_as_trained(InferConfig(), TRAINED.clip).short_side == 32
    assert predictor.sized_as_trained(InferConfig(short_side=64), TRAINED.clip).short_side == 64


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1])
def test_scores_are_probabilities(score):
    with pytest.raises(ConfigError, match=f"min_score is {score}; expected 0 to 1"):
        predictor.PredictConfig("film.mp4", Path("run"), min_score=score)


@pytest.mark.parametrize("name", ["short_side", "max_side", "max_tracks", "chunk"])
def test_sizes_are_positive(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; expected 1 or more"):
        InferConfig(**{name: 0})
