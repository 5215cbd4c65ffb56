"""Tiny films of many kinds, written with PyAV or put together from bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH, LENGTH = 48, 64, 24


def image(t: int) -> np.ndarray:
    """A frame whose lower right quarter says which it is, and which moves elsewhere."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8))
    frame_HW3 = np.roll(np.asarray(coarse.resize((WIDTH, HEIGHT))), (2 * t, 3 * t), (0, 1))
    frame_HW3[HEIGHT // 2 :, WIDTH // 2 :] = 20 + 9 * t
    return frame_HW3


def number(frame_HW3: np.ndarray) -> int:
    """Index of a frame of `image`."""
    return round((float(frame_HW3[-12:, -12:].mean()) - 20) / 9)


def write_film(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    frames: Iterable[int] = range(LENGTH),
    pixels: str = "yuv420p",
    rate: int = 25,
    container: str | None = None,
    flags: dict[str, str] | None = None,
) -> Path:
    """A film of some frames of `image`; `flags` are options of the container."""
    with av.open(str(path), "w", format=container, options=flags or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for t in frames:
            frame = av.VideoFrame.from_ndarray(image(t), format="rgb24")
            if pixels == "pal8":
                grays = np.arange(255, -1, -1, dtype=np.uint8)[:, None].repeat(4, 1)
                frame = av.VideoFrame.from_ndarray((255 - image(t)[..., 1], grays), format="pal8")
            output.mux(stream.encode(frame.reformat(format=pixels)))
        output.mux(stream.encode(None))
    return path


def copy_packets(
    source: Path, target: Path, *, first: int = 0, change: Callable[[int, av.Packet], None] | None = None
) -> Path:
    """A film of the packets of another from the one with index `first` on, not encoded again."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        stream = whole.streams.video[0]
        copy = part.add_stream_from_template(stream)
        for i, packet in enumerate(packet for packet in whole.demux(stream) if packet.dts is not None):
            if i >= first:
                if change is not None:
                    change(i, packet)
                packet.stream = copy
                part.mux(packet)
    return target


def shifted(seconds: float) -> Callable[[int, av.Packet], None]:
    """Moves time stamps, which makes an MP4 writer hide what is before 0 with an edit list."""

    def change(_: int, packet: av.Packet) -> None:
        shift = int(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    return change


def decode_straight(path: Path) -> list[np.ndarray]:
    """The frames of a film as FFmpeg's decoder returns them from the start, after errors, too."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        for packet in container.demux(stream):
            if packet.size:
                try:
                    frames += stream.codec_context.decode(packet)
                except av.InvalidDataError:
                    continue
        frames += stream.codec_context.decode(None)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def with_display_matrix(film: Path, target: Path, matrix: tuple[int, int, int, int] | None) -> Path:
    """An MP4 with another display matrix ``(a, b, c, d)``; None: all zero."""
    straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix or (0, 0, 0, 0))
    changed = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30 if matrix else 0)
    head, track = film.read_bytes().split(b"tkhd")
    assert straight in track
    target.write_bytes(head + b"tkhd" + track.replace(straight, changed, 1))
    return target


def with_cover(film: Path, target: Path) -> Path:
    """An MP4 with an attached image, which comes first of its streams."""

    def atom(name: bytes, *contents: bytes) -> bytes:
        body = b"".join(contents)
        return struct.pack(">I", 8 + len(body)) + name + body

    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32), (250, 250, 250)).save(jpeg, "JPEG")
    cover = atom(b"covr", atom(b"data", struct.pack(">II", 13, 0), jpeg.getvalue()))
    tags = atom(b"udta", atom(b"meta", bytes(4), atom(b"hdlr", bytes(8), b"mdirappl", bytes(9)), atom(b"ilst", cover)))
    content = film.read_bytes()
    start = content.index(b"moov") - 4  # behind the frames, whose positions stay
    (size,) = struct.unpack(">I", content[start : start + 4])
    (header,) = struct.unpack(">I", content[start + 8 : start + 12])
    cut = start + 8 + header
    target.write_bytes(
        content[:start] + struct.pack(">I", size + len(tags)) + content[start + 4 : cut] + tags + content[cut:]
    )
    return target


def with_packed_b_frames(source: Path, target: Path) -> Path:
    """An AVI as DivX wrote it: a B-frame lies in the packet of the frame after it, and empty packets fill the gap."""
    start_code, empty = b"\0\0\1\xb6", b"\0\0\1\xb6\x51\x3f\xff"
    with av.open(str(source)) as plain, av.open(str(target), "w") as output:
        stream = plain.streams.video[0]
        copy = output.add_stream_from_template(stream)
        copy.codec_context.codec_tag = "DX50"
        packets = [bytes(packet) for packet in plain.demux(stream) if packet.size]
        is_b = [packet[packet.index(start_code) + 4] >> 6 == 2 for packet in packets]
        packed: list[bytes] = []
        for i, packet in enumerate(packets):
            if is_b[i] and not is_b[i - 1]:
                packed[-1] += packet
                packed.append(empty)
            elif is_b[i]:
                packed.insert(-1, packet)
            else:
                packed.append(packet)
        cut = packed[0].index(start_code)
        header = stream.codec_context.extradata or b""
        packed[0] = (header if cut == 0 else packed[0][:cut]) + b"\0\0\1\xb2DivX503b1393p" + packed[0][cut:]
        for i, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.time_base = copy, Fraction(1, 25)
            packet.pts = packet.dts = i
            packet.is_keyframe = i == 0
            output.mux(packet)
    return target
