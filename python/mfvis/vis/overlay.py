"""A video, or a single picture, with the tracks that were found drawn over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mfvis.data.rle import decode_mask
from mfvis.data.video import stream_frames, video_writer, write_image
from mfvis.errors import ConfigError
from mfvis.types import TrackResult, Video
from mfvis.vis.draw import overlay


def overlay_path(folder: Path, video: Video) -> Path:
    """The file in `folder` for a video's overlay; ConfigError if that is the video itself, or one of its frames."""
    path = folder / f"{video.name}{'.jpg' if video.length == 1 else '.mp4'}"
    files = (video.frames,) if isinstance(video.frames, Path) else video.frames
    if any(file.name == path.name and path.exists() and path.samefile(file) for file in files):
        raise ConfigError(f"out is {folder}, where the overlay would replace {path} itself; choose another directory")
    return path


def write_overlay(path: Path, video: Video, results: Sequence[TrackResult], labels: Sequence[str]) -> None:
    """The video as MP4, or its only frame as JPEG, the tracks' masks, boxes and labels drawn over it.

    Folders of frames play at 10 a second. path: `overlay_path`.
    """
    if video.length == 1:
        (drawn_HW3,) = drawn_frames(video, results, labels)
        write_image(path, drawn_HW3)
        return
    with video_writer(path, video.fps or 10.0, (video.height, video.width)) as write:
        for drawn_HW3 in drawn_frames(video, results, labels):
            write(drawn_HW3)


def drawn_frames(video: Video, results: Sequence[TrackResult], labels: Sequence[str]) -> Iterator[np.ndarray]:
    """The frames, RGB uint8 ``[H, W, 3]``, with the tracks drawn over them."""
    ids = [place if result.track_id is None else result.track_id for place, result in enumerate(results)]
    for t, frame_CHW in enumerate(stream_frames(video)):
        masks = [decode_mask(result.segmentations[t], video.height, video.width) for result in results]
        boxes_N4 = np.array([result.boxes_T4[t] for result in results]).reshape(-1, 4)
        yield overlay(frame_CHW.permute(1, 2, 0).numpy(), np.array(masks), boxes_N4, labels, ids)
