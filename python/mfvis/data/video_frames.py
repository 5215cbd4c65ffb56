"""Frames of a video file by index, in order or at random, always identical to those of decoding from the start.

Reading starts at the key frame before a frame. After a seek, the packets are compared with the index one by one, and
the decoded frames by packet and checksum. If anything differs, reading restarts earlier, at the latest at the start of
the file.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np

from mfvis.data.video_index import VideoIndex, index_video, position_of
from mfvis.data.video_stream import REMEDY, Damaged, checksum, decode_packets, open_stream, packets_of, to_rgb
from mfvis.errors import VideoError
from mfvis.text import counted

SEEK_GAIN = 12
"""Minimum number of frames that a seek must save. Decoding fewer is faster than opening the file again."""

Run = Iterator[tuple[int, av.VideoFrame]]
"""Decoded frames with their indices, in order."""


class _Differs(Exception):
    """The decoder returned a frame that differs from the index."""


class _SeekMissed(Exception):
    """A seek ended after the requested packet, or at unknown packets."""


def decode_frames(path: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames at ascending indices, each RGB uint8 ``[H, W, 3]``, upright.

    Raises:
        VideoError: names the file and the frame that does not exist or cannot be decoded.
    """
    run: Run = iter(())
    reached = -math.inf
    for frame in frames:
        index = index_video(path)
        if frame >= index.length:
            empty = len(index.positions_P2) - index.length
            more = f"; {empty} packets have none that can be decoded" if empty > 0 else ""
            raise VideoError(
                f"{path}: frame {frame} does not exist, the file has {counted(index.length, 'frame')}{more}"
            )
        image_HW3 = None
        if _starts_before(index, frame)[0] <= reached + SEEK_GAIN:
            with suppress(Damaged, _Differs, _SeekMissed):  # reading from another start may reach it
                image_HW3 = _advance(run, index, frame)
        if image_HW3 is None:
            image_HW3, run = _start(path, index, frame)
        reached = frame
        yield image_HW3


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of the first frame as it is displayed, also if its data is damaged.

    Raises:
        VideoError: when it cannot be decoded.
    """
    index = index_video(path)
    try:
        with open_stream(path) as (container, stream):
            packet, decoded = next(decode_packets(stream, enumerate(packets_of(container, stream))))
            image_HW3 = to_rgb(decoded)
    except Damaged as error:
        raise VideoError(f"{path}: frame 0 cannot be decoded ({error}). {REMEDY}") from error
    if packet != index.packets_T[0]:  # not what the packets promise
        index_video(path, decode=True)
    return image_HW3.shape[1], image_HW3.shape[0]


def _start(path: Path, index: VideoIndex, frame: int) -> tuple[np.ndarray, Run]:
    """Image of a frame, and the run that continues after it."""
    failures: dict[int, Exception] = {}
    for start in _starts_before(index, frame):
        for seek in [True, False] if start in index.times else [False]:
            run = _run(path, index, start, seek)
            try:
                image_HW3 = _advance(run, index, frame)
            except _SeekMissed:
                index.times = {}
            except (Damaged, _Differs) as error:
                failures[start] = error
                break
            else:
                for failed in failures:
                    index.starts.remove(failed)
                return image_HW3, run
    if index.checksums_T is None and not any(isinstance(error, Damaged) for error in failures.values()):
        return _start(path, index_video(path, decode=True), frame)
    raise VideoError(f"{path}: frame {frame} cannot be decoded ({next(iter(failures.values()))}). {REMEDY}")


def _starts_before(index: VideoIndex, frame: int) -> list[int]:
    """Frames at which decoding can start to reach a frame: the last two key frames, latest first, and frame 0."""
    end = bisect_right(index.starts, frame)
    return [*reversed(index.starts[max(0, end - 2) : end]), 0]


def _advance(run: Run, index: VideoIndex, frame: int) -> np.ndarray:
    """Image of a frame that a run has not reached yet."""
    for reached, decoded in run:
        if reached == frame:
            if index.checksums_T is not None and checksum(decoded) != index.checksums_T[frame]:
                raise _Differs("its data is damaged: it is another image each time")
            return to_rgb(decoded)
    raise _Differs("the data ends")


def _run(path: Path, index: VideoIndex, start: int, seek: bool) -> Run:
    """Frames from `start` on, compared with the index, each once all frames that it may depend on are decoded."""
    first = int(index.packets_T[start]) if start else 0
    with open_stream(path) as (container, stream):
        packets = _seek(container, stream, index, start) if seek else enumerate(packets_of(container, stream))
        due, held = start, deque()
        for packet, decoded in decode_packets(stream, ((i, packet) for i, packet in packets if i >= first)):
            if start and due == start and packet != first:
                continue  # frames that are coded after the key frame but displayed before it
            if decoded.is_corrupt or due in index.damage:
                raise Damaged(index.damage.get(due, f"the data of frame {due} is damaged"))
            if due == len(index.packets_T) or packet != index.packets_T[due]:
                raise _Differs(f"the decoder leaves out frame {due}")
            held.append((due, decoded))
            while held and index.horizon_T[held[0][0]] <= due:
                yield held.popleft()
            due += 1


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, index: VideoIndex, start: int
) -> Iterator[tuple[int, av.Packet]]:
    """Packets from that of frame `start`, or from an earlier one, with their indices."""
    if index.checksums_T is not None:
        # The first packet may contain state for the decoder: a palette, or the version of the encoder.
        with suppress(av.FFmpegError):
            stream.codec_context.decode(next(packets_of(container, stream)))
    try:
        container.seek(index.times[start], stream=stream)
    except av.FFmpegError as error:
        raise _SeekMissed(error.strerror) from error
    reached = -1
    for packet in packets_of(container, stream):
        position = position_of(packet)
        if reached < 0:
            positions = np.flatnonzero((index.positions_P2 == position).all(1))
            if len(positions) != 1:
                continue
            reached = int(positions[0])
            if reached > index.packets_T[start]:
                raise _SeekMissed
        else:
            reached += 1
            if reached == len(index.positions_P2) or (index.positions_P2[reached] != position).any():
                raise _SeekMissed
        yield reached, packet
    if reached < 0:
        raise _SeekMissed
