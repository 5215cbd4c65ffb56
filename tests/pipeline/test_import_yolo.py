"""The folder of texts that a YOLO tracker writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_helpers import ids_of, imported, notes_of, problems_of, tracks_of, write, write_images

DOG = [[30, 15, 20, 30], None, None, None, None, [0, 15, 20, 30]]


def test_yolo(tmp_path: Path, six_images: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "clip_1.txt", "1 0.5 0.5 0.25 0.5 7\n0 0.25 0.5 0.5 1 0.875 3\n")
    write(labels / "clip_6.txt", "1 0.125 0.5 0.25 0.5 7\n")
    write(labels / "classes.txt", "cat\ndog\n")
    expected = [("dog", DOG), ("cat", [[0, 0, 40, 60], None, None, None, None, None])]
    root = imported(labels, six_images)
    assert tracks_of(root) == expected and ids_of(root) == [(7, 7), (3, 3)]
    for old, new in (("clip_1.txt", "000001.txt"), ("clip_6.txt", "000006.txt")):
        (labels / old).rename(labels / new)
    assert tracks_of(imported(labels, six_images)) == expected
    (labels / "classes.txt").unlink()
    problems = problems_of(labels, six_images, categories=["dog"])
    assert "has classes 0, 1 without names. Name them: --class-names 0=NAME 1=NAME, or a file" in problems
    assert tracks_of(imported(labels, six_images, class_names=["0=cat", "1=dog"])) == expected
    write(labels / "000001.txt", "1 0.5 0.5 0.25 0.5 7\n")
    assert tracks_of(imported(labels, six_images, categories=["dog"])) == [("dog", DOG)]
    assert "has class 1 without a name" in problems_of(labels, six_images)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data.yaml", "names:\n  0: cat\n  1: dog\n"),
        ("data.yaml", "nc: 2\nnames: [cat, dog]\n"),
        ("labels/dataset.yaml", "names: {'1': dog}\n"),
        ("obj.names", "cat\r\ndog\r\n"),
    ],
)
def test_a_data_set_with_its_names(tmp_path: Path, six_images: Path, file: str, content: str) -> None:
    write(tmp_path / "set" / file, content)
    write(tmp_path / "set" / "train.txt", "images/train/frame_000000.jpg\n")
    labels = tmp_path / "set" / "labels" / "train"
    write(labels / "frame_000000.txt", "1 0.5 0.5 0.25 0.5 7\n")  # as CVAT's "Ultralytics YOLO Detection Track" has it
    write(labels / "frame_000005.txt", "1 0.125 0.5 0.25 0.5 7\n")
    for folder in (labels, tmp_path / "set"):
        assert tracks_of(imported(folder, six_images)) == [("dog", DOG)]
    (tmp_path / "set" / "labels" / "train").rename(tmp_path / "set" / "obj_train_data")
    if not file.startswith("labels"):
        (tmp_path / "set" / "labels").rmdir()
        assert tracks_of(imported(tmp_path / "set", six_images)) == [("dog", DOG)]


def test_lines_without_a_track_are_left_out(tmp_path: Path, six_images: Path) -> None:
    labels, dog = tmp_path / "labels", {"categories": ["dog"]}
    write(labels / "clip_1.txt", "1 0.5 0.5 0.25 0.5\n")
    write(labels / "clip_2.txt", "1 0.5 0.5 0.25 0.5 12345678\n1 0.2 0.2 0.1 0.1\n1 0.2 0.2 0 0.1 3\n")
    write(labels / "clip_3.txt", "\n")
    root = imported(labels, six_images, **dog)
    assert tracks_of(root) == [("dog", [None, [30, 15, 20, 30], None, None, None, None])]
    assert ids_of(root) == [(12345678, 12345678)]
    notes = notes_of(labels, six_images, **dog)
    assert "2 boxes without a track were left out" in notes and "1 box without a size was left out" in notes
    # with save_conf a line of six is one without a track
    write(labels / "clip_1.txt", "1 0.5 0.5 0.25 0.5 0.9\n")
    write(labels / "clip_2.txt", "1 0.5 0.5 0.25 0.5 0.9 7\n1 0.2 0.2 0.1 0.1 1\n")
    assert ids_of(imported(labels, six_images, **dog)) == [(7, 7)]
    assert "2 boxes without a track were left out" in notes_of(labels, six_images, **dog)
    write(labels / "clip_2.txt", "1 0.2 0.2 0.1 0.1 0.25\n")
    assert "has no box track (2 boxes without a track" in problems_of(labels, six_images, **dog)


def test_boxes_around_outlines(tmp_path: Path, six_images: Path) -> None:
    labels, dog = tmp_path / "labels", {"categories": ["dog"]}
    write(labels / "clip_1.txt", "1 0.375 0.5 0.5 0.25 0.625 0.5 0.5 0.75 7\n1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    assert tracks_of(imported(labels, six_images, **dog)) == [("dog", [[30, 15, 20, 30], None, None, None, None, None])]
    assert "1 box without a track was left out" in notes_of(labels, six_images, **dog)


def test_several_videos_in_one_folder(tmp_path: Path, six_images: Path) -> None:
    labels, dog = tmp_path / "labels", {"categories": ["dog"]}
    write(labels / "a_1.txt", "1 0.5 0.5 0.25 0.5 7\n")
    write(labels / "b-2_2.txt", "1 0.125 0.5 0.25 0.5 7\n")
    assert "folder: has texts of 2 videos: a, b-2. Name the folder in which" in problems_of(labels, six_images, **dog)
    for name in ("a", "b-2"):
        write_images(tmp_path / "frames" / name, length=2)
    root = imported(labels, tmp_path / "frames", **dog)
    assert [video["name"] for video in root["videos"]] == ["a", "b-2"]
    assert tracks_of(root) == [("dog", [DOG[0], None]), ("dog", [None, DOG[-1]])]


def test_malformed_boxes(tmp_path: Path, six_images: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "a_1.txt", "0 0.5 0.5 0.2 0.2 0.8\n0 0.5 0.5 0.2 x 4\n0 50 50 20 20 1\n3 0.5 0.5 0.2 0.2 1\n")
    write(labels / "a_7.txt", "0 0.5 0.5 0.2 0.2 1\n")
    write(labels / "readme.txt", "hello")
    write(labels / "a_2.txt", b"\x93\xff")
    write(labels / "classes.txt", "cat\n")
    problems = problems_of(labels, six_images)
    for message in (
        *("a_1.txt, line 2: '0 0.5 0.5 0.2 x 4' is not class, x, y", "a_1.txt, line 1: class 0 and id 0.8"),
        *("a_1.txt, line 3: '0 50", "has class 3 without a name", "a_7.txt: frame 7 is not 1 to 6"),
        *("readme.txt: is not named after an image", "a_2.txt: file: is not a text file"),
    ):
        assert message in problems, problems
    assert "is not a folder" in problems_of(labels / "a_1.txt", six_images, format="yolo")
    (labels / "classes.txt").unlink()
    assert "'names' is neither" in problems_of(write(labels / "data.yaml", "names: 3").parent, six_images)
