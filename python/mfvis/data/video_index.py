"""Index of a video file: the packet of each frame, and the frames at which decoding can start.

A frame is identified by its packet, since time stamps can be missing, repeated, or run backward:

    packets  P0 P1 P2 P3 ...   in the order of the file
    frames   P0 P2 P1 P3 ...   in the order in which a decoder returns them from the start; some packets have none

Regular MP4 and Matroska files are indexed from their packets only. All others are decoded once, and their index has a
checksum of each frame.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from mfvis.data.images import require_file
from mfvis.data.video_stream import REMEDY, Damaged, checksum, decode_packets, open_stream, packets_of
from mfvis.errors import VideoError

CACHED = 4096
"""Number of indexes that a process caches."""
_IDR = 5
"""NAL unit type of H.264 IDR frames. Later frames reference nothing before them."""


class PacketPosition(NamedTuple):
    """Properties that identify a packet after a seek."""

    position: int
    """Byte offset in the file, or the time stamp in formats without offsets."""
    size: int


@dataclass
class VideoIndex:
    """Frames of a video file."""

    positions_P2: np.ndarray
    """The `PacketPosition` of each packet, int64."""
    packets_T: np.ndarray
    """Packet of each frame, int64."""
    horizon_T: np.ndarray
    """Last frame, int64, that is coded before each frame or as that frame. A B-frame may depend on frames up to it."""
    starts: list[int]
    """Key frames, ascending, without the start of the file. Those at which decoding fails are removed."""
    times: dict[int, int]
    """Time to seek to for each start, in the stream's time base. Emptied once a seek misses."""
    fps: float | None
    checksums_T: np.ndarray | None = None
    """The `checksum` of each frame. None if the file was not decoded."""
    damage: dict[int, str] = field(default_factory=dict)
    """Reasons by damaged frame, if the file was decoded."""
    unread: int = 0
    """Number of frames from the one at which decoding ended early to the end. `packets_T` does not contain them."""

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.packets_T) + self.unread


_indexes: OrderedDict[tuple[str, int, int], VideoIndex] = OrderedDict()


def index_video(path: Path, *, decode: bool = False) -> VideoIndex:
    """Index of a video file, from the cache if the file has not changed.

    Args:
        path: the file.
        decode: decode all frames, even if the packets suffice for an index.

    Raises:
        VideoError: when the file is missing, not a video, or no frame of it can be decoded.
    """
    require_file(path, "the video file", "Check the path")
    status = path.stat()
    key = str(path), status.st_mtime_ns, status.st_size
    index = _indexes.get(key)
    if index is None or (decode and index.checksums_T is None):
        index = (None if decode else _index_packets(path)) or _index_frames(path)
        _indexes[key] = index
        if len(_indexes) > CACHED:
            _indexes.popitem(last=False)
    return index


def position_of(packet: av.Packet) -> PacketPosition:
    """The `PacketPosition` of a packet."""
    times = (time for time in (packet.pts, packet.dts, -1) if time is not None)
    return PacketPosition(packet.pos if packet.pos is not None and packet.pos >= 0 else next(times), packet.size)


def _index_packets(path: Path) -> VideoIndex | None:
    """Index of a file whose packets determine its frames. None if they do not."""
    with open_stream(path) as (container, stream):
        codec, header = stream.codec_context.name, stream.codec_context.extradata
        # Other containers repeat, guess or omit time stamps. Other codecs have packets with none or several frames.
        # Old x264 versions wrote 4:4:4 differently. Decoders recognize the version in the first packet.
        is_trusted = (
            ("mp4" in container.format.name or "matroska" in container.format.name)
            and codec in ("h264", "hevc", "vp9", "av1", "libdav1d", "libaom-av1")
            and "4:4:4" not in str(stream.codec_context.profile)
        )
        if not is_trusted:
            return None
        rows, positions = [], []
        try:
            for packet in packets_of(container, stream):
                if packet.pts is None or packet.is_discard or packet.is_corrupt or not _is_valid(packet, codec, header):
                    return None
                dts = packet.pts if packet.dts is None else packet.dts
                rows.append((packet.pts, min(packet.pts, dts), packet.is_keyframe))
                positions.append(position_of(packet))
        except av.FFmpegError:
            return None
        rate = stream.average_rate
    if not rows:
        return None
    pts_P, times_P, is_key_P = np.array(rows, np.int64).T
    packets_T = pts_P.argsort(kind="stable")
    if not is_key_P[0] or packets_T[0] != 0 or (np.diff(pts_P[packets_T]) == 0).any():
        return None
    return _index(positions, packets_T, is_key_P, times_P.tolist(), rate)


