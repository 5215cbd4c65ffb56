"""Frames in and films out."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from mfvis.data.check import check_frames
from mfvis.data.images import read_image
from mfvis.data.video import open_video, read_frames, video_writer
from mfvis.errors import VideoError
from mfvis.types import Video
from PIL import ExifTags, Image, ImageOps


def numbered(t: int, height: int = 34, width: int = 48) -> np.ndarray:
    """A frame whose gray level says which it is, with a little structure."""
    frame_HW3 = np.full((height, width, 3), 20 + 7 * t, np.uint8)
    frame_HW3[: height // 2, : width // 4] = (200, 30, 60)
    return frame_HW3


def numbers(frames_TCHW: torch.Tensor) -> list[int]:
    levels = frames_TCHW[:, :, -4:, -4:].float().mean((1, 2, 3))
    return [round((level - 20) / 7) for level in levels.tolist()]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames with B-frames, a key frame every eight, at uneven times."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "8", "bf": "2", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 34, "yuv420p"
        for t in range(30):
            frame = av.VideoFrame.from_ndarray(numbered(t), format="rgb24")
            frame.pts = t + (t // 7) * 3
            frame.time_base = Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("indices", [[0], [29], [5, 3, 5], [8, 7, 9, 16, 15], list(range(30)), [28, 0]])
def test_random_access(film: Path, indices: list[int]) -> None:
    video = open_video(film)
    assert (video.width, video.height, video.length, video.name) == (48, 34, 30, "film")
    frames_TCHW = read_frames(video, indices)
    assert frames_TCHW.dtype == torch.uint8 and frames_TCHW.shape == (len(indices), 3, 34, 48)
    assert numbers(frames_TCHW) == indices
    red = frames_TCHW[:, :, 4:8, 2:6].float().mean((0, 2, 3))
    assert red[0] > 150 and red[1] < 80, "RGB, not BGR"


def test_film_of_a_turned_phone(film: Path, tmp_path: Path) -> None:
    one, none, last = struct.pack(">i", 1 << 16), bytes(4), struct.pack(">i", 1 << 30)
    upright = one + none * 3 + one + none * 3 + last
    clockwise = none + one + none + struct.pack(">i", -(1 << 16)) + none * 4 + last
    head, track = film.read_bytes().split(b"tkhd")
    (tmp_path / "turned.mp4").write_bytes(head + b"tkhd" + track.replace(upright, clockwise, 1))
    video = open_video(tmp_path / "turned.mp4")
    assert (video.width, video.height) == (34, 48)
    lying, turned = read_frames(open_video(film), [9]), read_frames(video, [9])
    assert torch.equal(turned, lying.rot90(-1, (2, 3))), "the red corner, top left, goes to the top right"


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for t in (0, 1, 2, 10, 11, 100):
        Image.fromarray(numbered(t % 30)).save(tmp_path / f"{t}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = open_video(tmp_path)
    assert [path.stem for path in video.frames] == ["0", "1", "2", "10", "11", "100"]
    assert (video.length, video.fps) == (6, None)
    assert numbers(read_frames(video, [4, 0])) == [11, 0]
    assert read_frames(video, []).shape == (0, 3, 34, 48)


def test_gray_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 77).save(tmp_path / "0.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 0)).save(tmp_path / "1.png")
    frames_TCHW = read_frames(open_video(tmp_path), [0, 1])
    assert frames_TCHW[0].unique().tolist() == [77]
    assert frames_TCHW[1, :, 0, 0].tolist() == [1, 2, 3]


def test_sixteen_bits_become_eight_and_thirty_two_are_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(ramp).save(tmp_path / "16.png")
    assert read_image(tmp_path / "16.png")[..., 1].tolist() == (ramp // 256).tolist()
    for kind in (np.int32, np.float32):
        Image.fromarray(ramp.astype(kind)).save(tmp_path / "32.tiff")
        with pytest.raises(VideoError, match="32.tiff: the image has 32 bits a pixel. Save it with 8"):
            read_image(tmp_path / "32.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("number", range(10))
def test_images_are_turned_as_their_exif_says(tmp_path: Path, number: int, suffix: str) -> None:
    """0 and 9 mean nothing."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    lying = Image.fromarray(np.random.default_rng(3).integers(0, 255, (6, 9, 3), np.uint8).repeat(8, 0).repeat(8, 1))
    lying.save(tmp_path / f"lying.{suffix}", exif=exif)
    with Image.open(tmp_path / f"lying.{suffix}") as image:
        shown_HW3 = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert shown_HW3.shape[:2] == ((72, 48) if 5 <= number <= 8 else (48, 72))
    video = open_video(tmp_path)
    assert (video.height, video.width) == shown_HW3.shape[:2]
    assert torch.equal(read_frames(video, [0])[0].permute(1, 2, 0), torch.from_numpy(shown_HW3.copy()))
    assert check_frames(video) == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"rubbish all over", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_a_image_no_harm(tmp_path: Path, exif: bytes, suffix: str) -> None:
    Image.new("RGB", (48, 34), (70, 70, 70)).save(tmp_path / f"0.{suffix}", exif=exif)
    assert read_image(tmp_path / f"0.{suffix}").shape == (34, 48, 3)


