"""Training clips: selection, order and augmentation of frames depend only on seed, epoch, position and data set.

This makes training resumable bit by bit: no worker, process or prefetched batch has a random state of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from mfvis.data.augment import augment, pad_frames, padded_size, pan
from mfvis.data.config import ClipConfig
from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.types import Batch, Clip, ClipOrigin, Track, Video, VideoDataset


class ClipRequest(NamedTuple):
    """Request for one clip: the data set, the video, and the integers that seed the clip's randomness."""

    video: int
    """Index in `ClipDataset.videos`."""
    seed: int
    epoch: int
    position: int
    source: int = 0
    """Index of the data set among those of the training."""


class ClipDataset(Dataset[Clip]):
    """Clips of a data set, made on demand: ``clips[request]`` for the requests of a `ClipSampler`.

    `videos` are the videos in which some object has a box. ``len`` is their number. Crowd tracks are left out.

    Args:
        dataset: the result of `mfvis.data.datasets.DatasetSpec.load`.
        config: sampling and augmentation.
        with_masks: decode masks too. If false, no mask is ever read.

    Raises:
        DataError: when no video has a box, or, with masks, some track has none.
    """

    def __init__(self, dataset: VideoDataset, config: ClipConfig, with_masks: bool = False):
        self.dataset = dataset
        self.config = config
        self.with_masks = with_masks
        self.videos = tuple(video for video in dataset.videos if len(_seen(video)))
        if not self.videos:
            raise DataError([Problem(str(dataset.path), "file", "no video has a box", "Annotate boxes to learn from")])
        without = [
            Problem(
                str(dataset.path), f"annotation {track.id}", "has no segmentations", "Train from boxes, or add masks"
            )
            for video in self.videos
            for track in video.tracks
            if with_masks and track.segmentations is None
        ]
        if without:
            raise DataError(without)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, draw: ClipRequest) -> Clip:
        video = self.videos[draw.video]
        random = np.random.default_rng([draw.seed, draw.epoch, draw.position, draw.source])
        if video.length == 1 and self.config.frames > 1:
            image = make_clip(self.dataset, video, [0], self.with_masks)
            shake = {"rotation": self.config.rotation, "smallest_crop": self.config.smallest_pan}
            clip = pan(image, self.config.frames, random, **shake)
        else:
            clip = make_clip(self.dataset, video, sample_frames(video, self.config, random), self.with_masks)
        return augment(
            clip,
            random,
            short_sides=self.config.short_sides,
            max_side=self.config.max_side,
            flip_probability=self.config.flip,
            smallest_crop=self.config.smallest_crop,
        )


