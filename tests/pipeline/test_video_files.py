"""Video files of every kind: read as FFmpeg decodes them from the start, in order and at random, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import av
import films
import numpy as np
import pytest
from films import LENGTH, copy_packets, decode_straight, number, shifted, write_film
from mfvis.data import video_frames
from mfvis.data.video import open_video, read_frames, stream_frames
from mfvis.data.video_index import index_video
from mfvis.errors import VideoError

X264 = {"bf": "3", "g": "8", "sc_threshold": "0"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=8:min-keyint=4:bframes=3:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=8:bframes=2:scenecut=0"}
MPEG = {"bf": "2", "g": "8", "qmin": "1", "qmax": "3"}


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(av.logging.PANIC)


def assert_read_as_decoded(path: Path, expected: list[np.ndarray]) -> None:
    """In order, each frame by itself from the last to the first, and rows with gaps and repeats."""
    video = open_video(path)
    assert video.length == len(expected)
    for t, frame_CHW in enumerate(stream_frames(video)):
        assert np.array_equal(frame_CHW.permute(1, 2, 0), expected[t]), f"frame {t} in order"
    last = video.length - 1
    for row in [*([t] for t in range(last, -1, -1)), [last // 2, 0, last // 2], [0, last], list(range(0, last, 3))]:
        for t, frame_CHW in zip(row, read_frames(video, row), strict=True):
            assert np.array_equal(frame_CHW.permute(1, 2, 0), expected[t]), f"frame {t} of {row}"


WHOLE: dict[str, tuple[str, dict[str, str], dict]] = {
    "b_frames.mp4": ("libx264", X264, {}),
    "b_frames.mkv": ("libx264", X264, {}),
    "b_frames.ts": ("libx264", X264, {}),
    "one_key_frame.m2ts": ("libx264", {"bf": "2", "g": "250"}, {"container": "mpegts"}),
    "interlaced.mts": ("libx264", {"x264-params": "interlaced=1:keyint=8"}, {"container": "mpegts"}),
    "without_pts.mpg": ("libx264", X264, {}),
    "b_frames.flv": ("libx264", X264, {}),
    "b_frames.avi": ("libx264", X264, {}),
    "key_frames_only.avi": ("libx264", {"g": "1"}, {}),
    "b_frames.asf": ("libx264", X264, {}),
    "b_frames.nut": ("libx264", X264, {}),
    "elementary.h264": ("libx264", X264, {}),
    "open_gop.ts": ("libx264", OPEN_GOP, {}),
    "open_gop.mp4": ("libx264", OPEN_GOP, {}),
    "refresh.ts": ("libx264", REFRESH, {}),
    "refresh.mkv": ("libx264", REFRESH, {}),
    "refresh.mp4": ("libx264", REFRESH, {}),
    "all_channels.mp4": ("libx264", X264, {"pixels": "yuv444p"}),
    "hevc_open_gop.mp4": ("libx265", {"x265-params": "open-gop=1:keyint=8:min-keyint=4:scenecut=0:log-level=0"}, {}),
    "hevc.ts": ("libx265", {"x265-params": "keyint=8:scenecut=0:log-level=0"}, {}),
    "mpeg2.ts": ("mpeg2video", MPEG, {}),
    "mpeg2.mpg": ("mpeg2video", MPEG, {}),
    "mpeg2.avi": ("mpeg2video", MPEG, {}),
    "mpeg2.mxf": ("mpeg2video", MPEG, {}),
    "mpeg1.mpeg": ("mpeg1video", MPEG, {"container": "mpeg"}),
    "mpeg4.avi": ("mpeg4", MPEG, {}),
    "mpeg4.mp4": ("mpeg4", MPEG, {}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}, {}),
    "vp8.webm": ("libvpx", {"g": "12", "lag-in-frames": "16", "auto-alt-ref": "1"}, {}),
    "wmv2.wmv": ("wmv2", {"g": "8"}, {}),
    "flv1.flv": ("flv1", {"g": "8"}, {}),
    "motion_jpeg.mov": ("mjpeg", {}, {"pixels": "yuvj420p"}),
    "animated.gif": ("gif", {}, {"pixels": "rgb8"}),
    "gray.avi": ("rawvideo", {}, {"pixels": "gray"}),
    "palette.avi": ("rawvideo", {}, {"pixels": "pal8"}),
    "palette.mov": ("png", {}, {"pixels": "pal8"}),
    "coarse_times.mkv": ("libx264", X264, {"rate": 1500}),
    "coarse_times.flv": ("libx264", X264, {"rate": 1500}),
    "fragments.mp4": ("libx264", {"bf": "2", "g": "2"}, {"flags": {"movflags": "frag_keyframe+empty_moov"}}),
    "frame_by_frame.mp4": ("libx264", {"bf": "2", "g": "2"}, {"flags": {"movflags": "frag_every_frame+empty_moov"}}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_films(tmp_path: Path, name: str) -> None:
    codec, options, more = WHOLE[name]
    path = write_film(tmp_path / name, codec, options, **more)
    expected = decode_straight(path)
    assert [number(frame_HW3) for frame_HW3 in expected] == list(range(LENGTH)), "the film itself"
    assert_read_as_decoded(path, expected)


CUTS = {
    "h264": ("libx264", X264, ["mkv", "mp4", "ts", "flv", "mov"]),
    "h264_open_gop": ("libx264", OPEN_GOP, ["mkv", "mp4", "flv"]),
    "h264_refresh": ("libx264", REFRESH, ["mkv", "mp4"]),
    "hevc": ("libx265", {"x265-params": "keyint=8:scenecut=0:log-level=0"}, ["mkv", "mp4", "ts"]),
    "mpeg2": ("mpeg2video", MPEG, ["mkv", "mp4", "ts", "avi", "mpg"]),
    "mpeg4": ("mpeg4", MPEG, ["mkv", "mp4", "avi"]),
    "vp9": ("libvpx-vp9", {"g": "8", "cpu-used": "8"}, ["webm", "mp4"]),
}


@pytest.mark.parametrize(("name", "suffix"), [(name, suffix) for name in CUTS for suffix in CUTS[name][2]])
def test_films_cut_within_a_group_of_images(tmp_path: Path, name: str, suffix: str) -> None:
    """Decoders leave out what they cannot decode before the first key frame, and so does the index."""
    codec, options, _ = CUTS[name]
    whole = write_film(tmp_path / "whole.mkv", codec, options)
    path = copy_packets(whole, tmp_path / f"cut.{suffix}", first=3)
    expected = decode_straight(path)
    assert 0 < len(expected) < LENGTH
    assert_read_as_decoded(path, expected)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("keys", [8, 250])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_edit_lists_that_hide_frames(tmp_path: Path, suffix: str, keys: int, codec: str) -> None:
    """Films as ffmpeg -ss cuts them without encoding: the key frame lies before the cut."""
    whole = write_film(tmp_path / "whole.mp4", codec, {"g": str(keys), "x265-params": f"log-level=0:keyint={keys}"})
    path = copy_packets(whole, tmp_path / f"cut.{suffix}", change=shifted(0.4))
    expected = decode_straight(path)
    assert [number(frame_HW3) for frame_HW3 in expected] == list(range(10, LENGTH))
    assert_read_as_decoded(path, expected)


JOINED = {
    "b_frames.ts": ("libx264", X264, "yuv420p"),
    "one_key_frame.ts": ("libx264", {"bf": "0", "g": "250"}, "yuv420p"),
    "program.mpg": ("mpeg2video", MPEG, "yuv420p"),
    "motion.mjpeg": ("mjpeg", {}, "yuvj420p"),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_films(tmp_path: Path, name: str) -> None:
    """Time stamps start again where the second film begins."""
    codec, options, pixels = JOINED[name]
    parts = [
        write_film(tmp_path / f"{frames[0]}_{name}", codec, options, frames=frames, pixels=pixels)
        for frames in (range(9), range(9, LENGTH))
    ]
    path = tmp_path / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = decode_straight(path)
    assert len(expected) >= LENGTH - 1
    assert_read_as_decoded(path, expected)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_time_stamps_that_repeat_or_run_backward(tmp_path: Path, period: int) -> None:
    whole = write_film(tmp_path / "whole.mp4", "libx264", {"bf": "0", "g": "8"})

    def change(i: int, packet: av.Packet) -> None:
        packet.pts = packet.dts = i // period * packet.duration if period > 1 else packet.dts
        packet.pts += (7 - i % 8) * packet.duration if period == 3 else 0

    path = copy_packets(whole, tmp_path / "backward.mkv", change=change)
    assert_read_as_decoded(path, decode_straight(path))


def test_packed_b_frames(tmp_path: Path) -> None:
    source = write_film(tmp_path / "plain.mov", "mpeg4", MPEG)
    path = films.with_packed_b_frames(source, tmp_path / "packed.avi")
    expected = decode_straight(path)
    assert [number(frame_HW3) for frame_HW3 in expected] == list(range(LENGTH))
    assert_read_as_decoded(path, expected)


def test_an_attached_image_is_no_film(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", "libx264", X264)
    path = films.with_cover(film, tmp_path / "cover.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    assert_read_as_decoded(path, decode_straight(film))


MATRICES: dict[str, tuple[tuple[int, int, int, int] | None, Callable[[np.ndarray], np.ndarray]]] = {
    "all zero": (None, lambda frame_HW3: frame_HW3),
    "a quarter clockwise": ((0, 1, -1, 0), lambda frame_HW3: np.rot90(frame_HW3, -1)),
    "a half": ((-1, 0, 0, -1), lambda frame_HW3: np.rot90(frame_HW3, 2)),
    "a quarter counterclockwise": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda frame_HW3: frame_HW3[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frame_HW3: frame_HW3[::-1]),
    "transposed": ((0, 1, 1, 0), lambda frame_HW3: frame_HW3.transpose(1, 0, 2)),
    "twice as large": ((2, 0, 0, 2), lambda frame_HW3: frame_HW3),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices(tmp_path: Path, name: str) -> None:
    """As ffmpeg turns and mirrors."""
    matrix, turn = MATRICES[name]
    film = write_film(tmp_path / "film.mp4", frames=range(5))
    path = films.with_display_matrix(film, tmp_path / "turned.mp4", matrix)
    assert_read_as_decoded(path, [turn(frame_HW3) for frame_HW3 in decode_straight(film)])


def test_a_film_that_stands_askew_is_refused(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", frames=range(3))
    path = films.with_display_matrix(film, tmp_path / "askew.mp4", (1, 1, -1, 1))
    with pytest.raises(
        VideoError, match=r"askew.mp4: frame 0 cannot be decoded \(its display matrix is not a quarter turn"
    ):
        open_video(path)


def test_444_of_an_old_encoder(tmp_path: Path) -> None:
    """Decoders read it in another way if they know the encoder's version, which only the first frame says."""
    path = write_film(tmp_path / "old.mp4", "libx264", X264, pixels="yuv444p")
    content = path.read_bytes()
    path.write_bytes(re.sub(rb"core \d\d\d", b"core 148", content))
    assert path.read_bytes() != content
    index = index_video(path)
    assert index.checksums_T is not None, "read by checksum, not by trust in its key frames"


