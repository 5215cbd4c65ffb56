"""Names in users' files: whatever they hold, every command ends with a result or one clear message, and what it prints
cannot drive a terminal."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from import_helpers import write_images
from mfvis.cli import main
from mfvis.data.bdd100k_results import write_bdd100k_results
from mfvis.data.datasets import parse_spec
from mfvis.data.video import open_video
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.text import file_stems, name_fault, printable, shortened, unique_names
from mfvis.types import VideoDataset
from mfvis.vis.overlay import overlay_paths
from mfvis.vis.report import Report, Table, write_report

NAMES = {
    "NUL": "a\0b",
    "half a pair": "\ud800",
    "half of a name that is not UTF-8": "caf\udce9",
    "clear the screen": "\x1b[2J",
    "set the title": "\x1b]0;owned\x07dog",
    "one byte controls": "a\x9b2Jb",
    "forge a line": "a\nmfvis: 0 problems",
    "overwrite the line": "a\rno problem",
    "line separator": "a\u2028b",
    "turn the text": "abc\u202egpj",
    "240 characters": "x" * 240,
    "250 characters": "x" * 250,
    "300 characters": "x" * 300,
    "240 bytes": "日" * 80,
    "parent folder": "..",
    "up and down": "../../up",
    "absolute": "/etc/passwd",
    "backslash": "a\\b",
    "colon": "C:film",
    "protocol": "http://127.0.0.1/a",
    "superscript": "²",
    "option": "--out",
    "markup": "<script>alert(1)</script>&amp;",
    "quotes": "a'b\"c",
    "emoji": "👨‍👩‍👧",
    "right to left": "שלום",
    "spaces": "  ",
    "percent": "%s%n%05d",
}
LABEL = [
    *("--backbone.name", "tiny", "--backbone.weights", "None", "--backbone.no-frozen", "--zoom", "1", "--clip", "2"),
    *("--num-models", "1", "--shared-steps", "0", "--optim.steps", "1", "--optim.warmup", "0", "--device", "cpu"),
    *("--propagation.weight", "0", "--refine.steps", "0", "--short-side", "32"),
]
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def checkpoint(demo_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    flags = ["--train.steps", "1", "--train.warmup", "0", "--train.checkpoint-every", "1"]
    assert main(["train", "--preset", "test", "--data", str(demo_data[0]), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process; returns its status and what it printed, which is free of control characters."""

    def run(*argv: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert status in (0, 1, 2) and not CONTROLS.search(said), said
        return status, said

    return run


def annotations(folder: Path, **changes: str) -> Path:
    """A JSON with one video of two frames, whose names are as in `changes`: of the video, its category, its files."""
    frames = write_images(folder / "fr", 2)
    files = [f"fr/{path.name}" for path in sorted(frames.iterdir())]
    video = {"id": 1, "width": 80, "height": 60, "length": 2, "file_names": files}
    video["file_names"] = [changes.get("file", files[0]), files[1]]
    category = {"id": 1, "name": changes.get("category", "dog")}
    boxes = [[5, 5, 20, 20], [6, 5, 20, 20]]
    annotation = {"id": 1, "video_id": 1, "category_id": 1, "bboxes": boxes}
    root = {"videos": [video | {"name": changes.get("video", "v")}], "annotations": [annotation]}
    path = folder / "boxes.json"
    path.write_text(json.dumps(root | {"categories": [category]}))
    return path


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_command_that_reads_annotations(name: str, checkpoint: Path, tmp_path: Path, run) -> None:
    for what in ("video", "category", "file"):
        folder = tmp_path / what
        data = annotations(folder, **{what: name})
        valid = run("data", "check", data)[0] == 0
        if what == "video" or not valid:
            predict = ["predict", data, "--checkpoint", checkpoint, "--out", folder / "found", "--device", "cpu"]
            assert run(*predict)[0] == (0 if valid else 2)
            assert len(list(folder.glob("found/*.mp4"))) == valid
        if what == "category":
            run("train", "--preset", "test", "--data", data, "--dry-run")
            run("data", "split", data, "--out", folder / "split")
            run("convert", checkpoint, "--classes", data, "--out", folder / "run")


@pytest.mark.parametrize("name", ["x" * 250, "..", "/etc/passwd", "C:film", NAMES["markup"], NAMES["forge a line"]])
def test_labels_of_any_name(name: str, tmp_path: Path, run) -> None:
    data = annotations(tmp_path, video=name)
    valid = run("data", "check", data)[0] == 0
    assert run("label", data, "--out", tmp_path / "labels", *LABEL)[0] == (0 if valid else 2)
    if valid:
        (overlay,) = tmp_path.glob("labels/overlays/*.mp4")
        assert open_video(overlay).length == 2
        labels = tmp_path / "labels" / "boxes.json"
        assert run("eval", labels, "--data", labels)[0] == 0


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_films_and_folders_of_any_name(name: str, video_film: Path, checkpoint: Path, tmp_path: Path, run) -> None:
    film = tmp_path / "in" / f"{name[:80].replace('/', '-')}.mp4"
    film.parent.mkdir()
    try:
        film.write_bytes(video_film.read_bytes())
    except (OSError, ValueError):
        return  # no file can be called so
    assert run("predict", film, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--device", "cpu")[0] == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


@pytest.fixture(scope="module")
def video_film(demo_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mfvis.data.video import read_frames, video_writer

    video = load_dataset(demo_data[1]).videos[0]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with video_writer(path, 10.0, (video.height, video.width)) as write:
        for frame_CHW in read_frames(video, range(2)):
            write(frame_CHW.permute(1, 2, 0).numpy())
    return path


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_imported_names(name: str, six_images: Path, tmp_path: Path, run) -> None:
    table = tmp_path / "boxes.csv"
    quoted = name.replace('"', '""')
    rows = ["frame,id,x,y,w,h,class", f'0,1,1,1,5,5,"{quoted}"']
    table.write_bytes("\n".join(rows).encode("utf-8", "surrogatepass"))
    status, said = run("data", "import", table, "--frames", six_images, "--out", tmp_path / "out.json")
    if status == 0:
        assert run("data", "check", tmp_path / "out.json")[0] == 0


def test_problems_and_errors_are_printed_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem("a\x1b[2J.json", "frame\n1", "is \ud800", "Mend\r it")
    assert str(problem) == r"a\x1b[2J.json: frame\n1: is \ud800. Mend\r it"
    assert main(["data", "check", "gone\x1b[2J.json"]) == 1
    assert r"gone\x1b[2J.json: file: does not exist" in capsys.readouterr().out
    assert main(["replay", "gone\x1b[2J"]) == 2
    assert r"gone\x1b[2J" in capsys.readouterr().err


def test_a_report_holds_names_as_text(tmp_path: Path) -> None:
    rows = tuple((name, name) for name in NAMES.values())
    report = Report(NAMES["markup"], "\x1b", (), (Table("\0", "\ud800", ("name", "\x9b"), rows),), (), ("\u202e",))
    write_report(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert not CONTROLS.search(page)


def test_overlays_never_share_a_file(six_images: Path, tmp_path: Path) -> None:
    video = open_video(six_images)
    names = [*NAMES.values(), "a", "A", "a-2", "é", "e\u0301", "..", ".", "", "x" * 249 + "y"]
    paths = overlay_paths(tmp_path, [replace(video, id=place, name=name) for place, name in enumerate(names)])
    assert len({path.name.casefold() for path in paths}) == len(names)
    for path in paths:
        assert path.parent == tmp_path and not path.name.startswith(".") and len(path.name.encode()) < 200
        path.touch()


def test_an_overlay_replaces_no_other_film(tmp_path: Path) -> None:
    frames = write_images(tmp_path / "frames", 2)
    (tmp_path / "b.mp4").touch()
    folder, film = open_video(frames), replace(open_video(frames), id=2, name="c", frames=tmp_path / "b.mp4")
    with pytest.raises(ConfigError, match="would replace .*b.mp4 itself"):
        overlay_paths(tmp_path, [replace(folder, name="b"), film])


def test_a_bitmask_folder_stays_in_its_place(six_images: Path, tmp_path: Path) -> None:
    video = replace(open_video(six_images), name="../../up")
    write_bdd100k_results(tmp_path / "a" / "b", VideoDataset(tmp_path, (), (video,)), [], "bitmask")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(list((tmp_path / "a" / "b").glob("*/*.png"))) == 6


def test_videos_of_one_name_get_different_ones(tmp_path: Path) -> None:
    assert unique_names(["a", "a-1", "a", "b"], [1, 2, 3, 4]) == ["a-1-1", "a-1", "a-3", "b"]
    path = annotations(tmp_path)
    root = json.loads(path.read_text())
    video = root["videos"][0]
    root["videos"] = [video | {"id": id, "name": name} for id, name in enumerate(["a", "a-1", "a", "a/1"], 1)]
    path.write_text(json.dumps(root))
    assert len({video.name for video in load_dataset(path).videos}) == 4


@pytest.mark.parametrize("digits", ["²3", "٣", "9" * 400])
def test_digits_that_are_no_numbers(digits: str, six_images: Path, tmp_path: Path, run) -> None:
    for option in (f"share={digits}", f"length={digits}"):
        with pytest.raises(ConfigError, match="is not an option"):
            parse_spec(f"coco:a@{option},split=train")
    names = [f"{digits[:9]}{t}.jpg" for t in (10, 2)]
    for path, name in zip(sorted(six_images.iterdir()), names, strict=False):
        (tmp_path / name).write_bytes(path.read_bytes())
    assert [path.name for path in open_video(tmp_path).frames] == names[::-1]


def test_faults_of_names() -> None:
    assert name_fault("犬　猫 👨‍👩‍👧 é") is None and name_fault("x" * 255) is None
    assert "characters" in name_fault("x" * 256)
    assert "cannot be printed" in name_fault("a\x1b")
    assert printable("a\u200db") == "a\u200db", "joins letters and emoji"
    assert file_stems([""]) == ["video"]


def test_values_are_shown_short_however_large_they_are() -> None:
    bomb: object = [1] * 9
    for _ in range(60):
        bomb = [bomb] * 9
    deep: object = []
    for _ in range(100_000):
        deep = {"a": deep}
    for value in (bomb, deep, 1 << 10**6, [1 << 10**6], "x" * 10**7, b"x" * 10**6, {i: i for i in range(10**5)}):
        assert len(shortened(value)) <= 60
    assert shortened({"width": 0, "height": 4}) == "{'width': 0, 'height': 4}"


def test_names_of_a_published_layout_are_checked_too(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    image = {"id": 1, "width": 80, "height": 60, "file_name": "a\0.jpg"}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    from mfvis.data.coco import load_coco

    with pytest.raises(DataError, match="has a NUL character"):
        load_coco(path, images)
