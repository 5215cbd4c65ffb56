"""Overlays: a video or a single image with predicted tracks drawn over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mfvis.data.images import write_image
from mfvis.data.rle import decode_mask
from mfvis.data.video import stream_frames, video_writer
from mfvis.errors import ConfigError
from mfvis.text import file_stems
from mfvis.types import TrackResult, Video
from mfvis.vis.draw import overlay

SUFFIXES = (".mp4", ".jpg")
"""File suffixes of the overlays of a video and of an image."""


def overlay_paths(folder: Path, videos: Sequence[Video]) -> list[Path]:
    """Paths in `folder` for the overlays of videos. The files have the videos' names, as far as file names allow.

    Raises:
        ConfigError: one of the files is one of the videos, or a frame of one.
    """
    stems = file_stems(video.name for video in videos)
    paths = [folder / (stem + SUFFIXES[video.length == 1]) for stem, video in zip(stems, videos, strict=True)]
    by_name = {path.name: path for path in paths}
    for video in videos:
        for file in (video.frames,) if isinstance(video.frames, Path) else video.frames:
            path = by_name.get(file.name)
            if path is not None and path.exists() and path.samefile(file):
                message = f"out is {folder}, where the overlay would replace {path} itself; choose another directory"
                raise ConfigError(message)
    return paths


def write_overlay(path: Path, video: Video, results: Sequence[TrackResult], labels: Sequence[str]) -> None:
    """Write the video as MP4, or its only frame as JPEG, with masks, boxes and labels of the tracks drawn over it.

    Folders of frames play at 10 frames per second. path: one of `overlay_paths`.
    """
    if video.length == 1:
        (drawn_HW3,) = drawn_frames(video, results, labels)
        write_image(path, drawn_HW3)
        return
    with video_writer(path, video.fps or 10.0, (video.height, video.width)) as write:
        for drawn_HW3 in drawn_frames(video, results, labels):
            write(drawn_HW3)


def drawn_frames(video: Video, results: Sequence[TrackResult], labels: Sequence[str]) -> Iterator[np.ndarray]:
    """Frames with the tracks drawn over them, RGB uint8 ``[H, W, 3]``."""
    ids = [i if result.track_id is None else result.track_id for i, result in enumerate(results)]
    for t, frame_CHW in enumerate(stream_frames(video)):
        masks = [decode_mask(result.segmentations[t], video.height, video.width) for result in results]
        boxes_N4 = np.array([result.boxes_T4[t] for result in results]).reshape(-1, 4)
        yield overlay(frame_CHW.permute(1, 2, 0).numpy(), np.array(masks), boxes_N4, labels, ids)