def test_a_seek_saves_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame far from the start costs its group of images, whether the index was decoded or not."""
    decoded: list[int] = []
    decode_packets = video_frames.decode_packets

    def counted(*arguments: object) -> object:
        for frame in decode_packets(*arguments):
            decoded.append(frame[0])
            yield frame

    monkeypatch.setattr(video_frames, "decode_packets", counted)
    for name in ("film.mp4", "film.ts"):
        path = write_film(tmp_path / name, "libx264", {"bf": "2", "g": "10"}, frames=[t % 20 for t in range(100)])
        video = open_video(path)
        decoded.clear()
        assert number(read_frames(video, [95])[0].permute(1, 2, 0).numpy()) == 15
        assert len(decoded) <= 10
        decoded.clear()
        assert len(list(stream_frames(video))) == 100
        assert len(decoded) == 100, "straight on, without a seek"


def test_a_seek_that_misses(tmp_path: Path) -> None:
    """A frame is found without the seek, and no other seek is tried."""
    path = write_film(tmp_path / "film.mp4", "libx264", X264)
    index = index_video(path)
    index.times = dict.fromkeys(index.times, 10**6)
    assert_read_as_decoded(path, decode_straight(path))
    assert index.times == {}


def test_key_frames_from_which_other_images_are_decoded(tmp_path: Path) -> None:
    """They are left out from then on."""
    path = write_film(tmp_path / "film.ts", "libx264", X264)
    index = index_video(path)
    assert index.starts == [8, 16]
    index.checksums_T[12] ^= 1
    with pytest.raises(VideoError, match="frame 12 cannot be decoded .its data is damaged"):
        read_frames(open_video(path), [12])
    assert number(read_frames(open_video(path), [13])[0].permute(1, 2, 0).numpy()) == 13
    refresh = write_film(tmp_path / "refresh.ts", "libx264", REFRESH)
    assert_read_as_decoded(refresh, decode_straight(refresh))
    assert index_video(refresh).starts == []


def test_a_film_that_has_changed_is_indexed_again(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", frames=range(5))
    assert open_video(path).length == 5
    write_film(path, frames=range(3, 10))
    video = open_video(path)
    assert [number(frame.permute(1, 2, 0).numpy()) for frame in stream_frames(video)] == list(range(3, 10))
