"""MOTS: masks in PNG and in text, of which the boxes are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from import_helpers import HEIGHT, WIDTH, ids_of, imported, notes_of, problems_of, tracks_of, write, write_images
from mfvis.data.rle import encode_mask
from PIL import Image


def write_masks(path: Path, **boxes: tuple[int, int, int, int]) -> None:
    """A PNG with 16 bits a pixel: a rectangle ``(x1, y1, x2, y2)`` for each id."""
    ids_HW = np.zeros((HEIGHT, WIDTH), np.uint16)
    for object_id, (x1, y1, x2, y2) in boxes.items():
        ids_HW[y1:y2, x1:x2] = int(object_id[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_HW).save(path)


def test_images_of_masks(tmp_path: Path) -> None:
    masks = tmp_path / "instances"
    for name in ("0002", "0006"):
        write_images(tmp_path / "image_02" / name, length=2, start=0)
        write_masks(masks / name / "000000.png", i1003=(1, 2, 9, 11), i2001=(20, 20, 40, 30), i10000=(50, 50, 60, 60))
        write_masks(masks / name / "000001.png", i1003=(3, 2, 9, 11))
    root = imported(masks, tmp_path / "image_02")
    expected = [("car", [[1, 2, 8, 9], [3, 2, 6, 9]]), ("pedestrian", [[20, 20, 20, 10], None])]
    assert tracks_of(root) == expected * 2 and ids_of(root)[:2] == [(1, 1003), (2, 2001)]
    assert [video["name"] for video in root["videos"]] == ["0002", "0006"]
    assert tracks_of(imported(masks / "0002", tmp_path / "image_02" / "0002")) == expected
    assert "2 regions that the file marks as ignored were left out" in notes_of(masks, tmp_path / "image_02")


def test_masks_of_cvat_and_datumaro(tmp_path: Path, six_images: Path) -> None:
    masks = tmp_path / "export" / "default" / "instances"
    write(masks / "labels.txt", "dog\ncat")
    write_masks(masks / "frame_000000.png", i1000=(1, 2, 9, 11), i2001=(20, 20, 40, 30))
    write_masks(masks / "frame_000005.png", i1000=(1, 2, 9, 11))
    root = imported(tmp_path / "export", six_images)
    none = [None] * 4
    assert tracks_of(root) == [
        ("dog", [[1, 2, 8, 9], *none, [1, 2, 8, 9]]),
        ("cat", [[20, 20, 20, 10], *none, None]),
    ]
    (masks / "labels.txt").unlink()
    write_masks(masks / "frame_000005.png", i3000=(1, 2, 9, 11))
    assert "has class 3 without a name" in problems_of(tmp_path / "export", six_images, categories=["dog"])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(masks / "frame_000004.png")
    assert "frame_000004.png: is 9 x 9 (I;16), the video 80 x 60" in problems_of(tmp_path / "export", six_images)


@pytest.mark.parametrize("first", [0, 1])
def test_text(tmp_path: Path, six_images: Path, first: int) -> None:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[2:11, 1:9] = True
    counts = encode_mask(mask_HW)["counts"]
    rows = [(first, 1003, 1), (first + 5, 1003, 1), (first, 2001, 2), (first, 10000, 10)]
    text = "".join(f"{t} {i} {c} {HEIGHT} {WIDTH} {counts}\n" for t, i, c in rows)
    file = write(tmp_path / "0002.txt", text)
    box, none = [1, 2, 8, 9], [None] * 4
    assert tracks_of(imported(file, six_images)) == [("car", [box, *none, box]), ("pedestrian", [box, *none, None])]
    assert "1 region that the file marks as ignored was left out" in notes_of(file, six_images)
    problems = problems_of(write(file, text.replace(f"{HEIGHT} {WIDTH}", "9 9", 1)), six_images)
    assert "line 1: the mask is 9 x 9, the video 80 x 60" in problems
    problems = problems_of(write(file, text.replace(counts, "\x7f~~", 1) + "0 1 2\n"), six_images)
    assert "line 1: " in problems and "line 5: '0 1 2' is not frame, id, class" in problems