def test_a_lying_image_of_sixteen_bits(tmp_path: Path) -> None:
    ramp, exif = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2700, Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter, clockwise
    Image.fromarray(ramp).save(tmp_path / "16.png", exif=exif)
    assert read_image(tmp_path / "16.png")[..., 2].tolist() == (np.rot90(ramp, -1) // 256).tolist()


@pytest.mark.parametrize("size", [(34, 48), (33, 47), (1, 1)])
def test_writer(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "new" / "out.mp4"
    with video_writer(path, 12.5, size) as write:
        for t in range(5):
            write(numbered(t, *size))
        assert not path.exists(), "a film appears when it is whole"
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]
    video = open_video(path)
    assert (video.height, video.width) == tuple(side + side % 2 for side in size)
    assert (video.length, video.fps) == (5, 12.5)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    if size == (34, 48):
        assert numbers(read_frames(video, range(5))) == list(range(5))


def test_writer_leaves_nothing_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), video_writer(tmp_path / "out.mp4", 10, (34, 48)) as write:
        write(numbered(0))
        raise RuntimeError
    message = r"float32 \[34, 48, 3\], expected uint8 \[34, 48, 3\]"
    with pytest.raises(VideoError, match=message), video_writer(tmp_path / "out.mp4", 10, (34, 48)) as write:
        write(numbered(0).astype(np.float32))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VideoError, match="at 0 frames per second"), video_writer(tmp_path / "out.mp4", 0, (34, 48)):
        pass


MALFORMED_VIDEOS = {
    "none.mp4": (lambda film: None, "none.mp4: the video file does not exist"),
    "empty.mp4": (lambda film: b"", "empty.mp4: not a video file, or a damaged one"),
    "text.mp4": (lambda film: b"no film at all " * 50, "text.mp4: not a video file, or a damaged one"),
    "cut.mp4": (lambda film: film[:1200], "cut.mp4: not a video file, or a damaged one"),
}


@pytest.mark.parametrize("name", MALFORMED_VIDEOS)
def test_malformed_videos(name: str, tmp_path: Path, film: Path) -> None:
    make, message = MALFORMED_VIDEOS[name]
    content = make(film.read_bytes())
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=message):
        open_video(tmp_path / name)


def test_malformed_folder_and_sound_without_video(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(VideoError, match="folder: the folder has no image"):
        open_video(tmp_path / "folder")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="sound.mp4: the file has no video stream"):
        open_video(tmp_path / "sound.mp4")


def test_malformed_end_of_a_film(tmp_path: Path) -> None:
    with video_writer(tmp_path / "film.mp4", 10, (64, 64)) as write:
        for t in range(20):
            write(np.random.default_rng(t).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    video = open_video(tmp_path / "cut.mp4")
    assert read_frames(video, [3]).shape == (1, 3, 64, 64)
    with pytest.raises(VideoError, match="cut.mp4: frame 18 (cannot be decoded|does not exist)"):
        read_frames(Video(1, "cut", 64, 64, 20, video.frames), [18])


@pytest.mark.parametrize(
    ("width", "height", "length", "indices", "message"),
    [
        (48, 34, 30, [3, 30], "video film: frame 30 does not exist, it has frames 0 to 29"),
        (48, 34, 99, [60], "film.mp4: frame 60 does not exist, the file has 30 frames"),
        (34, 48, 30, [2], "frame 2 is 48 x 34 pixels, but video film is 34 x 48"),
    ],
)
def test_malformed_wishes_of_a_film(
    width: int, height: int, length: int, indices: list[int], message: str, film: Path
) -> None:
    with pytest.raises(VideoError, match=message):
        read_frames(Video(1, "film", width, height, length, film), indices)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.unlink(), "1.jpg: the frame's file does not exist"),
        (lambda image: image.write_bytes(image.read_bytes()[:500]), "1.jpg: the image cannot be decoded"),
        (lambda image: Image.fromarray(numbered(1)[:, :20]).save(image), "1.jpg: frame 1 is 20 x 34 pixels"),
    ],
    ids=["gone", "cut off", "of another size"],
)
def test_malformed_frames(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    for t in range(3):
        Image.fromarray(numbered(t)).save(tmp_path / f"{t}.jpg")
    folder = open_video(tmp_path)
    spoil(tmp_path / "1.jpg")
    assert len(read_frames(folder, [0, 2])) == 2
    with pytest.raises(VideoError, match=message):
        read_frames(folder, [0, 1])


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "length"), [("bedroom", 200), ("car-detection", 377)])
def test_real_films(real_data: Path, name: str, length: int) -> None:
    video = open_video(real_data / "clips" / f"{name}.mp4")
    assert video.length == length
    indices = [40, 3, 41]
    frames_TCHW = read_frames(video, indices)
    with av.open(str(video.frames)) as container:
        decoded = [frame for _, frame in zip(range(42), container.decode(video=0), strict=False)]
    for frame_CHW, index in zip(frames_TCHW, indices, strict=True):
        assert np.array_equal(frame_CHW.permute(1, 2, 0).numpy(), decoded[index].to_ndarray(format="rgb24"))
