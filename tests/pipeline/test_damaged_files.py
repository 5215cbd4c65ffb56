"""Damaged, hostile and foreign files in place of frames: each is reported by the readers and by ``data check``."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import av
import films
import numpy as np
import pytest
from films import LENGTH, number, write_film
from mfvis.data.check import check_frames
from mfvis.data.images import read_image
from mfvis.data.video import open_video, read_frames, stream_frames, video_writer
from mfvis.data.video_index import index_video
from mfvis.errors import VideoError
from mfvis.types import Video
from PIL import Image


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(av.logging.PANIC)


def as_video(path: Path, length: int = LENGTH) -> Video:
    """A video as an annotation file declares it."""
    return Video(1, path.stem, films.WIDTH, films.HEIGHT, length, path)


def problem_of(path: Path, length: int = LENGTH) -> str:
    problems = check_frames(as_video(path, length))
    assert len(problems) == 1
    return str(problems[0])


def spoiled(path: Path, share: float, size: int) -> Path:
    """The same film with a hole of zeros in it."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * share)
    content[start : start + size] = bytes(size)
    target = path.with_stem("spoiled")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(("share", "reason"), [(0.6, "the file is cut off in frame"), (0.575, "Invalid data")])
def test_a_film_that_is_cut_off(tmp_path: Path, share: float, reason: str) -> None:
    """In the middle of the last frame, which the decoder may show all the same, and at its start."""
    whole = write_film(tmp_path / "whole.avi", "mjpeg", pixels="yuvj420p")
    path = tmp_path / "cut.avi"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    video = open_video(path)
    last = video.length - 1
    assert [number(frame.permute(1, 2, 0).numpy()) for frame in read_frames(video, range(last))] == list(range(last))
    with pytest.raises(VideoError, match=f"cut.avi: frame {last} cannot be decoded .{reason}"):
        list(stream_frames(video))
    assert f"cut.avi: video 1: frame {last} cannot be decoded ({reason}" in problem_of(path)


def test_a_hole_in_a_film(tmp_path: Path) -> None:
    """Frames before it are read; none behind it, where their indices are not known."""
    path = spoiled(write_film(tmp_path / "film.avi", "mjpeg", pixels="yuvj420p"), 0.5, 300)
    video = open_video(path)
    problem = problem_of(path)
    damaged = int(problem.split("frame ")[1].split(" ")[0])
    assert 3 < damaged < LENGTH - 3 and video.length == LENGTH
    assert number(read_frames(video, [damaged - 1])[0].permute(1, 2, 0).numpy()) == damaged - 1
    for frame in (damaged, damaged + 1, LENGTH - 1):
        with pytest.raises(VideoError, match=f"spoiled.avi: frame {frame} cannot be decoded"):
            read_frames(video, [frame])


