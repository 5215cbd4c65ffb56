"""The command `mfvis data import`, and files of no format; test_import_*.py have one format each."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_helpers import MOT, check_problems, problems_of, write, write_images
from mfvis.cli import main
from mfvis.data.check import check_file
from mfvis.data.ytvis import load_dataset


def test_command_writes_what_the_reader_and_the_check_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "frames")
    file, out = write(tmp_path / "gt.txt", MOT + "4,2,200,1,5,5,1,3,1\n"), tmp_path / "data" / "train.json"
    argv = ["data", "import", str(file), "--frames", str(tmp_path / "frames"), "--out", str(out)]
    assert main([*argv, "--categories", "pedestrian", "car"]) == 0
    printed = capsys.readouterr().out
    assert "1 video, 2 tracks (1 pedestrian, 1 car), 3 boxes" in printed
    assert "note: 1 box outside the image was left out" in printed
    assert check_file(out) == []
    dataset = load_dataset(out)
    assert [category.name for category in dataset.categories] == ["pedestrian", "car"]
    assert dataset.videos[0].tracks[1].boxes_T4[0].tolist() == [70, 0, 80, 20]
    assert main([*argv[:-1], str(file)]) == 2
    assert "--out is the file to import" in capsys.readouterr().err
    assert main([*argv, "--format", "cvat"]) == 2
    assert "is not whole XML" in capsys.readouterr().err


def test_missing_files_and_images(tmp_path: Path, six_images: Path) -> None:
    assert "does not exist" in problems_of(tmp_path / "gone.txt", six_images)
    file = write(tmp_path / "gt.txt", MOT)
    assert "its images cannot be read" in problems_of(file, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "no video in" in problems_of(file, tmp_path / "empty")
    assert "has none of dog, but car, pedestrian" in problems_of(file, six_images, categories=["dog"])


FAULTS = {
    "youtube-vis": ({"videos": [], "annotations": []}, ["is a YouTube-VIS JSON. Use it as it is"]),
    "words": ("hello world", ["is of no format that can be guessed"]),
    "nothing": ("", ["is of no format that can be guessed"]),
    "zip": (b"PK\x03\x04", ["cannot be unpacked (File is not a zip file). Export or copy"]),
    "binary": (b"\x93\xff\x00", ["is not a text file in UTF-8"]),
    "json": ({"a": 1, "b": 2}, ["is a JSON of no format that is known (a, b). Export tracks: CVAT for video 1.1"]),
    "json in utf-16": ('{"a": 1}'.encode("utf-16"), ["is JSON in UTF-16. Save it in UTF-8"]),
    "json cut off": ('{"videos": [{"id": 1}, ', ["ends in the middle of the JSON"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
