"""The box-prompted network: each tube by itself, trained from boxes, with the given losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mfvis.data.config import ClipConfig
from mfvis.data.ytvis import load_dataset
from mfvis.demo.box_prompted import BoxPromptedSegmenter, segment_boxes, train_box_prompted
from mfvis.demo.config import BoxPromptedConfig
from mfvis.errors import ConfigError
from mfvis.losses.config import LossConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.models.config import BackboneConfig
from mfvis.train.optim_config import OptimConfig
from mfvis.types import BoxPrompts, VideoDataset
from tiny import every_mask

CLIP = ClipConfig(frames=3, sampling="consecutive", short_sides=(64,))
CONFIG = BoxPromptedConfig(
    backbone=BackboneConfig(name="tiny"),
    dim=4,
    width=4,
    batch_size=2,
    optim=OptimConfig(steps=3, lr=1e-2, clip_norm=1.0),
)


@pytest.fixture
def dataset(demo_data: tuple[Path, Path]) -> VideoDataset:
    return load_dataset(demo_data[0])


def same(one: BoxPromptedSegmenter, other: BoxPromptedSegmenter) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_tube_is_read_for_itself_wherever_it_stands():
    torch.manual_seed(0)
    reader = BoxPromptedSegmenter(CONFIG).eval()
    frames = torch.randint(0, 256, (2, 3, 3, 64, 96), dtype=torch.uint8)
    tubes = torch.tensor([[[8.0, 8, 40, 40]] * 3, [[20.0, 4, 90, 60]] * 3])
    valid = torch.tensor([[True, True], [True, False]])
    both = every_mask(reader(frames, None, BoxPrompts(torch.stack([tubes, tubes]), valid)))
    single = every_mask(reader(frames[:1], None, BoxPrompts(tubes[None, 1:], valid[:1, :1])))
    assert both.shape == (1, 2, 2, 3, 16, 24)
    torch.testing.assert_close(both[0, 0, 1], single[0, 0, 0])
    assert not both[0, 1, 1].any()  # it only fills up the second clip
    assert not torch.allclose(both[0, 0, 0], both[0, 0, 1])


def test_boxes_are_enough_and_the_seed_decides(dataset: VideoDataset):
    videos = [
        replace(video, tracks=tuple(replace(track, segmentations=None) for track in video.tracks))
        for video in dataset.videos
    ]
    trained = train_box_prompted(dataset, CLIP, CONFIG)
    assert same(trained, train_box_prompted(replace(dataset, videos=tuple(videos)), CLIP, CONFIG))
    assert not same(trained, train_box_prompted(dataset, CLIP, replace(CONFIG, seed=1)))


def test_the_losses_and_the_masks_are_heard(dataset: VideoDataset):
    without = replace(CONFIG, loss=LossConfig(temporal=TemporalConfig(weight=0.0)))
    trained = train_box_prompted(dataset, CLIP, CONFIG)
    assert not same(trained, train_box_prompted(dataset, CLIP, without))
    assert not same(trained, train_box_prompted(dataset, CLIP, CONFIG, with_masks=True))


def test_every_box_gets_its_mask_at_the_videos_own_size(dataset: VideoDataset):
    reader = train_box_prompted(dataset, CLIP, CONFIG)
    video = dataset.videos[0]
    absent = video.tracks[0].boxes_T4.copy()
    absent[2] = 0
    video = replace(video, tracks=(replace(video.tracks[0], boxes_T4=absent), *video.tracks[1:]))
    torch.nn.init.constant_(reader.head[-1].bias, 50.0)  # whatever the features say, everything is the object
    for size in (64, 40):  # as it is, and scaled and padded
        results = segment_boxes(reader, dataset, video, replace(CLIP, short_sides=(size,)))
        assert [result.track_id for result in results] == [track.id for track in video.tracks]
        for result, track in zip(results, video.tracks, strict=True):
            given = [rle is not None for rle in result.segmentations]
            np.testing.assert_array_equal(given, track.present_T)
            assert {tuple(rle["size"]) for rle in result.segmentations if rle} == {(video.height, video.width)}
    assert segment_boxes(reader, dataset, replace(video, tracks=()), CLIP) == []


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="width is 6; expected a multiple of 4"):
        BoxPromptedConfig(width=6)