def test_a_frame_that_the_decoder_patches(tmp_path: Path) -> None:
    """It and the frames that build on it are refused, those after the next key frame are read."""
    film = write_film(tmp_path / "film.mpg", "mpeg2video", {"bf": "0", "g": "8", "qmin": "1", "qmax": "3"})
    path = spoiled(film, 0.52, 60)
    with av.open(str(path)) as container:
        corrupt = [i for i, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
    assert len(corrupt) == 1 and corrupt[0] % 8, "the film itself"
    video = open_video(path)
    assert f"frame {corrupt[0]} cannot be decoded (the data of frame {corrupt[0]} is damaged" in problem_of(
        path, video.length
    )
    with pytest.raises(VideoError, match=f"frame {corrupt[0]} cannot be decoded .the data of frame {corrupt[0]}"):
        list(stream_frames(video))
    following = corrupt[0] // 8 * 8 + 7
    with pytest.raises(VideoError, match=f"frame {following} cannot be decoded .the data of frame {corrupt[0]}"):
        read_frames(video, [following])
    assert number(read_frames(video, [following + 1])[0].permute(1, 2, 0).numpy()) == following + 1


def test_a_hole_in_an_mp4_is_found_when_it_is_opened(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", "libx264", {"bf": "0", "g": "250", "crf": "1"})
    path = spoiled(film, 0.5, 2000)
    problem = problem_of(path)
    assert "cannot be decoded (" in problem  # the reason depends on the version of FFmpeg
    damaged = int(problem.split("frame ")[1].split(" ")[0])
    # On some machines the encoder writes other bytes, and with this hole FFmpeg finds one frame less.
    for frame in (damaged, damaged + 1, LENGTH - 2):
        with pytest.raises(VideoError, match=f"spoiled.mp4: frame {frame} cannot be decoded"):
            read_frames(open_video(path), [frame])


def test_check_finds_the_frame_at_which_a_film_changes_its_size(tmp_path: Path) -> None:
    parts = [write_film(tmp_path / f"{i}.ts", frames=range(6)) for i in range(2)]
    small, films.HEIGHT = films.HEIGHT, 2 * films.HEIGHT
    try:
        parts[1] = write_film(tmp_path / "1.ts", frames=range(6))
    finally:
        films.HEIGHT = small
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert "the video file is 64 x 96 from frame 6 on, the video is declared 64 x 48" in problem_of(path, 12)


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10**6, 2**31 - 1])
def test_images_of_absurd_sizes(tmp_path: Path, side: int) -> None:
    (tmp_path / "0.png").write_bytes(png(side, side))
    with pytest.raises(VideoError, match=r"0.png: the image (cannot be decoded|is \d+ x \d+, too large)"):
        read_image(tmp_path / "0.png")
    assert "0.png: video 1, frame 0: the image" in str(check_frames(Video(1, "0", 64, 48, 1, (tmp_path / "0.png",)))[0])


def test_a_film_of_absurd_size(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.gif", "gif", pixels="rgb8")
    content = bytearray(film.read_bytes())
    content[6:10] = struct.pack("<HH", 65535, 65535)
    film.write_bytes(content)
    with pytest.raises(VideoError, match=r"film.gif: (no frame can be decoded|its frames are)"):
        open_video(film)


@pytest.mark.parametrize("suffix", [".mp4", ".jpg"])
def test_pipes_devices_and_folders_do_not_hang(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    (tmp_path / "file").touch()
    kinds = {"pipe": "is a pipe or a device", "device": "is a pipe or a device", "folder": "is a folder, not a file"}
    for name, message in kinds.items():
        path = tmp_path / f"{name}{suffix}"
        frames = path if suffix == ".mp4" else (path,)
        video = Video(1, name, 64, 48, 1, frames)
        assert message in str(check_frames(video)[0])
        with pytest.raises(VideoError, match=message):
            read_frames(video, [0])
    with pytest.raises(VideoError, match="does not exist"):
        read_frames(as_video(tmp_path / "file" / "film.mp4"), [0])


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "%03d.mp4", "pipe:0", "concat:a|b", "a b?*.mp4", "é.mp4"])
def test_names_that_programs_take_for_something_else(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative ones, too, which begin with what looks like a protocol."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="the video file does not exist"):
        read_frames(as_video(Path(name)), [0])
    write_film(tmp_path / "film.mp4", frames=range(3))
    (tmp_path / "film.mp4").rename(name)
    assert check_frames(as_video(Path(name), 3)) == []
    assert number(read_frames(as_video(Path(name), 3), [2])[0].permute(1, 2, 0).numpy()) == 2


def test_a_name_with_a_colon_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with video_writer("http:film.mp4", 10, (48, 64)) as write:
        write(films.image(3))
    assert open_video("http:film.mp4").length == 1


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile 'film.mp4'\n",
    "itself": "ffconcat version 1.0\nfile 'list.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/film.ts\n#EXT-X-ENDLIST\n",
    "text": "no film at all\n" * 50,
    "svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "txt"])
def test_no_playlist_and_no_text_is_a_film(tmp_path: Path, kind: str, suffix: str) -> None:
    write_film(tmp_path / "film.mp4", frames=range(3))
    path = tmp_path / f"list.{suffix}"
    path.write_text(PLAYLISTS[kind])
    with pytest.raises(VideoError, match=r"list\.\w+: (not a video file|FFmpeg cannot decode)"):
        open_video(path)


def test_a_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives EPS to Ghostscript, whatever the file's name is."""
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\necho 10.0\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(x) print\n%%EOF\n"
    (tmp_path / "0.jpg").write_text(eps)
    with pytest.raises(VideoError, match="0.jpg: the image cannot be decoded"):
        read_image(tmp_path / "0.jpg")
    assert "the image cannot be decoded" in str(check_frames(Video(1, "0", 64, 48, 1, (tmp_path / "0.jpg",)))[0])
    assert not (tmp_path / "called").exists()


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    for t in range(3):
        Image.fromarray(films.image(t)).save(tmp_path / f"{t}.PNG")
        (tmp_path / f"._{t}.PNG").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40))
    video = open_video(tmp_path)
    assert [path.name for path in video.frames] == ["0.PNG", "1.PNG", "2.PNG"]
    assert check_frames(video) == []


