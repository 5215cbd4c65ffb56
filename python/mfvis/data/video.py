"""Frames from image files or from a video file, and overlays, videos or pictures, back to the disk."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from mfvis.errors import VideoError
from mfvis.text import printable
from mfvis.types import Video
from mfvis.writing import atomic_write

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
UNKNOWN_RANGE = frozenset({"I", "F"})
"""Pillow's modes of whole and of floating numbers of 32 bits: nothing says which of them is white."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What to do with a picture of each EXIF orientation but 1."""


def read_frames(video: Video, indices: Sequence[int]) -> Tensor:
    """The frames of `video` at `indices` (any order, repeats allowed), RGB uint8 ``[T, 3, H, W]``.

    Raises:
        VideoError: names the file and the frame that is missing, damaged, or of another size than the video's.
    """
    indices = [int(index) for index in indices]
    for index in indices:
        if not 0 <= index < video.length:
            raise VideoError(f"video {video.name}: frame {index} does not exist, it has frames 0 to {video.length - 1}")
    wanted = sorted(set(indices))
    frames = dict(zip(wanted, _frames(video, wanted), strict=True))
    if not indices:
        return torch.empty((0, 3, video.height, video.width), dtype=torch.uint8)
    return torch.stack([frames[index] for index in indices])


def stream_frames(video: Video) -> Iterator[Tensor]:
    """All frames of a video in order, each RGB uint8 ``[3, H, W]``. A video file is decoded once.

    Raises:
        VideoError: as `read_frames`.
    """
    return _frames(video, range(video.length))


def _frames(video: Video, wanted: Sequence[int]) -> Iterator[Tensor]:
    """The frames `wanted` (ascending), RGB uint8 ``[3, H, W]``, each of the video's size."""
    if isinstance(video.frames, Path):
        pictures = _decode(video.frames, wanted)
    else:
        pictures = (read_image(video.frames[index]) for index in wanted)
    for index, picture_HW3 in zip(wanted, pictures, strict=True):
        if picture_HW3.shape[:2] != (video.height, video.width):
            file = video.frames if isinstance(video.frames, Path) else video.frames[index]
            raise VideoError(
                f"{file}: frame {index} is {picture_HW3.shape[1]} x {picture_HW3.shape[0]} pixels, "
                f"but video {video.name} is {video.width} x {video.height} (width x height). Make all frames one size"
            )
        yield torch.from_numpy(picture_HW3.transpose(2, 0, 1).copy())


def read_image(path: Path) -> np.ndarray:
    """One image file as RGB uint8 ``[H, W, 3]``: the upper 8 of 16 bits, and of transparent pictures the colours.

    Turned as its EXIF says, since annotation tools and browsers show it so, and OpenCV and detectron2 read it so.

    Raises:
        VideoError: when it is missing, not a picture, cut off, or of no known range.
    """
    try:
        with Image.open(path) as image:
            if image.mode in UNKNOWN_RANGE:
                raise VideoError(f"{path}: the picture has 32 bits a pixel. Save it with 8 bits a channel")
            if (turn := orientation(image)) > 1:
                image = image.transpose(_UPRIGHT[turn])
            if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise VideoError(f"{path}: the frame's file does not exist. Check the frames folder") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: the frame cannot be decoded ({error}). Extract or copy it again") from error


def orientation(image: Image.Image) -> int:
    """How a picture lies in its file, 1 (upright) to 8 as EXIF counts; from 5 on its width is the upright one's height.

    Loads the picture, in which Pillow itself turns TIFFs.
    """
    image.load()
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
    except SyntaxError:  # the EXIF is damaged, which does the picture no harm
        return 1
    return number if number in _UPRIGHT else 1


