"""Main video stream of a file: its packets, its decoded frames, and their conversion to RGB."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from mfvis.data.images import MAX_PIXELS, require_file
from mfvis.errors import VideoError

PLAYLISTS = frozenset(
    ["concat", "dash", "hls", "image2", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp", "tty", "webm_dash_manifest"]
)
"""Input formats of FFmpeg that open files named in their content, or that accept any text as a video."""
PLANES_OF_BYTES = frozenset(["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"])
"""Pixel formats with three planes of one byte per pixel, which most videos have."""
REMEDY = "Copy it again, or encode it again: ffmpeg -i OLD -c:v libx264 NEW.mp4"


class Damaged(Exception):
    """The decoder reported damaged data. The message is its reason."""


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Container of a video file, and the stream that FFmpeg selects as the video, never a cover image.

    Only this file is opened: no URL, no playlist.

    Raises:
        VideoError: when the file does not exist, or has no video that can be decoded.
    """
    require_file(path, "the video file", "Check the path")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(av.formats_available - PLAYLISTS)}
    try:
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, av.ArgumentError):
            reason = "a playlist, or no format of videos"
        raise VideoError(f"{path}: not a video file, or a damaged one ({reason}). {REMEDY}") from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            raise VideoError(f"{path}: the file has no video stream. Give a video")
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{path}: FFmpeg cannot decode its video stream. Encode it as H.264")
        if context.width * context.height > MAX_PIXELS:
            raise VideoError(f"{path}: its frames are {context.width} x {context.height}, too large. Scale it down")
        context.thread_type = "NONE"  # with several threads for a frame FFmpeg neither patches nor reports its damage
        yield container, stream


def packets_of(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets of a stream from the current position. Empty packets, which repeat a frame, are skipped."""
    # PyAV raises IndexError at the end of a file in which other streams have begun since it was opened.
    with suppress(IndexError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def decode_packets(
    stream: av.VideoStream, packets: Iterable[tuple[int, av.Packet]]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames of numbered packets in decoder order, each with the number of its packet.

    Raises:
        Damaged: after the frames before it, at the first packet that cannot be decoded; also without any frame.
    """
    context, failure, skipped, has_key, is_empty = stream.codec_context, None, "", False, True

    def decode(packet: av.Packet | None) -> Iterator[tuple[int, av.VideoFrame]]:
        nonlocal is_empty
        for frame in context.decode(packet):
            is_empty = False
            yield frame.pts, frame

    try:
        for i, packet in packets:
            packet.pts = i  # decoders pass time stamps through unchanged
            has_key = has_key or packet.is_keyframe
            try:
                yield from decode(packet)
            except av.FFmpegError as error:
                if has_key and not _is_without_frame(error):  # players show nothing before the first key frame
                    raise
                skipped = error.strerror
    except av.FFmpegError as error:
        failure = error.strerror
    try:
        yield from decode(None)
    except av.FFmpegError as error:
        failure = failure or error.strerror
    if is_empty and not failure:
        failure = skipped if has_key and skipped else "it has no key frame"
    if failure:
        raise Damaged(failure)


def _is_without_frame(error: av.FFmpegError) -> bool:
    """True for a packet without a frame: headers at a join of two files, or no frame data."""
    return isinstance(error, PermissionError) or bool(error.log and "no frame" in error.log[2])


def checksum(frame: av.VideoFrame) -> int:
    """CRC-32 of the decoded pixels of a frame: of its planes if they have one byte per pixel, else of its RGB values.

    Raises:
        Damaged: when its pixels cannot be converted.
    """
    if frame.format.name not in PLANES_OF_BYTES:
        return zlib.crc32(np.ascontiguousarray(_as_rgb24(frame)))
    value = 0
    for plane in frame.planes:  # the padding of their lines is undefined
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
        value = zlib.crc32(np.ascontiguousarray(lines), value)
    return value


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Image of a frame, RGB uint8 ``[H, W, 3]``, rotated and mirrored by its display matrix.

    Raises:
        Damaged: when its pixels cannot be converted.
    """
    image_HW3 = _as_rgb24(frame)
    if frame.format.name == "pal8" and not np.frombuffer(frame.planes[1], np.uint32).any():
        raise Damaged("it has no palette")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image_HW3
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # a pixel goes to x' = a x + c y, y' = b x + d y
    if a == b == c == d == 0:  # which players ignore
        return image_HW3
    straight, swapped = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) * 100 < straight:
        flip_x, flip_y = a < 0, d < 0
    elif max(abs(a), abs(d)) * 100 < swapped:
        image_HW3 = image_HW3.transpose(1, 0, 2)
        flip_x, flip_y = c < 0, b < 0
    else:
        raise Damaged("its display matrix is not a quarter turn")
    return image_HW3[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _as_rgb24(frame: av.VideoFrame) -> np.ndarray:
    try:
        return frame.to_ndarray(format="rgb24")
    except (OSError, ValueError) as error:
        raise Damaged(f"its pixel format {frame.format.name} cannot be converted") from error