def test_a_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(films.image(4)).save(tmp_path / "one.png")
    video = open_video(tmp_path / "one.png")
    assert (video.length, video.frames) == (1, (tmp_path / "one.png",))
    assert np.array_equal(read_frames(video, [0])[0].permute(1, 2, 0), films.image(4))


def damage_image(film: Path, frame: int) -> None:
    """Overwrite data within an image, where the container and the lengths of the NAL units remain valid."""
    with av.open(str(film)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = packets[index_video(film).packets_T[frame]][-150:-30]
    content = film.read_bytes()
    assert content.count(data) == 1
    film.write_bytes(content.replace(data, b"\xff" * len(data)))
    os.utime(film, (0, 0))  # the clock of files is coarse


ONE_KEY_FRAME = {"g": "250", "crf": "1", "threads": "1", "sc_threshold": "0"}


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_damage_within_a_image_of_h264(tmp_path: Path, suffix: str) -> None:
    film = write_film(tmp_path / f"film.{suffix}", "libx264", {"bf": "0"} | ONE_KEY_FRAME)
    damage_image(film, 12)
    assert f"film.{suffix}: video 1: frame 12 cannot be decoded (the data of frame 12 is damaged)" in problem_of(film)
    video = open_video(film)
    assert number(read_frames(video, [11])[0].permute(1, 2, 0).numpy()) == 11
    for frame in (12, 20):
        with pytest.raises(VideoError, match=f"frame {frame} cannot be decoded .the data of frame 12 is damaged"):
            read_frames(video, [frame])


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_frames_that_depend_on_a_damaged_one_displayed_later(tmp_path: Path, suffix: str) -> None:
    film = write_film(tmp_path / f"film.{suffix}", "libx264", {"bf": "3", "b-adapt": "0"} | ONE_KEY_FRAME)
    order = index_video(film).packets_T.tolist()
    damaged = next(frame for frame in range(8, LENGTH) if order[frame] < min(order[frame - 3 : frame]))
    damage_image(film, damaged)
    video = open_video(film)
    for frame in (damaged - 3, damaged - 1, damaged):
        with pytest.raises(VideoError, match=f"frame {frame} cannot be decoded .the data of frame {damaged} is"):
            read_frames(video, [frame])
    assert number(read_frames(video, [damaged - 4])[0].permute(1, 2, 0).numpy()) == damaged - 4
    assert f"the data of frame {damaged} is damaged" in problem_of(film)


def test_a_film_whose_first_frame_is_damaged_is_opened(tmp_path: Path) -> None:
    """Its size and length are known; reading it says what is wrong."""
    film = write_film(tmp_path / "film.mkv", "libx264", {"bf": "0"} | ONE_KEY_FRAME)
    damage_image(film, 0)
    video = open_video(film)
    assert (video.width, video.height, video.length) == (films.WIDTH, films.HEIGHT, LENGTH)
    with pytest.raises(VideoError, match="frame 0 cannot be decoded .the data of frame 0 is damaged"):
        list(stream_frames(video))
