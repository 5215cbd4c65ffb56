"""The choice and the content of clips, and that a resumed run draws the same ones."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.data.augment import PADDING
from mfvis.data.clips import ClipDataset, ClipSampler, collate, make_clip, sample_frames
from mfvis.data.config import ClipConfig
from mfvis.data.rle import mask_box
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError, DataError
from mfvis.types import Batch, Track, Video
from torch.utils.data import DataLoader

SMALL = ClipConfig(frames=3, short_sides=(40, 56), max_side=120, smallest_crop=0.7)


def film(present: list[bool], iscrowd: bool = False) -> Video:
    boxes_T4 = np.array([[1, 1, 5, 5] if here else [0] * 4 for here in present], np.float32)
    return Video(1, "v", 9, 9, len(present), Path("v.mp4"), (Track(1, 1, boxes_T4, iscrowd=iscrowd),))


def equal(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, getattr(b, name)) if isinstance(x, torch.Tensor) else x == getattr(b, name)
        for name, x in vars(a).items()
    )


@given(
    st.lists(st.booleans(), min_size=1, max_size=30).filter(any),
    st.integers(1, 7),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_sampled_frames(present: list[bool], frames: int, reach: int, stride: int, seed: int) -> None:
    video = film(present)
    near = ClipConfig(frames=frames, range=reach)
    indices = sample_frames(video, near, np.random.default_rng(seed))
    assert len(indices) == frames and all(0 <= index < video.length for index in indices)
    anchors = [a for a in indices if present[a] and all(abs(index - a) <= reach for index in indices)]
    assert anchors, "some frame with a box has all others around it"
    in_order = replace(near, sampling="consecutive", stride=stride)
    indices = sample_frames(video, in_order, np.random.default_rng(seed))
    assert len(indices) == frames and all(0 <= index < video.length for index in indices)
    assert any(present[index] for index in indices)
    span = (frames - 1) * stride
    steps = [b - a for a, b in pairwise(indices)]
    assert all(abs(step) <= stride for step in steps)
    if video.length > 2 * span:
        assert steps == [stride] * (frames - 1), "long enough to hold the clip wherever the object is"


def test_short_videos_are_walked_back_and_forth() -> None:
    config = ClipConfig(frames=6, sampling="consecutive")
    walks = {sample_frames(film([True] * 3), config, np.random.default_rng(seed)) for seed in range(20)}
    assert walks == {(0, 1, 2, 1, 0, 1), (1, 2, 1, 0, 1, 2), (2, 1, 0, 1, 2, 1)}
    assert sample_frames(film([True]), config, np.random.default_rng(0)) == (0,) * 6


def test_random_frames_cover_the_range_with_repeats_and_out_of_order() -> None:
    video, config = film([True] * 40), ClipConfig(frames=5, range=5)
    drawn = [sample_frames(video, config, np.random.default_rng(seed)) for seed in range(200)]
    assert {index for indices in drawn for index in indices} == set(range(40))
    assert any(len(set(indices)) < 5 for indices in drawn)
    assert any(indices != tuple(sorted(indices)) for indices in drawn)
    assert max(max(indices) - min(indices) for indices in drawn) > 5


def test_what_is_in_a_clip(demo_data: tuple[Path, Path]) -> None:
    dataset = load_dataset(demo_data[0])
    video = dataset.videos[0]
    clip = make_clip(dataset, video, [4, 0, 4], with_masks=True)
    assert clip.frames_TCHW.shape == (3, 3, 64, 96) and clip.frames_TCHW.dtype == torch.uint8
    assert torch.equal(clip.frames_TCHW[0], clip.frames_TCHW[2])
    assert (clip.video_id, clip.frame_indices) == (video.id, (4, 0, 4))
    tracks = [track for track in video.tracks if track.present_T[[4, 0]].any()]
    assert clip.track_ids == tuple(track.id for track in tracks)
    assert clip.labels_N.tolist() == [dataset.label_of(track.category_id) for track in tracks]
    for masks_THW, boxes_T4 in zip(clip.masks_NTHW.numpy(), clip.boxes_NT4.numpy(), strict=True):
        assert [mask_box(mask_HW).tolist() for mask_HW in masks_THW] == boxes_T4.tolist()
    assert make_clip(dataset, video, [1]).masks_NTHW is None


def test_absent_instances_and_crowds_stay_out(demo_data: tuple[Path, Path]) -> None:
    dataset = load_dataset(demo_data[0])
    video = dataset.videos[0]
    boxes_T4 = np.zeros((6, 4), np.float32)
    boxes_T4[3] = 1, 1, 5, 5
    late = replace(video.tracks[0], id=90, boxes_T4=boxes_T4)
    crowd = replace(video.tracks[0], id=91, iscrowd=True)
    video = replace(video, tracks=(late, crowd))
    assert make_clip(dataset, video, [3]).track_ids == (90,)
    empty = make_clip(dataset, video, [0, 1], with_masks=True)
    assert empty.track_ids == () and empty.boxes_NT4.shape == (0, 2, 4) and empty.masks_NTHW.shape == (0, 2, 64, 96)
    there_and_gone = make_clip(dataset, video, [2, 3]).boxes_NT4
    assert there_and_gone.tolist() == [[[0, 0, 0, 0], [1, 1, 5, 5]]]
    nothing = replace(dataset, videos=(replace(video, tracks=(crowd,)),))
    with pytest.raises(DataError, match="no video has a box"):
        ClipDataset(nothing, SMALL)


def test_masks_asked_for_but_absent(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    root = json.loads(demo_data[0].read_text())
    number = root["annotations"][1].pop("segmentations") and root["annotations"][1]["id"]
    (tmp_path / "boxes.json").write_text(json.dumps(root))
    dataset = load_dataset(tmp_path / "boxes.json", demo_data[0].parent / "JPEGImages")
    assert len(ClipDataset(dataset, SMALL)) == 4
    with pytest.raises(DataError, match=f"annotation {number}: has no segmentations"):
        ClipDataset(dataset, SMALL, with_masks=True)


def test_masks_change_nothing_else(demo_data: tuple[Path, Path]) -> None:
    dataset = load_dataset(demo_data[0])
    with_masks, without = (ClipDataset(dataset, SMALL, with_masks=flag) for flag in (True, False))
    for draw in islice(ClipSampler([4], seed=3), 8):
        assert equal(replace(collate([with_masks[draw]]), masks_NTHW=None), collate([without[draw]]))


def test_collate(demo_data: tuple[Path, Path]) -> None:
    clips = ClipDataset(load_dataset(demo_data[0]), SMALL, with_masks=True)
    made = [clips[draw] for draw in islice(ClipSampler([len(clips)]), 6)]
    batch = collate(made)
    height, width = batch.frames_BTCHW.shape[-2:]
    assert height % 32 == 0 and width % 32 == 0 and batch.frames_BTCHW.shape[:3] == (6, 3, 3)
    assert height - 32 < max(clip.frames_TCHW.shape[-2] for clip in made) <= height
    assert batch.video_index_N.tolist() == [b for b, clip in enumerate(made) for _ in clip.track_ids]
    assert (batch.boxes_NT4.dtype, batch.labels_N.dtype, batch.sizes_B2.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
    )
    assert [origin.track_ids for origin in batch.clips] == [clip.track_ids for clip in made]
    start = 0
    for b, clip in enumerate(made):
        h, w = batch.sizes_B2[b].tolist()
        assert torch.equal(batch.frames_BTCHW[b, :, :, :h, :w], clip.frames_TCHW)
        for outside in (batch.frames_BTCHW[b, :, :, h:], batch.frames_BTCHW[b, ..., w:]):
            assert torch.equal(outside, torch.tensor(PADDING).view(3, 1, 1).expand_as(outside))
        stop = start + len(clip.track_ids)
        assert torch.equal(batch.masks_NTHW[start:stop, :, :h, :w], clip.masks_NTHW)
        start = stop
    with pytest.raises(ValueError, match=r"equally many frames, got \[2, 3\]"):
        collate([made[0], make_clip(clips.dataset, clips.videos[0], [0, 1], with_masks=True)])
    with pytest.raises(ValueError, match="masks or none"):
        collate([made[0], replace(made[1], masks_NTHW=None)])


def test_resumed_with_workers_draws_the_same(demo_data: tuple[Path, Path]) -> None:
    clips = ClipDataset(load_dataset(demo_data[0]), SMALL)
    straight = [collate([clips[d] for d in draws]) for draws in _pairs(ClipSampler([len(clips)], seed=5), 5)]
    sampler = ClipSampler([len(clips)], seed=5)
    for _ in islice(DataLoader(clips, 2, sampler=sampler, collate_fn=collate, num_workers=2), 3):
        sampler.advance(2)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert state == {"seed": 5, "used": [6], "videos": [4]}, "used, not fetched ahead"
    resumed = ClipSampler([len(clips)])
    resumed.load_state_dict(state)
    rest = list(islice(DataLoader(clips, 2, sampler=resumed, collate_fn=collate), 2))
    assert all(equal(a, b) for a, b in zip(rest, straight[3:], strict=True))
    assert not equal(straight[0], straight[2]), "another epoch, another draw"
    with pytest.raises(ConfigError, match="trained on 4 videos, these data have 9"):
        ClipSampler([9]).load_state_dict(state)


def test_every_epoch_has_every_video_once() -> None:
    draws = list(islice(ClipSampler([7], seed=1), 21))
    orders = [[draw.video for draw in draws[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] != orders[1]
    assert [(draw.epoch, draw.position) for draw in draws] == [(n // 7, n % 7) for n in range(21)]
    with pytest.raises(ConfigError):
        ClipSampler([0])


def test_malformed_configuration() -> None:
    with pytest.raises(ConfigError) as error:
        ClipConfig(frames=0, stride=-1, flip=2, short_sides=(), smallest_crop=0, sampling="all")
    text = str(error.value)
    for fragment in (
        "frames is 0",
        "stride is -1",
        "flip is 2",
        "short_sides is ()",
        "smallest_crop is 0",
        "sampling is all",
    ):
        assert fragment in text


@pytest.mark.realdata
@pytest.mark.parametrize("split", ["train", "val"])
def test_clips_of_real_videos(real_data: Path, split: str) -> None:
    dataset = load_dataset(real_data / "realvid" / f"{split}.json")
    config = ClipConfig(frames=3, short_sides=(96, 128), max_side=240)
    clips = ClipDataset(dataset, config, with_masks=split == "val")
    batch = collate([clips[draw] for draw in islice(ClipSampler([len(clips)]), 4)])
    assert batch.frames_BTCHW.shape[:3] == (4, 3, 3) and batch.frames_BTCHW.float().std() > 20
    assert len(batch.labels_N) >= 4
    assert (batch.masks_NTHW is not None) == (split == "val")


def _pairs(sampler: ClipSampler, count: int) -> list[list]:
    draws = list(islice(sampler, 2 * count))
    return [draws[start : start + 2] for start in range(0, 2 * count, 2)]