def write_image(path: str | Path, picture_HW3: np.ndarray) -> None:
    """Write RGB uint8 ``[H, W, 3]`` as the kind of picture that `path` ends in; it appears under its name once it is
    whole."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture_HW3).save(temporary, quality=90)


def open_video(path: str | Path) -> Video:
    """A video file, or a folder of frames in natural order (2.jpg before 10.jpg), as a `Video` without tracks.

    Raises:
        VideoError: when there is nothing there that can be decoded.
    """
    path = Path(path)
    if path.is_dir():
        frames = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not frames:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(f"{path}: the folder has no picture in it. Give a folder of frames, one of {kinds} each")
        height, width = read_image(frames[0]).shape[:2]
        return Video(1, printable(path.resolve().name), width, height, len(frames), tuple(frames))
    width, height, length, fps = probe(path)
    return Video(1, printable(path.stem), width, height, length, path, fps=fps)


def probe(path: Path) -> tuple[int, int, int, float | None]:
    """Width, height, number of frames, and frames per second (None if the file does not say) of a video file."""
    length = len(_timestamps(path)[0])
    # Of a decoded frame, because the stream's own size knows nothing of turned phones.
    height, width = next(_decode(path, [0])).shape[:2]
    with _opened(path) as container:
        rate = container.streams.video[0].average_rate
    return width, height, length, float(rate) if rate else None


@contextmanager
def video_writer(path: str | Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """What appends a frame, RGB uint8 ``[H, W, 3]``, to an H.264 MP4 that any browser plays.

    The file appears under its name when the block is done; after an exception nothing is left behind. Odd sizes are
    padded by one row or column, because yuv420p needs even ones.

    Args:
        path: the file, ``*.mp4``.
        fps: frames per second.
        size: ``(height, width)`` of the frames.

    Raises:
        VideoError: for a size or a rate that no film has, and for a frame of another size or type.
    """
    if not fps > 0 or min(size) < 1:
        raise VideoError(f"{path}: cannot write {size[1]} x {size[0]} pixels at {fps} frames per second")
    with atomic_write(path) as temporary, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
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


def _opened(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise VideoError(f"{path}: the video file does not exist. Check the path") from None
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: not a video file, or a damaged one ({error.strerror}). Copy or encode it again"
        ) from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path}: the file has no video stream. Give a video")
    return container


def _timestamps(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Presentation times of all frames and of the key frames, in order: where frame i lies, at any frame rate."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _scanned(path, changed)


@functools.lru_cache(maxsize=256)
def _scanned(path: Path, changed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    times, keys = [], []
    with _opened(path) as container:
        try:
            for packet in container.demux(container.streams.video[0]):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except av.FFmpegError as error:
            raise VideoError(
                f"{path}: damaged after frame {len(times)} ({error.strerror}). Copy or encode it again"
            ) from error
    if not times or not keys:
        raise VideoError(f"{path}: no frame with a time stamp in it. Encode it again, as MP4 for instance")
    return tuple(sorted(times)), tuple(sorted(keys))


def _decode(path: Path, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames `wanted` (ascending) of a video file, from the last key frame before each, or from where we are."""
    times, keys = _timestamps(path)
    reached: int | None = None
    with _opened(path) as container:
        stream = container.streams.video[0]
        decoded: Iterator[av.VideoFrame] = iter(())
        for index in wanted:
            if index >= len(times):
                raise VideoError(f"{path}: frame {index} does not exist, the file has {len(times)} frames")
            time = times[index]
            key = max((k for k in keys if k <= time), default=times[0])
            try:
                if reached is None or key > reached:
                    container.seek(key, stream=stream, backward=True)
                    decoded = container.decode(stream)
                frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= time), None)
            except (av.FFmpegError, OSError) as error:
                raise VideoError(
                    f"{path}: frame {index} cannot be decoded ({error.strerror}). Encode the video again"
                ) from error
            if frame is None or frame.pts != time:
                raise VideoError(f"{path}: frame {index} cannot be decoded (the data ends). Encode it again")
            reached = time
            # Phones store upright films lying down and say by how much to turn them, counterclockwise.
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
