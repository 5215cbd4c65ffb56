"""Label mode: every box gets a mask inside it, and a run that was killed goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mfvis.data.augment import pad_frames
from mfvis.data.rle import decode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError, DataError, VideoError
from mfvis.labeling import run as label
from mfvis.labeling import video as video_module
from mfvis.labeling.config import LabelConfig, LabelLossConfig, RefineConfig
from mfvis.labeling.ensemble import ABSENT, average_consistent_models, resolve_overlaps
from mfvis.labeling.fit import fit, segment
from mfvis.labeling.model_factory import FinetunedModels
from mfvis.labeling.models import PerTrackSegmenter, downsample_to_grid
from mfvis.labeling.refine import _scale, _surroundings, refine
from mfvis.labeling.window_inputs import add_propagated_background, prepare_window, select_clip
from mfvis.losses.background_propagation import camera_motion, inside_boxes, propagated_background, ring_around
from mfvis.losses.negatives import negatives_loss
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import parse
from mfvis.predict.assignment import assign_tubes
from mfvis.predict.upsample import at_original_size
from mfvis.train.optim_config import OptimConfig
from tiny import TINY

import mfvis_ext

BACKBONE = BackboneConfig(name="tiny")
HASTY = {
    "overlays": False,
    "optim": OptimConfig(steps=1),
    "propagation": BackgroundPropagationConfig(weight=0),
    "refine": RefineConfig(steps=0),
}
"""Settings for runs whose masks are not checked."""
MASK2FORMER = replace(TINY, decoder_layers=1, num_queries=8, box_prompts=True)


@pytest.fixture
def boxes_only(demo_data, tmp_path: Path) -> Path:
    """The two validation videos without masks, with a gap in a track and fields of the user's own."""
    _, val = demo_data
    content = json.loads(val.read_text())
    content["info"] = {"made by": "a test"}
    for annotation in content["annotations"]:
        del annotation["segmentations"], annotation["areas"]
        annotation["note"] = "keep me"
    content["annotations"][0]["bboxes"][2] = None
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def config(boxes_only: Path, demo_data, tmp_path: Path) -> LabelConfig:
    frames = load_dataset(demo_data[1]).videos[0].frames[0].parents[1]
    return LabelConfig(
        boxes_only,
        out=tmp_path / "labels",
        frames=frames,
        device="cpu",
        short_side=64,
        clip=2,
        num_models=1,
        shared_steps=0,
        window=4,  # shorter than the videos of six frames: two windows each
        backbone=BACKBONE,
        optim=OptimConfig(steps=3, lr=1e-3, clip_norm=1.0),
        loss=LabelLossConfig(),
        propagation=BackgroundPropagationConfig(frame_gaps=(1, 2)),
    )


def test_completes_the_file_and_keeps_masks_inside_their_boxes(config):
    before = json.loads(config.data.read_text())
    completed = json.loads(label.run(config).read_text())

    frames = [video.frames for video in load_dataset(config.data, config.frames).videos]
    moved = [video.frames for video in load_dataset(config.out / config.data.name).videos]
    assert [[file.resolve() for file in files] for files in moved] == [list(files) for files in frames]
    for old, new in zip(before["videos"], completed["videos"], strict=True):
        assert new == old | {"file_names": new["file_names"]}
    assert completed["categories"] == before["categories"] and completed["info"] == before["info"]
    for old, new in zip(before["annotations"], completed["annotations"], strict=True):
        assert {key: new[key] for key in old} == old
        assert [mask is None for mask in new["segmentations"]] == [box is None for box in old["bboxes"]]
        assert [area is None for area in new["areas"]] == [box is None for box in old["bboxes"]]
        for mask, area, box in zip(new["segmentations"], new["areas"], old["bboxes"], strict=True):
            if mask is None:
                continue
            mask_HW = decode_mask(mask, *mask["size"])
            rows, columns = np.nonzero(mask_HW)
            assert area == len(rows)
            x, y, w, h = box
            assert ((columns + 0.5 > x) & (columns + 0.5 < x + w) & (rows + 0.5 > y) & (rows + 0.5 < y + h)).all()
    assert completed["annotations"][0]["segmentations"][2] is None
    for video in before["videos"]:
        name = load_dataset(config.data, config.frames).videos[before["videos"].index(video)].name
        assert (config.out / "overlays" / f"{name}.mp4").stat().st_size > 0


