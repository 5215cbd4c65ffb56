"""Reading of frames from images or a video file, and writing of overlays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from mfvis.data.images import IMAGE_SUFFIXES, image_files, is_image, read_image
from mfvis.data.video_frames import decode_frames, size_of
from mfvis.data.video_index import index_video
from mfvis.errors import VideoError
from mfvis.text import printable
from mfvis.types import Video
from mfvis.writing import atomic_write

if TYPE_CHECKING:  # imported late: torch takes seconds to import, and checking and importing data do not need it
    from torch import Tensor

VIDEO_SUFFIXES = frozenset(
    [".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2ts", ".m2v", ".m4v", ".mkv"]
    + [".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts"]
    + [".vob", ".webm", ".wmv", ".xvid", ".y4m"]
)
"""Suffixes that are removed from a file name to get the name of a video. They do not decide whether a file is a
video."""


def read_frames(video: Video, indices: Sequence[int]) -> Tensor:
    """The frames of `video` at `indices` (any order, repeats allowed), RGB uint8 ``[T, 3, H, W]``.

    Raises:
        VideoError: names the file and the frame that is missing, damaged, or of another size than the video's.
    """
    import torch

    indices = [int(index) for index in indices]
    for index in indices:
        if not 0 <= index < video.length:
            raise VideoError(f"video {video.name}: frame {index} does not exist, it has frames 0 to {video.length - 1}")
    requested = sorted(set(indices))
    frames = dict(zip(requested, _frames(video, requested), strict=True))
    if not indices:
        return torch.empty((0, 3, video.height, video.width), dtype=torch.uint8)
    return torch.stack([frames[index] for index in indices])


def stream_frames(video: Video) -> Iterator[Tensor]:
    """All frames of a video in order, each RGB uint8 ``[3, H, W]``. A video file is decoded once.

    Raises:
        VideoError: as `read_frames`.
    """
    return _frames(video, range(video.length))


def _frames(video: Video, requested: Sequence[int]) -> Iterator[Tensor]:
    """Frames at the ascending indices `requested`, RGB uint8 ``[3, H, W]``, each of the video's size."""
    import torch

    if isinstance(video.frames, Path):
        images = decode_frames(video.frames, requested)
    elif isinstance(video.frames, np.ndarray):
        images = (video.frames[index] for index in requested)
    else:
        images = (read_image(video.frames[index]) for index in requested)
    for index, image_HW3 in zip(requested, images, strict=True):
        if image_HW3.shape[:2] != (video.height, video.width):
            file = video.frames[index] if isinstance(video.frames, tuple) else video.frames
            raise VideoError(
                f"{file}: frame {index} is {image_HW3.shape[1]} x {image_HW3.shape[0]} pixels, "
                f"but video {video.name} is {video.width} x {video.height} (width x height). Make all frames one size"
            )
        yield torch.from_numpy(image_HW3.transpose(2, 0, 1).copy())


def open_video(path: str | Path) -> Video:
    """A video file, or a folder of frames in natural order (2.jpg before 10.jpg), as a `Video` without tracks.

    A file with the suffix of an image is a video of one frame. Every other file is a video file, whatever its suffix.

    Raises:
        VideoError: when the path does not exist or cannot be decoded.
    """
    path = Path(path)
    if path.is_dir():
        frames = image_files(path)
        if not frames:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(f"{path}: the folder has no image in it. Give a folder of frames, one of {kinds} each")
        height, width = read_image(frames[0]).shape[:2]
        return Video(1, printable(path.resolve().name), width, height, len(frames), tuple(frames))
    if is_image(path):
        height, width = read_image(path).shape[:2]
        return Video(1, printable(path.stem), width, height, 1, (path,))
    width, height = size_of(path)  # the size of the stream ignores rotation by phones
    index = index_video(path)
    return Video(1, printable(path.stem), width, height, index.length, path, fps=index.fps)


def video_in_memory(frames_THW3: np.ndarray, name: str = "frames") -> Video:
    """Frames in memory, RGB uint8 ``[T, H, W, 3]``, as a `Video` without tracks."""
    length, height, width, _ = frames_THW3.shape
    return Video(1, name, width, height, length, frames_THW3)


@contextmanager
def video_writer(path: str | Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Function that appends a frame, RGB uint8 ``[H, W, 3]``, to an H.264 MP4 that any browser can play.

    The file appears under its name at the end of the block. After an exception no file remains. Odd sizes are padded by
    one row or column, because yuv420p requires even sizes.

    Args:
        path: the file, ``*.mp4``.
        fps: frames per second.
        size: ``(height, width)`` of the frames.

    Raises:
        VideoError: for an invalid size or rate, and for a frame of another size or type.
    """
    if not fps > 0 or min(size) < 1:
        raise VideoError(f"{path}: cannot write {size[1]} x {size[0]} pixels at {fps} frames per second")
    with (
        atomic_write(path) as temporary,
        av.open(f"file:{temporary.absolute()}", "w", options={"movflags": "+faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"

        def write(frame_HW3: np.ndarray) -> None:
            if frame_HW3.shape != (*size, 3) or frame_HW3.dtype != np.uint8:
                raise VideoError(
                    f"{path}: a frame is {frame_HW3.dtype} {list(frame_HW3.shape)}, expected uint8 {[*size, 3]}"
                )
            padded = np.pad(frame_HW3, [(0, side % 2) for side in size] + [(0, 0)], mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))

        yield write
        container.mux(stream.encode(None))
