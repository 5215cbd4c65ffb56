"""SA-V: masklets on every fourth frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from import_helpers import HEIGHT, WIDTH, ids_of, imported, notes_of, problems_of, tracks_of, write, write_images
from mfvis.data.rle import encode_mask
from mfvis.data.video import video_writer

THING = {"categories": ["thing"]}


def rle(*box: int) -> dict[str, Any]:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    if box:
        mask_HW[box[1] : box[3], box[0] : box[2]] = True
    return encode_mask(mask_HW)


def sav(**more: Any) -> dict[str, Any]:
    root = {"video_id": "sav_000001", "video_frame_count": 6.0, "video_height": float(HEIGHT), "video_width": 80.0}
    masks = [[rle(1, 2, 9, 11), rle()], [rle(3, 2, 9, 11), rle(20, 20, 40, 30)]]
    return root | {"masklet": masks, "masklet_id": [0, 5], "masklet_num": 2} | more


def test_masklets(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "sav_000001_manual.json", sav())
    root = imported(file, six_images, **THING)
    assert tracks_of(root) == [("thing", [[1, 2, 8, 9], [3, 2, 6, 9]]), ("thing", [None, [20, 20, 20, 10]])]
    assert ids_of(root) == [(1, 0), (2, 5)] and root["videos"][0]["name"] == "sav_000001"
    assert [Path(name).name for name in root["videos"][0]["file_names"]] == ["000001.jpg", "000005.jpg"]
    assert "every 4th image was imported" in notes_of(file, six_images, **THING)
    write_images(tmp_path / "annotated", length=2)
    assert tracks_of(imported(file, tmp_path / "annotated", **THING)) == tracks_of(root)


def test_a_folder_of_files(tmp_path: Path) -> None:
    for name in ("sav_000001", "sav_000002"):
        write(tmp_path / "sav" / f"{name}_manual.json", sav(video_id=name))
        write(tmp_path / "sav" / f"{name}_auto.json", sav(video_id=name))
        write_images(tmp_path / "frames" / name, length=2)
    assert len(imported(tmp_path / "sav", tmp_path / "frames", **THING)["videos"]) == 2
    assert "2 files of other formats were left out" in notes_of(tmp_path / "sav", tmp_path / "frames", **THING)


def test_malformed_masklets(tmp_path: Path, six_images: Path) -> None:
    file = tmp_path / "a.json"
    for content, problem in (
        (sav(video_width=9.0), "the masks are 9.0 x 60.0, the video 80 x 60"),
        (sav(masklet=[[]] * 3), "has masks of 3 frames, the video 6 frames"),
        (sav(masklet=3), "masklet: is a number, expected a list of lists"),
        (sav(masklet_id=[1]), "masklet[0]: has 2 masks, masklet_id is [1]"),
        (sav(masklet=[[{"size": [3, 3], "counts": "x"}, None]] * 2), "masklet[0][0]"),
    ):
        assert problem in problems_of(write(file, content), six_images, **THING)
    assert "has no class. Name the one class" in problems_of(write(file, sav()), six_images)
    with video_writer(tmp_path / "film.mp4", 24, (HEIGHT, WIDTH)) as append:
        for _ in range(6):
            append(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    problems = problems_of(file, tmp_path / "film.mp4", **THING)
    assert "masks of every 4th frame of the video only. Extract them: ffmpeg -i film.mp4" in problems