def test_a_killed_run_goes_on_where_it_was(config, monkeypatch, capsys):
    config = replace(config, **HASTY)
    whole = json.loads(label.run(replace(config, out=config.out.with_name("whole"))).read_text())
    original, calls = label.label_video, []

    def killed(start, config, video, *rest, **named):
        if calls:
            raise KeyboardInterrupt
        calls.append(video.id)
        return original(start, config, video, *rest, **named)

    monkeypatch.setattr(label, "label_video", killed)
    with pytest.raises(KeyboardInterrupt):
        label.run(config)
    assert not (config.out / config.data.name).exists()
    monkeypatch.setattr(label, "label_video", original)
    assert json.loads(label.run(config).read_text()) == whole
    assert "already labeled" in capsys.readouterr().out


def test_every_try_has_a_seed_of_its_own(config, monkeypatch):
    seeds, original = [], video_module.fit

    def watched(model, view, tried, *rest):
        seeds.append(tried.seed)
        original(model, view, tried, *rest)

    monkeypatch.setattr(video_module, "fit", watched)
    config = replace(config, window=6, num_models=2, **HASTY)
    for seed in (0, 1):
        label.run(replace(config, seed=seed, out=config.out / str(seed)))
    videos = len(load_dataset(config.data, config.frames).videos)
    assert seeds == [0, 1] * videos + [2, 3] * videos


def test_labels_made_with_other_settings_are_not_mixed(config):
    config = replace(config, **HASTY)
    label.run(config)
    with pytest.raises(ConfigError, match="other settings"):
        label.run(replace(config, seed=1))


def test_a_run_that_failed_before_any_label_binds_no_later_run(config, monkeypatch):
    config = replace(config, **HASTY)
    with monkeypatch.context() as patched, pytest.raises(VideoError):
        patched.setattr(video_module, "read_frames", Mock(side_effect=VideoError("no such frame")))
        label.run(config)
    assert label.run(replace(config, seed=1)).is_file()


def test_frames_that_cannot_be_read_are_reported_before_anything_is_trained(config, tmp_path):
    frames = shutil.copytree(config.frames, tmp_path / "frames")
    names = json.loads(config.data.read_text())["videos"][1]["file_names"]
    (frames / names[2]).unlink()
    (frames / names[3]).write_text("no image")
    with pytest.raises(DataError) as error:
        label.run(replace(config, frames=frames))
    assert [problem.file for problem in error.value.problems] == [str(frames / name) for name in names[2:4]]
    assert not list((config.out / "parts").glob("[0-9]*"))


def test_no_video_no_work(config, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"videos": [], "annotations": [], "categories": []}))
    assert json.loads(label.run(replace(config, data=empty)).read_text())["videos"] == []


def test_would_not_replace_its_input(config):
    with pytest.raises(ConfigError, match="would replace"):
        label.run(replace(config, out=config.data.parent))


def test_faults_of_the_settings_are_reported_together():
    with pytest.raises(ConfigError) as error:
        LabelConfig(
            Path("x.json"),
            window=0,
            num_models=0,
            seed=-1,
            backbone=BackboneConfig(name="mobilenet_v2", frozen=True),
        )
    assert all(word in str(error.value) for word in ("window", "num_models", "seed", "--backbone.no-frozen"))
    assert not parse(LabelConfig, ["x.json", "--backbone.no-frozen"], "mfvis label").backbone.frozen


