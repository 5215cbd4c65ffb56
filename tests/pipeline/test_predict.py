"""Prediction over whole videos: what is chosen, at which size, and what the command writes."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mfvis.data.augment import pad_frames, resize_frames
from mfvis.data.config import ClipConfig
from mfvis.data.images import write_image
from mfvis.data.rle import decode_mask, mask_box
from mfvis.data.video import open_video, read_frames, video_writer
from mfvis.errors import CheckpointError, ConfigError, DataError, VideoError
from mfvis.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from mfvis.models.mask2former import VideoMask2Former
from mfvis.predict import run as predict
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import predict_video, sized_as_trained
from mfvis.predict.upsample import encode_tubes
from mfvis.train.config import Config
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


def test_frames_are_padded_with_what_normalizes_to_nothing():
    """As in Mask2Former, which pads after normalizing: black would be a thing that the model may take for an object."""
    frames = torch.randint(0, 256, (2, 3, 45, 63), dtype=torch.uint8)
    padded = pad_frames(frames, 64, 64)
    assert torch.equal(padded[..., :45, :63], frames)
    normalized = (padded - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert normalized[:, :, 45:].abs().max() < 0.01
    assert normalized[..., 63:].abs().max() < 0.01


def test_the_model_sees_frames_padded_so(model, video_file):
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    video = open_video(video_file)
    predict_video(model, video, CATEGORIES, InferConfig(short_side=45))
    frames = resize_frames(read_frames(video, range(video.length)), 45, 63)
    assert torch.equal(torch.cat(seen), pad_frames(frames, 64, 64))


def test_the_chunk_does_not_change_the_result(model, video_file):
    model = model.double()  # in float32, rounding flips pixels whose logit is next to nothing
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
    masks_MTHW[0, 0, 2:6, 4:8] = 5.0  # 16 pixels a side of a 32x64 padded frame, of which 30x60 are image
    (full, full_boxes), (empty, empty_boxes) = encode_tubes(masks_MTHW, (30, 60), (60, 120))
    assert full_boxes[0].tolist() == [32, 16, 64, 48]
    assert full[1] is None
    assert empty == (None, None)
    assert not empty_boxes.any()
    assert full[0]["size"] == [60, 120]


def test_the_command_writes_results_tracks_and_an_overlay(model, video_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "load_model", lambda path, device: (model, CATEGORIES, TRAINED))
    out = tmp_path / "out"
    config = predict.PredictConfig((str(video_file),), Path("any"), out, min_score=0.0, device="cpu")
    predict.run(config)
    results = json.loads((out / "results.json").read_text())
    assert json.loads((out / "categories.json").read_text()) == [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
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

    predict.run(replace(config, min_score=1.0))
    best = max(result["score"] for result in results)
    reason = f"0 tracks: the best of 10 candidates scores {best:.3f}, --min-score is 1\n"
    assert reason in capsys.readouterr().out
    assert json.loads((out / "tracks.json").read_text())[0]["tracks"] == []


def test_frames_are_sized_as_in_training_by_default():
    assert sized_as_trained(InferConfig(), TRAINED.clip).short_side == 32
    assert sized_as_trained(InferConfig(short_side=64), TRAINED.clip).short_side == 64


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1])
def test_scores_are_probabilities(score):
    with pytest.raises(ConfigError, match=f"min_score is {score}; expected 0 to 1"):
        predict.PredictConfig(("film.mp4",), Path("run"), min_score=score)


@pytest.mark.parametrize("name", ["short_side", "max_side", "max_tracks", "chunk"])
def test_sizes_are_positive(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; expected 1 or more"):
        InferConfig(**{name: 0})


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three folders of two frames each."""
    random = np.random.default_rng(1)
    for name in "abc":
        for t in range(2):
            write_image(tmp_path / name / f"{t}.jpg", random.integers(0, 255, (40, 56, 3), dtype=np.uint8))
    return [tmp_path / name for name in "abc"]


