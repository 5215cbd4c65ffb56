"""The one track of a single-object tracking sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_helpers import imported, notes_of, problems_of, tracks_of, write, write_images

BALL = {"categories": ["ball"]}


def test_lasot(tmp_path: Path) -> None:
    sequence = tmp_path / "LaSOT" / "bear-1"
    write_images(sequence / "img", length=4)
    write(sequence / "groundtruth.txt", "1,2,8,9\n2,2,8,9\n3,2,8,9\n0,0,0,0\n")
    write(sequence / "full_occlusion.txt", "0,0,1,0")
    write(sequence / "out_of_view.txt", "0,0,0,1")
    write(sequence / "nlp.txt", "a bear that walks")
    expected = [("bear", [[0, 1, 8, 9], [1, 1, 8, 9], None, None])]
    for file in (sequence, sequence / "groundtruth.txt", sequence.parent):
        root = imported(file, sequence.parent)
        assert tracks_of(root) == expected and root["videos"][0]["name"] == "bear-1"
    assert "pixels are counted from 1; --first-pixel 0 overrides it" in notes_of(sequence, sequence)
    write(sequence / "out_of_view.txt", "0,0,0")
    assert "out_of_view.txt: has 3 values for 4 frames" in problems_of(sequence, sequence)


def test_got10k(tmp_path: Path) -> None:
    sequence = tmp_path / "GOT-10k_Train_000001"
    write_images(sequence, length=3)
    write(sequence / "groundtruth.txt", "1.0000,2.0000,8.5000,9.0000\n2.0,2.0,8.5,9.0\n-1,-1,-1,-1\n")
    write(sequence / "meta_info.ini", "[METAINFO]\nurl: x\nobject_class: polar bear\n")
    write(sequence / "absence.label", "0\n1\n0\n")
    assert tracks_of(imported(sequence, sequence)) == [("polar bear", [[0, 1, 8.5, 9], None, None])]


@pytest.mark.parametrize(
    "rows",
    [
        "0\t10\t20\t20\n5\t10\t20\t20\nnan\tnan\tnan\tnan\n",
        "0 10 20 20\n5 10 20 20\n0 0 0 0\n",
        "0,10,20,10,20,30,0,30\n5,10,25,10,25,30,5,30\nNaN,NaN,NaN,NaN\n",  # VOT's corners
    ],
)
def test_pixels_from_zero_where_a_box_begins_there(tmp_path: Path, rows: str) -> None:
    write_images(tmp_path / "frames", length=3)
    file = write(tmp_path / "groundtruth_rect.txt", rows)
    assert tracks_of(imported(file, tmp_path / "frames", **BALL)) == [
        ("ball", [[0, 10, 20, 20], [5, 10, 20, 20], None])
    ]
    root = imported(file, tmp_path / "frames", first_pixel=1, **BALL)
    assert tracks_of(root)[0][1][1] == [4, 9, 20, 20]


def test_malformed_boxes(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "clip.txt", "1,1,9,9\n" * 5)
    assert "has 5 lines, the video 6 frames. Give the frames of this sequence" in problems_of(file, six_images, **BALL)
    write(file, "1,1,9,9\n" * 5 + "1,1,9\n")
    text = problems_of(file, six_images)
    assert "line 6: '1,1,9' is not left, top, width, height" in text and "has no class. Name the one class" in text