@pytest.mark.parametrize("prompts", [True, False])
def test_starts_from_a_mask2former_with_or_without_box_prompts(config, monkeypatch, prompts):
    dataset = load_dataset(config.data, config.frames)
    start = VideoMask2Former(replace(MASK2FORMER, box_prompts=prompts), len(dataset.categories))
    config = replace(config, overlays=False)
    monkeypatch.setattr(label, "initial_models", lambda config: FinetunedModels(config, start, dataset.categories))
    completed = json.loads(label.run(config).read_text())
    for annotation in completed["annotations"]:
        masks = zip(annotation["segmentations"], annotation["bboxes"], strict=True)
        assert all((mask is None) == (box is None) for mask, box in masks)


def test_a_mask2former_with_fewer_queries_than_tracks_labels_them_all(config):
    dataset = load_dataset(config.data, config.frames)
    (video, *_) = dataset.videos
    assert len(video.tracks) > 2
    torch.manual_seed(0)
    model = VideoMask2Former(replace(MASK2FORMER, num_queries=2, box_prompts=False), len(dataset.categories))
    results = label.label_video(FinetunedModels(config, model, dataset.categories), config, video)
    assert [result.track_id for result in results] == [track.id for track in video.tracks]
    for result, track in zip(results, video.tracks, strict=True):
        assert [rle is not None for rle in result.segmentations] == track.present_T.tolist()


