"""KITTI tracking."""

from __future__ import annotations

from pathlib import Path

from import_helpers import check_problems, ids_of, imported, notes_of, tracks_of, write, write_images


def kitti(*rows: str) -> str:
    return "".join(f"{row} 1.5 1.6 4 0 0 20 0\n" for row in rows)


def test_kitti(tmp_path: Path, six_images: Path) -> None:
    text = kitti(
        *("0 0 Car 0 0 -10 10.5 20 40 50", "5 0 Car 0 0 -10 12 20 90 50", "0 -1 DontCare -1 -1 -10 1 1 5 5"),
        *("1 2 Person_sitting 0 0 -10 0 0 5 9", "2 -1 Car 0 0 0 1 1 5 5", "2 2 Person_sitting 0 0 0 3 3 3 9"),
    )
    file = write(tmp_path / "0003.txt", text)
    root = imported(file, six_images)
    assert tracks_of(root) == [
        ("Car", [[10.5, 20, 29.5, 30], None, None, None, None, [12, 20, 68, 30]]),
        ("Person_sitting", [None, [0, 0, 5, 9], None, None, None, None]),
    ]
    assert root["videos"][0]["name"] == "0003" and ids_of(root) == [(1, 0), (2, 2)]
    notes = notes_of(file, six_images)
    for note in ("1 region of type DontCare was", "1 box without a track was", "1 box without a size was left out"):
        assert note in notes


def test_a_folder_of_texts_is_a_video_each(tmp_path: Path) -> None:
    for name in ("0000", "0001"):
        write_images(tmp_path / "image_02" / name, length=2)
        write(tmp_path / "label_02" / f"{name}.txt", kitti("1 12345678 Car 0 0 -10 1 2 5 9"))
    root = imported(tmp_path / "label_02", tmp_path / "image_02")
    assert [video["name"] for video in root["videos"]] == ["0000", "0001"]
    assert tracks_of(root) == [("Car", [None, [1, 2, 4, 7]])] * 2
    assert ids_of(root) == [(1, 12345678), (2, 12345678)]  # one id in two videos cannot be the annotation's


def test_malformed_boxes(tmp_path: Path, six_images: Path) -> None:
    text = kitti("0 0 Car 0 0 0 1 1 5 5", "9 0 Car 0 0 0 1 1 5 5") + "0 1 Car\n"
    text += kitti("0 2 Car 0 0 0 9 1 5 5", "0 x Car 0 0 0 1 1 5 5", "0 3 Car 0 0 0 1 1 5 y")
    messages = ["line 2: frame 9 is not 0 to 5", "line 3: has 3 columns", "line 4: the box is -4 x 4"]
    check_problems(
        tmp_path, six_images, text, [*messages, "line 5: frame 0 and id x are not", "line 6: 'y' is not a number"]
    )
