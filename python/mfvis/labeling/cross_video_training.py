"""Training of the cross-video network on the masks of all videos of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from mfvis.data.video import read_frames
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.cross_video import (
    CropSegmenter,
    concat,
    crop_windows,
    masks_in_crops,
    select_examples,
    train_crop_segmenter,
)
from mfvis.labeling.model_factory import ScratchModels
from mfvis.labeling.plan import FEATURES, NETWORK, NETWORK_STEP_SECONDS, feature_seconds
from mfvis.labeling.video import prepare_window
from mfvis.predict.saved_results import Inputs, read_tensors_of, write_tensors_of
from mfvis.progress import Progress
from mfvis.text import counted
from mfvis.types import TrackResult, Video


def cross_video_network(
    start: ScratchModels,
    config: LabelConfig,
    videos: Sequence[Video],
    found: Mapping[int, list[TrackResult]],
    path: Path,
    inputs: Inputs,
    progress: Progress,
) -> CropSegmenter:
    """The network that was trained on these results of the videos, from `path` if it was saved there."""
    if (saved := read_tensors_of(path, inputs)) is not None:
        reader = CropSegmenter(start.backbone.channels).to(start.backbone.mean.device)
        reader.load_state_dict(saved)
        return reader.eval()
    began = time.perf_counter()
    reader = _train(start, config, videos, [found[video.id] for video in videos], progress)
    print(
        f"cross-video network: trained on {counted(len(videos), 'video')}, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    write_tensors_of(path, inputs, dict(reader.state_dict()))
    return reader


def _train(
    start: ScratchModels,
    config: LabelConfig,
    videos: Sequence[Video],
    found: Sequence[list[TrackResult]],
    progress: Progress,
) -> CropSegmenter:
    crops, masks = [], []
    for video, results, examples in zip(videos, found, select_examples(videos), strict=True):
        for first in range(0, len(examples), config.window):
            frames = list(examples)[first : first + config.window]
            view = prepare_window(start, config, video, frames, range(len(video.tracks)), read_frames(video, frames))
            for n, result in enumerate(results):
                own = [i for i, t in enumerate(frames) if n in examples[t]]
                if own:
                    crops.append(crop_windows(view, n, torch.tensor(own, device=view.boxes_NT4.device)))
                    masks.append(masks_in_crops(video, result, [frames[i] for i in own]))
            seconds = feature_seconds(config, video, len(frames))
            progress.advance(FEATURES, seconds, f"cross-video network: examples of {video.name}")
    after_step = partial(progress.advance, NETWORK, NETWORK_STEP_SECONDS)
    return train_crop_segmenter(concat(crops), torch.cat(masks), config.shared_steps, config.seed, after_step)