def test_learns_a_disc_from_its_boxes():
    """A red disc moves over noise: its mask beats the filled box, whose IoU with a disc is pi / 4, clearly."""
    torch.manual_seed(0)
    frames_TCHW = torch.randint(0, 90, (6, 3, 64, 96), dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    boxes_T4 = torch.tensor([[8.0 + 8 * t, 14.0, 44.0 + 8 * t, 50.0] for t in range(6)])
    true_THW = torch.stack([(x - 26 - 8 * t) ** 2 + (y - 32) ** 2 < 18**2 for t in range(6)])
    frames_TCHW[:, 0][true_THW] = 230
    config = LabelConfig(
        Path("x.json"),
        num_models=1,
        short_side=128,
        clip=3,
        backbone=BACKBONE,
        optim=OptimConfig(steps=60, lr=5e-3, clip_norm=1.0, schedule="cosine"),
        loss=LabelLossConfig(),
        propagation=BackgroundPropagationConfig(frame_gaps=(1, 2), min_frames=1),
    )
    torch.manual_seed(0)
    model = PerTrackSegmenter(Backbone(BACKBONE), 1, config.dim, config.zoom)
    view = prepare_window(model.backbone, frames_TCHW, boxes_T4[None], torch.tensor([0]), (128, 192), 1)
    fit(model, add_propagated_background(view, config.propagation), config)
    logits_THW = at_original_size(segment(model, view, config)[0], view.size, (64, 96))
    masks_THW = refine(logits_THW, mfvis_ext.rgb_to_lab(frames_TCHW), boxes_T4, config.refine)
    iou = (masks_THW & true_THW).sum() / (masks_THW | true_THW).sum()
    assert iou > 0.9


def test_camera_motion_is_found_in_whole_cells():
    torch.manual_seed(0)
    world_CHW = torch.rand(3, 40, 60) * 100
    frames = torch.stack([world_CHW[:, 5:29, 10:46], world_CHW[:, 8:32, 3:39]])  # the camera goes (+3, -7)
    background = torch.ones(2, 24, 36, dtype=torch.bool)
    background[:, 8:14, 10:20] = False
    pairs = torch.tensor([[0, 1], [1, 0]])
    assert camera_motion(frames, background, pairs).tolist() == [[-3, 7], [3, -7]]
    assert camera_motion(frames, background, pairs[:0]).shape == (0, 2)


def test_background_that_leaves_the_box_is_known():
    """A still camera, a box that moves on: what it left behind was background before."""
    torch.manual_seed(0)
    lab_TCHW = (torch.rand(1, 3, 24, 40) * 100).repeat(2, 1, 1, 1)
    lab_TCHW[0, :, 8:16, 8:14] = 200  # the object in the left part of its box, then far away
    lab_TCHW[1, :, 8:16, 28:34] = 200
    boxes_NT4 = torch.tensor([[[8.0, 8, 20, 16], [28.0, 8, 40, 16]]])
    config = BackgroundPropagationConfig(frame_gaps=(1,), radius=1, distance=1.0, min_frames=1)
    inside_NTHW = inside_boxes(boxes_NT4, 24, 40)
    escaped = propagated_background(lab_TCHW, ~inside_NTHW[0], boxes_NT4, config)
    assert escaped[0, 0, 8:16, 15:20].all() and not escaped[0, 0, 8:16, 8:14].any()
    assert not (escaped & ~inside_NTHW).any()


@pytest.mark.parametrize("contrast, strict", [(4.0, True), (40.0, False)])
def test_an_object_that_matches_the_background_needs_closer_matches(contrast, strict):
    """A still, noiseless video: the lighter half of the boxes is the object, the other half shows the background."""
    torch.manual_seed(0)
    lab_TCHW = (torch.rand(1, 3, 24, 40) * 2).repeat(3, 1, 1, 1)
    boxes_NT4 = torch.tensor([[[8.0, 8, 16, 16], [16.0, 8, 24, 16], [24.0, 8, 32, 16]]])
    inside_NTHW = inside_boxes(boxes_NT4, 24, 40)
    object_NTHW = torch.zeros_like(inside_NTHW)
    for t in range(3):
        x = 8 + 8 * t
        object_NTHW[0, t, 8:16, x : x + 6] = True
    lab_TCHW[:, 0] += contrast * object_NTHW[0]
    known_NTHW = inside_NTHW & ~object_NTHW
    config = BackgroundPropagationConfig(frame_gaps=(1, 2), radius=1, min_frames=1)

    found_NTHW = propagated_background(lab_TCHW, ~inside_NTHW[0], boxes_NT4, config)
    assert not (found_NTHW & object_NTHW).any() and (found_NTHW & known_NTHW).any()
    any_NTHW = propagated_background(lab_TCHW, ~inside_NTHW[0], boxes_NT4, replace(config, quantile=1.0))
    assert (any_NTHW & object_NTHW).any() == strict and not (found_NTHW & ~any_NTHW).any()
    noiseless = replace(config, quantile=0.0)  # the limit is then `LEAST_DISTANCE`, as without noise
    assert propagated_background(lab_TCHW, ~inside_NTHW[0], boxes_NT4, noiseless).equal(found_NTHW)


def test_propagation_needs_two_frames():
    boxes_NT4 = torch.tensor([[[2.0, 2, 6, 6]]])
    inside_NTHW = inside_boxes(boxes_NT4, 12, 12)
    config = BackgroundPropagationConfig(min_frames=1)
    assert not propagated_background(torch.zeros(1, 3, 12, 12), ~inside_NTHW[0], boxes_NT4, config).any()


def test_ring_surrounds_the_box_and_nothing_surrounds_no_box():
    boxes_NT4 = torch.tensor([[[10.0, 10, 20, 20], [0.0, 0, 0, 0]]])
    ring = ring_around(boxes_NT4, 30, 30)
    assert ring[0, 0].sum() == 16 * 16 - 10 * 10 and not ring[0, 1].any()


def test_refined_masks_follow_the_colors_and_stay_in_the_box():
    lab_TCHW = torch.zeros(2, 3, 40, 40)
    lab_TCHW[:, 0, 10:30, 10:30] = 90
    logits_THW = torch.full((2, 40, 40), -3.0)
    logits_THW[:, 12:28, 12:28] = 3  # too small by two pixels on each side
    boxes_T4 = torch.tensor([[10.0, 10, 30, 28], [0.0, 0, 0, 0]])
    masks_THW = refine(logits_THW, lab_TCHW, boxes_T4, RefineConfig())
    colored_HW = torch.zeros(40, 40, dtype=torch.bool)
    colored_HW[10:28, 10:30] = True  # as far as the box goes
    assert not (masks_THW & ~colored_HW).any() and masks_THW.sum() > 0.9 * colored_HW.sum()
    assert not masks_THW[1].any()
    untouched = refine(logits_THW, lab_TCHW, boxes_T4, RefineConfig(steps=0))
    assert untouched[0].equal(logits_THW[0] > 0) and not untouched[1].any()


@pytest.mark.parametrize("side, scale", [(5, 3), (20, 2), (60, 1), (300, 1), (700, Fraction(1, 3))])
def test_objects_are_smoothed_at_a_size_that_fits_the_neighborhood(side, scale):
    box = [100.0, 100.0, 100.0 + side, 100.0 + side]
    windows = [_surroundings(box, 1000, 1000), None, _surroundings([0.0, 0.0, 2.0, 2.0], 1000, 1000)]
    assert _scale(windows) == scale  # the largest window decides
    assert _scale([None]) == 1


def test_a_small_object_keeps_its_outline():
    """A cross of 13 pixels with arms of 3: smoothed at its own size, little of it is left."""
    true_HW = torch.zeros(40, 40, dtype=torch.bool)
    true_HW[14:27, 19:22] = True
    true_HW[19:22, 14:27] = True
    lab_TCHW = torch.zeros(1, 3, 40, 40)
    lab_TCHW[0, 0] = 10 + 8 * true_HW
    logits_THW = torch.where(true_HW, 1.0, -3.0)[None]
    masks_THW = refine(logits_THW, lab_TCHW, torch.tensor([[14.0, 14, 27, 27]]), RefineConfig())
    assert (masks_THW[0] & true_HW).sum() > 0.85 * (masks_THW[0] | true_HW).sum()


def test_a_try_that_lost_its_object_is_not_heard():
    boxes_NT4 = torch.tensor([[[2.0, 2, 8, 8]], [[3.0, 3, 9, 9]]])
    filled_NTHW = torch.where(inside_boxes(boxes_NT4, 12, 12), 6.0, -6.0)
    smaller_NTHW = filled_NTHW.clone()
    smaller_NTHW[..., 4, 4] = -4  # a hole, of which the projections know nothing
    lost_NTHW = smaller_NTHW.clone()
    lost_NTHW[0] = -6.0
    lost_NTHW[0, :, 10:] = 6.0  # what lies outside the box does not help it
    mean_NTHW = average_consistent_models(torch.stack([filled_NTHW, smaller_NTHW, lost_NTHW]), boxes_NT4)
    torch.testing.assert_close(mean_NTHW[0], (filled_NTHW[0] + smaller_NTHW[0]) / 2)
    torch.testing.assert_close(mean_NTHW[1], (filled_NTHW[1] + 2 * smaller_NTHW[1]) / 3)
    nowhere = torch.full((1, 2, 1, 12, 12), -6.0)
    assert average_consistent_models(nowhere, boxes_NT4).equal(nowhere[0])


def test_a_pixel_is_one_tracks_at_most():
    boxes_NT4 = torch.tensor([[[0.0, 0, 4, 2]], [[2.0, 0, 6, 2]]])
    logits_NTHW = torch.stack([torch.full((1, 2, 6), 3.0), torch.full((1, 2, 6), 5.0)])
    shared_NTHW = resolve_overlaps(logits_NTHW, boxes_NT4)
    assert (shared_NTHW[0, 0] > 0)[0].tolist() == [True, True, False, False, False, False]
    assert (shared_NTHW[1, 0] > 0)[0, 2:].all()
    torch.testing.assert_close(shared_NTHW[0, 0, 0, 2], torch.tensor(3 - np.log1p(np.exp(5))).float())
    claimed_by_the_absent = np.log1p(np.exp(ABSENT))
    torch.testing.assert_close(shared_NTHW[0, :, :, :2], logits_NTHW[0, :, :, :2] - claimed_by_the_absent)
    torch.testing.assert_close(resolve_overlaps(logits_NTHW[:1], boxes_NT4[:1]), logits_NTHW[:1])


def test_levels_brought_to_the_grid_beforehand_read_the_same():
    torch.manual_seed(0)
    model = PerTrackSegmenter(Backbone(BACKBONE), 2, 8, 1)
    grid = (16, 24)
    levels = [torch.randn(2, width, 32 // 2**n, 48 // 2**n) for n, width in enumerate(model.backbone.channels)]
    lab_TCHW = torch.randn(2, 3, *grid)
    before = [downsample_to_grid(level, grid) for level in levels]
    assert [level.shape[-2:] for level in before] == [(16, 24), (16, 24), (8, 12), (4, 6)]
    torch.testing.assert_close(
        model.logits(tuple(before), lab_TCHW), model.logits(tuple(levels), lab_TCHW), atol=1e-5, rtol=1e-4
    )


def test_the_loss_of_what_is_not_the_object():
    masks = torch.tensor([[[[0.0, 2.0]]], [[[1.0, 1.0]]]], requires_grad=True)
    known = torch.tensor([[[[True, False]]], [[[False, False]]]])
    loss = negatives_loss(masks, known, 1)
    assert loss.item() == pytest.approx(np.log(2))
    few = int(known[0].sum())
    assert negatives_loss(masks[:1], known[:1], 1, smoothing_N=3 * few).item() == pytest.approx(np.log(2) / 4)
    loss.backward()
    assert masks.grad.flatten().tolist() == [0.5, 0, 0, 0]


def test_a_cut_has_only_the_objects_of_its_frames():
    torch.manual_seed(0)
    boxes_NT4 = torch.tensor([[[100.0, 130, 120, 150], [104.0, 130, 124, 150], [0.0, 0, 0, 0]]]).repeat(2, 1, 1)
    boxes_NT4[1, :2] = 0
    boxes_NT4[1, 2] = torch.tensor([5.0, 5, 50, 60])
    frames_TCHW = torch.randint(0, 255, (3, 3, 240, 300), dtype=torch.uint8)
    backbone = Backbone(BackboneConfig(name="tiny", frozen=True))
    labels = torch.tensor([0, 0])
    view = add_propagated_background(
        prepare_window(backbone, frames_TCHW, boxes_NT4, labels, (240, 300), 2),
        BackgroundPropagationConfig(frame_gaps=(1,)),
    )
    part, objects = select_clip(view, torch.tensor([0, 1]))
    assert objects.tolist() == [0] and len(part.frames_TCHW) == 2
    assert part.unknown_NTHW.equal(view.unknown_NTHW[:1, :2])
    inside = inside_boxes(part.boxes_NT4 / 4, *part.lab_TCHW.shape[-2:])
    assert inside.equal(part.unknown_NTHW | part.propagated_NTHW) and inside.any()
    assert torch.equal(view.frames_TCHW, pad_frames(frames_TCHW, 256, 320))
    # Seen at twice that size.
    assert [level.shape[-2:] for level in part.features] == [(512 // s, 640 // s) for s in (4, 8, 16, 32)]


def test_no_tube_is_given_to_two_tracks_while_there_are_enough():
    masks_QTHW = torch.full((3, 1, 12, 12), -1.0)
    masks_QTHW[1, 0, 0:4, 0:4] = 1
    masks_QTHW[2, 0, 0:4, 0:5] = 1
    boxes = torch.tensor([[[0.0, 0, 4, 4]], [[0.0, 0, 4, 4]]])
    assert sorted(assign_tubes(masks_QTHW, boxes).tolist()) == [1, 2]
    assert assign_tubes(masks_QTHW[1:2], boxes).tolist() == [0, 0]
