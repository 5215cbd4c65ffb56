"""MOTChallenge and KITTI tracking."""

from __future__ import annotations

from pathlib import Path

import pytest
from importing import MOT, check_told, imported, problems_of, tracks_of, write


def test_motchallenge(tmp_path: Path, six_pictures: Path) -> None:
    root = imported(write(tmp_path / "MOT17-02" / "gt" / "gt.txt", MOT), six_pictures)
    assert tracks_of(root) == [
        ("pedestrian", [[10, 20, 30, 20], None, [11, 21, 30, 20], None, None, None]),
        ("car", [[70, 0, 10, 20], None, None, None, None, None]),
    ]
    assert [category["name"] for category in root["categories"]] == ["car", "pedestrian"]
    assert root["videos"][0]["name"] == "MOT17-02"


def test_motchallenge_with_labels_of_its_own(tmp_path: Path, six_pictures: Path) -> None:
    write(tmp_path / "labels.txt", "dog\ncat\n")
    file = write(tmp_path / "gt.txt", "2,1,1,1,8,8,1,2,1\n")
    assert tracks_of(imported(file, six_pictures)) == [("cat", [None, [0, 0, 8, 8], None, None, None, None])]
    file = write(tmp_path / "gt.txt", "2,1,1,1,8,8,1,3,1\n")
    assert "line 1: class 3 is not 1 to 2" in problems_of(file, six_pictures)


def test_motchallenge_without_classes(tmp_path: Path, six_pictures: Path) -> None:
    file = write(tmp_path / "clip.txt", "1,1,1,1,8,8,0.7,-1,-1,-1\n2,1,1,1,8,8,-1,-1,-1,-1\n")
    root = imported(file, six_pictures, categories=["ball"])
    assert tracks_of(root) == [("ball", [[0, 0, 8, 8], [0, 0, 8, 8], None, None, None, None])]
    assert "has no class. Name the one class" in problems_of(file, six_pictures)


def test_frames_that_a_tracker_counts_from_zero(tmp_path: Path, six_pictures: Path) -> None:
    file = write(tmp_path / "clip.txt", "0,1,1,1,8,8,0.7,-1,-1,-1\n5,1,2,1,8,8,-1,-1,-1,-1\n")
    options = {"categories": ["ball"]}
    root = imported(file, six_pictures, first_frame=0, **options)
    assert tracks_of(root) == [("ball", [[1, 1, 8, 8], None, None, None, None, [2, 1, 8, 8]])]
    assert "frame 0 is not 1 to 6. Give the frames of this video, or say" in problems_of(file, six_pictures, **options)


def kitti(*rows: str) -> str:
    return "".join(f"{row} 1.5 1.6 4 0 0 20 0\n" for row in rows)


def test_kitti(tmp_path: Path, six_pictures: Path) -> None:
    text = kitti(
        *("0 0 Car 0 0 -10 10.5 20 40 50", "5 0 Car 0 0 -10 12 20 90 50", "0 -1 DontCare -1 -1 -10 1 1 5 5"),
        "1 2 Person_sitting 0 0 -10 0 0 5 9",
    )
    root = imported(write(tmp_path / "0003.txt", text), six_pictures)
    assert tracks_of(root) == [
        ("Car", [[10.5, 20, 29.5, 30], None, None, None, None, [12, 20, 68, 30]]),
        ("Person_sitting", [None, [0, 0, 5, 9], None, None, None, None]),
    ]
    assert root["videos"][0]["name"] == "0003"


FAULTS = {
    "mot": (
        "1,1,1,1,8\n0,1,1,1,8,8\n1.5,1,1,1,8,8\n1,-1,1,1,8,8,1\n1,1,nan,1,8,8\n1,1,1,1,0,8\n1,1,1,1,8,8,1,99,1\n",
        ["line 1: '1,1,1,1,8' is not 6 to 10", "line 2: frame 0 is not 1 to 6", "line 3: frame 1.5", "line 4: id -1"]
        + ["line 5: '1,1,nan", "line 6: the box is 0 x 8", "line 7: class 99 is not 1 to 13"],
    ),
    "mot twice": (
        "1,1,1,1,8,8,1,1,1\n" * 2 + "2,1,1,1,8,8,1,3,1\n",
        ["line 2: object 1 has a second box", "'car' here"],
    ),
    "kitti": (
        kitti("0 0 Car 0 0 0 1 1 5 5", "9 0 Car 0 0 0 1 1 5 5")
        + "0 1 Car\n"
        + kitti("0 2 Car 0 0 0 9 1 5 5", "0 -1 Car 0 0 0 1 1 5 5", "0 x Car 0 0 0 1 1 5 5"),
        ["line 2: frame 9 is not 0 to 5", "line 3: has 3 columns", "line 4: the box [9.0, 1.0, 5.0, 5.0] has no size"]
        + ["line 5: id -1", "line 6: 'x' is not a number"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_pictures: Path, name: str) -> None:
    check_told(tmp_path, six_pictures, *FAULTS[name])