@pytest.fixture
def config(model, folders, tmp_path, monkeypatch) -> predict.PredictConfig:
    monkeypatch.setattr(predict, "load_model", lambda path, device: (model, CATEGORIES, TRAINED))
    return predict.PredictConfig(tuple(map(str, folders)), Path("any"), tmp_path / "out", device="cpu", min_score=0.0)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `predict_video` end the process in its call number `count`."""
    original, calls = predict.predict_video, []

    def stub(*given):
        calls.append(given)
        if len(calls) > count:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(predict, "predict_video", stub)


def test_a_killed_run_resumes_bit_for_bit(config, monkeypatch, capsys):
    plans, left = [], []

    class Watched(predict.Progress):
        def plan(self, ahead):
            plans.append({kind: amount for kind, amount in ahead.items() if amount})
            super().plan(ahead)

        def __exit__(self, *error):
            left.append(sum(self.ahead.values()))
            super().__exit__(*error)

    monkeypatch.setattr(predict, "Progress", Watched)
    whole = replace(config, out=config.out.with_name("whole"))
    predict.run(whole)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        killed_after(2, patched)
        predict.run(config)
    assert not (config.out / "results.json").exists()
    capsys.readouterr()
    with monkeypatch.context() as patched:
        killed_after(1, patched)  # no more than the third is left to do
        predict.run(config)
    assert capsys.readouterr().out.count("from an earlier run") == 2
    # The progress of a whole run counts all frames, that of the resumed one only what was left.
    assert left[0] == left[2] == 0 and left[1] > 0
    assert set(plans[0]) == {"check of the frames", "features", "masks", "overlays"} == set(plans[2])
    assert plans[0] == plans[1]
    assert plans[2]["features"] == plans[2]["masks"] == left[1] / 3 < plans[0]["features"]
    results, expected = files(config.out), files(whole.out)
    assert results == expected and {"results.json", "results.zip", "tracks.json", "a.mp4", "b.mp4"} < set(results)


def test_videos_of_several_sources_have_ids_of_their_own(config, folders, tmp_path, capsys):
    record = {"width": 56, "height": 40, "length": 2, "file_names": ["a/0.jpg", "a/1.jpg"], "name": "in a file"}
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"videos": [{"id": 2} | record, {"id": 9} | record], "categories": []}))
    config = replace(config, sources=(str(folders[0]), str(data), str(folders[2])), overlays=False)
    predict.run(config)
    tracks = json.loads((config.out / "tracks.json").read_text())
    assert [entry["video_id"] for entry in tracks] == [1, 2, 9, 3]
    results = json.loads((config.out / "results.json").read_text())
    by_video = {id: [r["score"] for r in results if r["video_id"] == id] for id in (1, 2, 9, 3)}
    assert by_video[1] == by_video[2] == by_video[9] != by_video[3]
    assert sorted(path.name for path in config.out.iterdir()) == [
        "categories.json",
        "parts",
        "results.json",
        "results.zip",
        "tracks.json",
    ]
    assert "wrote results.json, results.zip, categories.json, tracks.json to" in capsys.readouterr().out


def test_data_sets_that_share_ids_are_refused(config, tmp_path):
    for name in "xy":
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"videos": [{"id": 7, "width": 56, "height": 40, "file_names": ["a/0.jpg"]}], "categories": []})
        )
    with pytest.raises(ConfigError, match="1 video ids in common, such as 7"):
        predict.run(replace(config, sources=(str(tmp_path / "x.json"), str(tmp_path / "y.json"))))


def test_what_changed_is_predicted_again_and_nothing_else(config, folders, monkeypatch, capsys, model):
    predict.run(config)

    def predicted(config: predict.PredictConfig) -> list[str]:
        """The videos that a run has to look at."""
        original, seen = predict.predict_video, []
        with monkeypatch.context() as patched:
            patched.setattr(
                predict, "predict_video", lambda m, video, *rest: seen.append(video.name) or original(m, video, *rest)
            )
            predict.run(config)
        return seen

    assert predicted(config) == []
    assert predicted(replace(config, min_score=0.9, overlays=False)) == []
    assert predicted(replace(config, sources=config.sources[::-1])) == [], "whatever the order"
    moved = folders[0].rename(folders[0].with_name("moved"))
    assert predicted(replace(config, sources=(str(moved), *config.sources[1:]))) == [], "wherever the frames lie"
    (moved / "0.jpg").write_bytes((moved / "1.jpg").read_bytes())
    assert predicted(replace(config, sources=(str(moved), *config.sources[1:]))) == ["moved"]
    config = replace(config, sources=config.sources[1:])
    assert predicted(replace(config, infer=InferConfig(max_tracks=3))) == ["b", "c"]
    with torch.no_grad():
        model.decoder.query_features.weight += 0.01
    assert predicted(config) == ["b", "c"], "other weights under the same name"
    assert len(list((config.out / "parts").iterdir())) == 2, "results that nothing uses any more are removed"


def test_an_overlay_is_drawn_where_it_is_missing_or_of_another_score(config, monkeypatch):
    config = replace(config, sources=config.sources[:1])
    drawn, original = [], predict.write_overlay
    monkeypatch.setattr(predict, "write_overlay", lambda path, *rest: drawn.append(path.name) or original(path, *rest))
    for change, expected in (
        ({"overlays": False}, []),
        ({}, ["a.mp4"]),
        ({}, []),
        ({"min_score": 0.5}, ["a.mp4"]),
        ({"min_score": 0.5}, []),
    ):
        predict.run(replace(config, **change))
        assert drawn == expected
        drawn.clear()
    (config.out / "a.mp4").unlink()
    predict.run(replace(config, min_score=0.5))
    assert drawn == ["a.mp4"] and (config.out / "a.mp4").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"made_from": {}, "content": 1}', "flip", "other"])
def test_a_damaged_part_is_made_again(damage, config, capsys):
    predict.run(config)
    expected = files(config.out)
    first, second, _ = sorted((config.out / "parts").iterdir())
    if damage == "flip":
        first.write_text(first.read_text().replace('"score":0.', '"score":1.', 1))
    else:
        first.write_text(second.read_text() if damage == "other" else damage)
    capsys.readouterr()
    predict.run(config)
    said = capsys.readouterr().out
    assert said.count("from an earlier run") == 2 and said.count("it is predicted again") == 1
    assert files(config.out) == expected


def test_frames_are_checked_before_anything_is_predicted(config, folders):
    (folders[1] / "1.jpg").write_bytes(b"no image")
    (folders[2] / "0.jpg").write_bytes(b"nor this")
    config = replace(config, sources=(str(folders[0]), str(folders[1])))
    with pytest.raises(DataError) as raised:
        predict.run(config)
    assert [problem.file for problem in raised.value.problems] == [str(folders[1] / "1.jpg")]
    assert not config.out.exists()


def test_frames_that_change_meanwhile_are_noticed(config, folders, monkeypatch):
    original = predict.predict_video

    def replaced(*given):
        results = original(*given)
        (folders[0] / "0.jpg").write_bytes((folders[1] / "0.jpg").read_bytes())
        return results

    monkeypatch.setattr(predict, "predict_video", replaced)
    with pytest.raises(VideoError, match="video a: its frames changed while"):
        predict.run(config)
    assert not list(config.out.glob("parts/*"))


@pytest.mark.parametrize("part", ["decoder.query_features.weight", "decoder.class_head.bias", "backbone"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_predictions_that_are_not_finite_are_one_error(part, value, config, model):
    for name, parameter in model.named_parameters():
        if name.startswith(part):
            parameter.data.flatten()[:1] = value
    try:
        predict.run(config)
        assert value == 1e38, "NaN and infinity come through"
    except CheckpointError as error:
        assert "video a, frames 0 to 1: the model predicts NaN or infinity" in str(error)


def test_a_pipe_is_not_waited_for(config, tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    for source in (str(tmp_path / "film.mp4"), "/dev/zero"):
        with pytest.raises(ConfigError, match="is a pipe or a device"):
            predict.run(replace(config, sources=(source,)))