class ClipSampler(Sampler[ClipRequest]):
    """Endless stream of clip requests. In each epoch of a data set, every video occurs once, in a new order.

    The next request goes to the data set that is furthest behind its share, so that every batch has the shares as
    closely as whole clips allow. The sampler counts the clips that training has *used* (`advance`), not those that
    workers have prefetched. A new iterator starts at `state_dict`.

    Args:
        videos: number of videos of each data set.
        seed: random seed of the orders.
        shares: share of each data set, positive. Default: equal shares.
        block_size: number of consecutive requests from one data set: one for each process, so that
            their batches are alike.
    """

    def __init__(
        self, videos: Sequence[int], seed: int = 0, shares: Sequence[float] | None = None, block_size: int = 1
    ):
        if not videos or min(videos) < 1:
            raise ConfigError(f"clips: cannot draw from {', '.join(map(str, videos)) or 'no'} videos")
        self.videos = tuple(videos)
        self.seed = seed
        self.shares = [share / sum(shares) for share in shares] if shares else [1 / len(videos)] * len(videos)
        self.block_size = block_size
        self.used = [0] * len(videos)

    def __iter__(self) -> Iterator[ClipRequest]:
        used = list(self.used)
        orders: dict[int, tuple[int, np.ndarray]] = {}
        while True:
            source = self._furthest_behind(used)
            for _ in range(self.block_size):
                epoch, position = divmod(used[source], self.videos[source])
                if source not in orders or orders[source][0] != epoch:
                    random = np.random.default_rng([self.seed, epoch, source])
                    orders[source] = epoch, random.permutation(self.videos[source])
                yield ClipRequest(int(orders[source][1][position]), self.seed, epoch, position, source)
                used[source] += 1

    def _furthest_behind(self, used: Sequence[int]) -> int:
        total = sum(used) + self.block_size
        return max(range(len(used)), key=lambda source: self.shares[source] * total - used[source])

    def advance(self, clips: int) -> None:
        """Count `clips` more clips, over all processes, as used by training."""
        for _ in range(clips // self.block_size):
            self.used[self._furthest_behind(self.used)] += self.block_size

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "used": list(self.used), "videos": list(self.videos)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ConfigError: when the number of videos differs from that of `state`.
        """
        if list(state["videos"]) != list(self.videos):
            then, now = (" + ".join(map(str, videos)) for videos in (state["videos"], self.videos))
            raise ConfigError(
                f"clips: the checkpoint was trained on {then} videos, these data have {now}. Resume with the same data"
            )
        self.seed = state["seed"]
        self.used = list(state["used"])


def sample_frames(video: Video, config: ClipConfig, random: np.random.Generator) -> tuple[int, ...]:
    """T frame indices around a random frame in which some object has a box.

    All clips of a batch have equally many frames. A video that is too short for T frames around that one repeats some
    of them: "random" draws them again, "consecutive" walks back and forth (1 2 1 0 1 ...).
    """
    anchor = int(random.choice(_seen(video)))
    if config.sampling == "random":
        first, last = max(0, anchor - config.range), min(video.length - 1, anchor + config.range)
        around = [index for index in range(first, last + 1) if index != anchor] or [anchor]
        indices = [anchor, *random.choice(around, config.frames - 1)]
        return tuple(int(index) for index in random.permutation(indices))
    span = (config.frames - 1) * config.stride
    start = int(random.choice(starts_around(anchor, span, config.stride, video.length) or [anchor]))
    there_and_back = [*range(video.length), *range(video.length - 2, 0, -1)]
    return tuple(there_and_back[index % len(there_and_back)] for index in range(start, start + span + 1, config.stride))


def starts_around(anchor: int, span: int, stride: int, length: int) -> list[int]:
    """Possible start frames of a clip that contains frame `anchor` and lies within `length` frames. Its frames are
    `stride` apart and `span` from first to last."""
    return [anchor - before for before in range(0, span + 1, stride) if 0 <= anchor - before < length - span]


def make_clip(dataset: VideoDataset, video: Video, indices: Sequence[int], with_masks: bool = False) -> Clip:
    """The frames of `video` at `indices` as stored on disk, with the objects that have a box in one of them.

    Raises:
        VideoError: for a frame that cannot be read.
        DataError: for a mask that cannot be decoded.
    """
    indices = list(indices)
    tracks = [track for track in video.tracks if not track.iscrowd and track.present_T[indices].any()]
    boxes_NT4 = np.stack([track.boxes_T4[indices] for track in tracks]) if tracks else np.zeros((0, len(indices), 4))
    masks_NTHW = None
    if with_masks:
        masks_NTHW = torch.zeros((len(tracks), len(indices), video.height, video.width), dtype=torch.bool)
        for n, track in enumerate(tracks):
            for t, index in enumerate(indices):
                masks_NTHW[n, t] = torch.from_numpy(_mask(dataset, video, track, index))
    return Clip(
        frames_TCHW=read_frames(video, indices),
        boxes_NT4=torch.from_numpy(boxes_NT4).float(),
        labels_N=torch.tensor([dataset.label_of(track.category_id) for track in tracks], dtype=torch.int64),
        masks_NTHW=masks_NTHW,
        video_id=video.id,
        frame_indices=tuple(indices),
        track_ids=tuple(track.id for track in tracks),
    )


def collate_by_kind(clips: Sequence[Clip]) -> list[Batch]:
    """One batch for each clip length and supervision (masks or none) among the clips; usually there is only one."""
    alike: dict[tuple[int, bool], list[Clip]] = {}
    for clip in clips:
        alike.setdefault((len(clip.frame_indices), clip.masks_NTHW is not None), []).append(clip)
    return [collate(group) for group in alike.values()]


def collate(clips: Sequence[Clip]) -> Batch:
    """Pad clips of equal T at the right and bottom to one size, a multiple of 32, and concatenate their objects."""
    lengths = {len(clip.frame_indices) for clip in clips}
    if len(lengths) != 1:
        raise ValueError(f"clips of one batch must have equally many frames, got {sorted(lengths)}")
    with_masks = {clip.masks_NTHW is not None for clip in clips}
    if len(with_masks) != 1:
        raise ValueError("clips of one batch must all have masks or none, got both")
    sizes = [tuple(clip.frames_TCHW.shape[-2:]) for clip in clips]
    height, width = padded_size(*map(max, zip(*sizes, strict=True)))

    def padded(masks: torch.Tensor) -> torch.Tensor:
        return F.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))

    return Batch(
        frames_BTCHW=torch.stack([pad_frames(clip.frames_TCHW, height, width) for clip in clips]),
        boxes_NT4=torch.cat([clip.boxes_NT4 for clip in clips]),
        labels_N=torch.cat([clip.labels_N for clip in clips]),
        video_index_N=torch.repeat_interleave(torch.tensor([len(clip.labels_N) for clip in clips])),
        masks_NTHW=torch.cat([padded(clip.masks_NTHW) for clip in clips]) if with_masks == {True} else None,
        sizes_B2=torch.tensor(sizes),
        clips=tuple(ClipOrigin(clip.video_id, clip.frame_indices, clip.track_ids) for clip in clips),
    )


def _seen(video: Video) -> np.ndarray:
    """Frames in which some object other than a crowd has a box."""
    present = [track.present_T for track in video.tracks if not track.iscrowd]
    return np.flatnonzero(np.any(present, axis=0)) if present else np.zeros(0, np.int64)


def _mask(dataset: VideoDataset, video: Video, track: Track, index: int) -> np.ndarray:
    if track.segmentations is None:
        raise DataError([Problem(str(dataset.path), f"annotation {track.id}", "has no segmentations", "Add masks")])
    return decode_mask(
        track.segmentations[index],
        video.height,
        video.width,
        file=str(dataset.path),
        record=f"annotation {track.id}, frame {index}",
    )
