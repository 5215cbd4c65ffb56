"""The folder of texts that a YOLO tracker writes."""

from __future__ import annotations

from pathlib import Path

from importing import imported, problems_of, tracks_of, write


def test_yolo(tmp_path: Path, six_pictures: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "clip_1.txt", "1 0.5 0.5 0.25 0.5 7\n0 0.25 0.5 0.5 1 0.875 3\n")
    write(labels / "clip_6.txt", "1 0.125 0.5 0.25 0.5 7\n")
    write(labels / "classes.txt", "cat\ndog\n")
    dog = [[30, 15, 20, 30], None, None, None, None, [0, 15, 20, 30]]
    expected = [("dog", dog), ("cat", [[0, 0, 40, 60], None, None, None, None, None])]
    assert tracks_of(imported(labels, six_pictures)) == expected
    for old, new in (("clip_1.txt", "000001.txt"), ("clip_6.txt", "000006.txt")):
        (labels / old).rename(labels / new)
    assert tracks_of(imported(labels, six_pictures)) == expected
    (labels / "classes.txt").unlink()
    told = problems_of(labels, six_pictures, categories=["dog"])
    assert "folder: has classes 0, 1 without names. Name all classes from 0 on in classes.txt" in told
    write(labels / "000001.txt", "1 0.5 0.5 0.25 0.5 7\n")
    assert tracks_of(imported(labels, six_pictures, categories=["dog"])) == [("dog", dog)]
    assert problems_of(labels, six_pictures).count("has no class") == 1


def test_malformed_boxes(tmp_path: Path, six_pictures: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "a_1.txt", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2 0.8\n0 50 50 20 20 1\n3 0.5 0.5 0.2 0.2 1\n")
    write(labels / "a_7.txt", "0 0.5 0.5 0.2 0.2 1\n")
    write(labels / "readme.txt", "hello")
    write(labels / "a_2.txt", b"\x93\xff")
    write(labels / "classes.txt", "cat\n")
    told = problems_of(labels, six_pictures)
    for message in (
        *(
            "a_1.txt, line 1: '0 0.5",
            "a_1.txt, line 2: class 0 and id 0.8",
            "a_1.txt, line 3: '0 50",
            "line 4: class 3",
        ),
        *("a_7.txt: frame 7 is not 1 to 6", "readme.txt: is called as no picture", "a_2.txt: file: is not a text file"),
    ):
        assert message in told, told
    assert "is no folder" in problems_of(labels / "a_1.txt", six_pictures, format="yolo")
