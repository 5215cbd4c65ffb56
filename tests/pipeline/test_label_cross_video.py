"""Label mode's network of what the videos have in common: it sees boxes alike, and a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mfvis.data.rle import encode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.labeling import cross_video as shared
from mfvis.labeling import cross_video_training
from mfvis.labeling import run as label
from mfvis.labeling import video as video_module
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.cross_video import (
    Crops,
    CropSegmenter,
    concat,
    crop_windows,
    masks_in_crops,
    select_examples,
    train_crop_segmenter,
)
from mfvis.labeling.ensemble import ABSENT
from mfvis.labeling.window_inputs import WindowInputs, prepare_window
from mfvis.losses.background_propagation import inside_boxes
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig
from mfvis.types import TrackResult, Video
from tiny import tiny_label_config


def disc(seed: int) -> tuple[WindowInputs, torch.Tensor]:
    """A red disc over noise somewhere in two frames of 128 x 192, and where it is; no box in the third."""
    generator = torch.Generator().manual_seed(seed)
    frames_TCHW = torch.randint(0, 90, (3, 3, 128, 192), dtype=torch.uint8, generator=generator)
    radius = int(torch.randint(16, 40, (), generator=generator))
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(192) + 0.5, indexing="ij")
    boxes_T4, true_THW = torch.zeros(3, 4), torch.zeros(3, 128, 192, dtype=torch.bool)
    for t in range(2):
        cx, cy = 45 + float(torch.rand((), generator=generator)) * 100, 64.0
        boxes_T4[t] = torch.tensor([cx - radius, cy - radius, cx + radius, cy + radius])
        true_THW[t] = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
    frames_TCHW[:, 0][true_THW] = 230
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig("tiny", frozen=True)).train()
    return prepare_window(backbone, frames_TCHW, boxes_T4[None], torch.tensor([0]), (128, 192), 1), true_THW


def test_learns_what_fills_a_box_and_says_it_of_another_video(monkeypatch):
    monkeypatch.setattr(shared, "BATCH", 4)
    crops, masks = [], []
    for seed in range(6):
        view, true_THW = disc(seed)
        crops.append(crop_windows(view, 0, torch.tensor([0, 1])))
        video = Video(seed, "disc", width=192, height=128, length=3, frames=())
        rles = tuple(encode_mask(mask_HW.numpy()) for mask_HW in true_THW)
        result = TrackResult(seed, 0, 1.0, rles, view.boxes_NT4[0].numpy())
        masks.append(masks_in_crops(video, result, [0, 1]))
    reader = train_crop_segmenter(concat(crops), torch.cat(masks), steps=40, seed=0)
    view, true_THW = disc(99)
    logits_THW = reader.read(view)[0]
    inside_THW = inside_boxes(view.boxes_NT4 / 4, 32, 48)[0]
    found_THW = (logits_THW > 0) & inside_THW
    expected_THW = torch.nn.functional.avg_pool2d(true_THW.float(), 4) > 0.5
    assert (found_THW & expected_THW).sum() / (found_THW | expected_THW).sum() > 0.9  # a filled box has pi / 4
    assert (logits_THW[2] == ABSENT).all()
    assert logits_THW[:2].abs().max() == shared.MAX_LOGIT  # it overrules no confident model of a video


def test_a_mirrored_image_has_the_mirrored_logits():
    view, _ = disc(1)
    torch.manual_seed(0)
    reader = CropSegmenter([level.shape[1] for level in view.features]).eval()
    crops = crop_windows(view, 0, torch.tensor([0, 1]))
    both = Crops(
        tuple(torch.cat([a, b]) for a, b in zip(crops.levels, crops.mirrored().levels, strict=True)),
        torch.cat([crops.lab_MCHW, crops.mirrored().lab_MCHW]),
    )
    straight, mirrored = (reader(both) + reader(both.mirrored()).flip(-1)).chunk(2)
    torch.testing.assert_close(straight, mirrored.flip(-1))


def test_crops_lie_where_their_boxes_do():
    """A crop that is put back equals the original inside the box and on its margin."""
    y, x = torch.meshgrid(torch.arange(48) / 48, torch.arange(64) / 64, indexing="ij")
    smooth_HW = (x * 3).sin() + (y * 5).cos()
    boxes_M4 = torch.tensor([[0.2, 0.1, 0.7, 0.6], [0.4, 0.5, 0.9, 0.8]])
    cut = shared._cut_out(smooth_HW.expand(2, 1, 48, 64), boxes_M4, shared.SIDE)
    back_MHW = shared._put_back(cut[:, 0], boxes_M4, 48, 64)
    inside_MHW = inside_boxes(boxes_M4[:, None] * torch.tensor([64, 48, 64, 48]), 48, 64)[:, 0]
    torch.testing.assert_close(back_MHW[inside_MHW], smooth_HW.expand(2, 48, 64)[inside_MHW], atol=0.02, rtol=0)


def test_examples_are_spread_over_all_videos(demo_data, monkeypatch):
    videos = load_dataset(demo_data[0]).videos
    boxes = sum(int(track.present_T.sum()) for video in videos for track in video.tracks)
    for most in (boxes + 1, boxes, boxes // 3):
        monkeypatch.setattr(shared, "EXAMPLES", most)
        chosen = select_examples(videos)
        counts = [sum(map(len, frames.values())) for frames in chosen]
        assert most / 2 < sum(counts) <= most and all(counts)
        for video, frames in zip(videos, chosen, strict=True):
            assert all(video.tracks[n].present_T[t] for t, tracks in frames.items() for n in tracks)


@pytest.fixture
def config(demo_data, tmp_path: Path) -> LabelConfig:
    _, val = demo_data
    return tiny_label_config(val, tmp_path, given_masks=False, window=4)


def test_a_run_killed_while_it_looks_again_goes_on(config, monkeypatch, capsys):
    whole = json.loads(label.run(replace(config, out=config.out.with_name("whole"))).read_text())
    assert "cross-video network: trained on" in capsys.readouterr().out
    original, seen = label.label_video, []

    def killed(*rest, reader=None, **named):
        if reader and seen:
            raise KeyboardInterrupt
        seen.extend([reader] * bool(reader))
        return original(*rest, reader=reader, **named)

    monkeypatch.setattr(label, "label_video", killed)
    with pytest.raises(KeyboardInterrupt):
        label.run(config)
    monkeypatch.setattr(label, "label_video", original)
    with monkeypatch.context() as patched:
        patched.setattr(video_module, "fit", None)  # only the cross-video network is trained
        assert json.loads(label.run(config).read_text()) == whole
    with monkeypatch.context() as patched:
        patched.setattr(cross_video_training, "train_crop_segmenter", None)  # and not that either once all is done
        assert json.loads(label.run(config).read_text()) == whole
    separate = json.loads(label.run(replace(config, out=config.out / "separate", shared_steps=0)).read_text())
    assert separate["annotations"][0]["segmentations"] != whole["annotations"][0]["segmentations"]


def test_one_video_shares_nothing(config, tmp_path, capsys):
    content = json.loads(config.data.read_text())
    (kept, *_) = content["videos"]
    content["videos"] = [kept]
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] == kept["id"]]
    one = tmp_path / "one.json"
    one.write_text(json.dumps(content))
    frames = load_dataset(config.data).videos[0].frames[0].parents[1]
    label.run(replace(config, data=one, frames=frames))
    assert "cross-video network: trained" not in capsys.readouterr().out
    labeled = json.loads((config.out / "one.json").read_text())["annotations"]
    assert all(mask is not None for annotation in labeled for mask in annotation["segmentations"])
