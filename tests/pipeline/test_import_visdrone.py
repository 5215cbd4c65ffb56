"""VisDrone and UAVDT."""

from __future__ import annotations

from pathlib import Path

from import_helpers import imported, notes_of, problems_of, tracks_of, write, write_images

NONE = [None] * 5


def test_visdrone(tmp_path: Path, six_images: Path) -> None:
    rows = "1,0,10,20,30,5,1,4,0,0\n3,0,11,20,30,5,1,4,1,2\n1,9,5,5,9,9,1,10,0,1\n"
    rows += "1,7,0,0,9,9,0,0,0,0\n1,8,1,1,9,9,0,1,0,0\n"
    file = write(tmp_path / "annotations" / "uav0000013_00000_v.txt", rows)
    root = imported(file, six_images)
    assert tracks_of(root) == [
        ("car", [[10, 20, 30, 5], None, [11, 20, 30, 5], None, None, None]),
        ("motor", [[5, 5, 9, 9], *NONE]),
    ]
    notes = notes_of(file, six_images)
    assert "2 boxes that the file marks as ignored were left out" in notes
    assert "pixels are counted from 0; --first-pixel 1 overrides it" in notes
    assert tracks_of(imported(file, six_images, categories=["motor"])) == [("motor", [[5, 5, 9, 9], *NONE])]
    # what a tracker writes has no truncation; its classes are named by whoever trained it
    file = write(tmp_path / "tracker.txt", "1,0,10,20,30,5,0.9,4,-1,-1\n")
    assert "has class 4 without a name" in problems_of(file, six_images)


def test_uavdt(tmp_path: Path) -> None:
    write_images(tmp_path / "frames" / "M0101", length=2)
    ground_truth = tmp_path / "GT"
    write(ground_truth / "M0101_gt_whole.txt", "1,1,10,20,30,5,0,0,1\n2,1,11,20,30,5,1,2,1\n1,2,1,1,9,9,0,0,3\n")
    write(ground_truth / "M0101_gt_ignore.txt", "1,-1,1,1,9,9,1,-1,-1\n")
    write(ground_truth / "M0101_gt.txt", "1,1,10,20,30,5,1,-1,-1\n")
    expected = [("car", [[10, 20, 30, 5], [11, 20, 30, 5]]), ("bus", [[1, 1, 9, 9], None])]
    for file in (ground_truth / "M0101_gt_whole.txt", ground_truth):
        root = imported(file, tmp_path / "frames")
        assert tracks_of(root) == expected and root["videos"][0]["name"] == "M0101"
    assert "2 files of other formats were left out" in notes_of(ground_truth, tmp_path / "frames")
    write(ground_truth / "M0101_gt_whole.txt", "1,1,10,20,30,5,0,0\n")
    assert "line 1: has 8 columns, no class" in problems_of(ground_truth, tmp_path / "frames")