def _index_frames(path: Path) -> VideoIndex:
    """Index of a file, from decoding all of it."""
    positions, times, is_key, is_corrupt = [], [], [], []
    packets, checksums, damage, unread = [], [], {}, 0

    def numbered(source: Iterator[av.Packet]) -> Iterator[tuple[int, av.Packet]]:
        for i, packet in enumerate(source):
            positions.append(position_of(packet))
            times.append(min((time for time in (packet.pts, packet.dts) if time is not None), default=None))
            is_key.append(packet.is_keyframe)
            is_corrupt.append(packet.is_corrupt)
            yield i, packet

    with open_stream(path) as (container, stream):
        rate = stream.average_rate
        try:
            for packet, frame in decode_packets(stream, numbered(packets_of(container, stream))):
                if frame.is_corrupt:
                    damage[len(packets)] = f"the data of frame {len(packets)} is damaged"
                checksums.append(checksum(frame))
                packets.append(packet)
        except Damaged as error:
            if not packets:
                raise VideoError(f"{path}: no frame can be decoded ({error}). {REMEDY}") from error
            damage[len(packets)], unread = str(error), 1
            with suppress(av.FFmpegError):
                for _ in packets_of(container, stream):
                    unread += 1
    index = _index(positions, np.array(packets, np.int64), np.array(is_key), times, rate)
    index.checksums_T = np.array(checksums, np.uint32)
    index.unread = unread
    corrupt = np.flatnonzero(is_corrupt[: len(positions) - bool(unread)]).tolist()  # not the packet that ended decoding
    index.damage = _incomplete(packets, corrupt, len(positions)) | damage
    return index


def _incomplete(packets: list[int], corrupt: list[int], count: int) -> dict[int, str]:
    """Damage from packets that the container marks as incomplete.

    Packets are also marked where transport streams are joined, although nothing is missing there. Therefore only a
    packet without a frame counts, or the last packet, at which a file may be cut off.
    """
    frames = {packet: frame for frame, packet in enumerate(packets)}
    damage = {}
    for packet in corrupt:
        if packet not in frames:
            near = min(sum(other < packet for other in packets), len(packets) - 1)
            damage[near] = f"data next to frame {near} is lost"
        elif packet == count - 1:
            damage[frames[packet]] = f"the file is cut off in frame {frames[packet]}"
    return damage


def _index(
    positions: list[PacketPosition],
    packets_T: np.ndarray,
    is_key_P: np.ndarray,
    times: list[int | None],
    rate: Fraction | None,
) -> VideoIndex:
    starts = (np.flatnonzero(is_key_P[packets_T][1:]) + 1).tolist()
    seekable = {start: times[packets_T[start]] for start in starts if times[packets_T[start]] is not None}
    coded_T = packets_T.argsort(kind="stable")  # frames in the order of their packets
    horizon_T = np.empty_like(packets_T)
    horizon_T[coded_T] = np.maximum.accumulate(coded_T)
    fps = float(rate) if rate else None
    return VideoIndex(np.array(positions, np.int64), packets_T, horizon_T, starts, seekable, fps)


def _is_valid(packet: av.Packet, codec: str, header: bytes | None) -> bool:
    """True if the NAL units of a packet fill it and, for an H.264 key frame, decoding can start at it.

    In open GOPs and gradual refreshes, decoding from a key frame gives different images.
    """
    if codec not in ("h264", "hevc"):
        return True
    if not header or header[0] != 1:  # no lengths before the NAL units
        return False
    length_size = (header[4 if codec == "h264" else 21] & 3) + 1
    data, position, types = memoryview(packet), 0, []
    while position + length_size < len(data):
        types.append(data[position + length_size] & 31)
        position += length_size + int.from_bytes(data[position : position + length_size], "big")
    if codec == "h264" and packet.is_keyframe and next((kind for kind in types if 1 <= kind <= _IDR), None) != _IDR:
        return False
    return position == len(data)
