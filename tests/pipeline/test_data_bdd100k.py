"""BDD100K: bitmasks and Scalabel labels are read as the field's programs read them, and damage is named."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mfvis.data.bdd100k import CATEGORIES, class_of, read_bitmask, write_bitmask
from mfvis.data.rle import encode_mask
from mfvis.data.scalabel import read_scalabel, videos_of
from mfvis.errors import DataError
from PIL import Image


def bitmask() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame with ids 1, 256 (whose alpha is 0) and 65535, one of them an ignore region."""
    category_HW, attributes_HW = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    id_HW = np.zeros((6, 8), np.int32)
    for place, (number, category, attributes) in enumerate(((1, 3, 0), (256, 1, 4 | 8), (65535, 8, 2))):
        rows = slice(2 * place, 2 * place + 2)
        id_HW[rows, 1:5], category_HW[rows, 1:5], attributes_HW[rows, 1:5] = number, category, attributes
    return category_HW, attributes_HW, id_HW


def test_bitmask_round_trip_with_transparent_ids(tmp_path: Path) -> None:
    written = bitmask()
    write_bitmask(tmp_path / "frame.png", *written)
    for back, given in zip(read_bitmask(tmp_path / "frame.png"), written, strict=True):
        assert back.dtype == given.dtype
        np.testing.assert_array_equal(back, given)
    rgba = np.asarray(Image.open(tmp_path / "frame.png"))
    assert rgba[2, 1].tolist() == [1, 12, 1, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "frame.png"]


def png(depth: int, colour: int, row: bytes, width: int = 2) -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)), (b"IDAT", zlib.compress(row))]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SOUND_PNG = png(8, 6, b"\0" + bytes([1, 0, 0, 5, 0, 0, 0, 0]))


def damaged(place: int) -> bytes:
    return SOUND_PNG[:place] + bytes([SOUND_PNG[place] ^ 1]) + SOUND_PNG[place + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a", "is not a PNG"),
        (SOUND_PNG[:-6], "is cut off"),
        (SOUND_PNG + b"x", "goes on after its end"),
        (damaged(20), "checksum at byte 8 is wrong"),
        (damaged(45), "checksum at byte 33 is wrong"),
        (png(16, 6, b"\0" + bytes(16)), "16 bits and colour type 6"),
        (png(8, 2, b"\0" + bytes(6)), "8 bits and colour type 2, expected 8 bits and RGBA"),
        (png(8, 6, b"\0" + bytes(5)), "cannot be decoded"),
        (png(8, 6, b"\0" + bytes(8), width=2**31), "more than can be worked with"),
        (png(8, 6, b"\0" + bytes([1, 0, 0, 5, 2, 0, 0, 5])), "id 5: has class 1, attributes 0 and class 2"),
        (png(8, 6, b"\0" + bytes([1, 0, 0, 5, 1, 1, 0, 5])), "id 5: has class 1, attributes 0 and class 1"),
        (png(8, 6, b"\0" + bytes([9, 0, 1, 0, 0, 0, 0, 0])), "id 256: has class 9, expected 1 to 8"),
    ],
)
def test_bitmasks_that_would_be_misread_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "frame.png").write_bytes(data)
    with pytest.raises(DataError, match="frame.png") as error:
        read_bitmask(tmp_path / "frame.png")
    assert message in str(error.value)


def test_class_without_id_and_odd_class_of_ignore_region_are_fine(tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(png(8, 6, b"\0" + bytes([3, 0, 0, 0, 9, 1, 0, 7])))
    category_HW, _, id_HW = read_bitmask(tmp_path / "frame.png")
    assert id_HW.tolist() == [[0, 7]] and category_HW.tolist() == [[3, 9]]


def test_write_bitmask_refuses_what_does_not_fit(tmp_path: Path) -> None:
    blank = np.zeros((2, 3), np.int32)
    with pytest.raises(ValueError, match="id spans 0 to 65536, expected 0 to 65535"):
        write_bitmask(tmp_path / "frame.png", blank, blank, blank + np.eye(2, 3, dtype=np.int32) * 65536)
    with pytest.raises(ValueError, match="attributes has shape"):
        write_bitmask(tmp_path / "frame.png", blank, blank[:1], blank)
    assert not list(tmp_path.iterdir())


def test_names_of_classes() -> None:
    assert [category.name for category in CATEGORIES] == [
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    assert class_of("motor") == (7, False) and class_of("person") == (1, False) and class_of("van") == (3, False)
    assert class_of("other person") == (1, True) and class_of("trailer") == (4, True)
    assert class_of("traffic light") is None


def label(**fields: Any) -> dict[str, Any]:
    return {"id": "7", "category": "car", "box2d": {"x1": 10, "y1": 20.5, "x2": 30, "y2": 40}} | fields


def frames(*labels: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"name": "a-0000001.jpg", "videoName": "a", "frameIndex": 0, "labels": list(labels)} | fields]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_scalabel_label(tmp_path: Path) -> None:
    mask_HW = np.zeros((6, 8), bool)
    mask_HW[2:4, 3:6] = True
    attributes = {"crowd": True, "occluded": False, "truncated": True, "weather": "clear"}
    given = label(id=12, attributes=attributes, rle=encode_mask(mask_HW), score=0.25)
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(given)))
    assert (frame.name, frame.video, frame.index, frame.size) == ("a-0000001.jpg", "a", 0, None)
    (read,) = frame.labels
    assert (read.id, read.category, read.score) == ("12", "car", 0.25)
    assert read.box == (10, 20.5, 31, 41)
    assert (read.truncated, read.occluded, read.crowd, read.ignored) == (True, False, True, False)
    assert read.segmentation == encode_mask(mask_HW)


def test_scalabel_polygons_with_curves(tmp_path: Path) -> None:
    square = {"vertices": [[0, 0], [4, 0], [4, 4], [0, 4]], "types": "LLLL", "closed": True}
    arch = {"vertices": [[0, 4], [0, 0], [8, 0], [8, 4]], "types": "LCCC", "closed": True}
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(poly2d=[square, arch]))))
    straight, curved = frame.labels[0].segmentation
    assert straight == [0, 0, 4, 0, 4, 4, 0, 4]
    points = np.reshape(curved, (-1, 2))
    assert points[0].tolist() == [0, 4] and points[-1].tolist() == [8, 4]
    assert points[len(points) // 2].tolist() == [4, 1]  # the middle of the curve, not the control points' height
    assert points[:, 1].min() == 1


def test_scalabel_containers_and_order(tmp_path: Path) -> None:
    root = {
        "frames": frames(name="b2", videoName="b", frameIndex=2),
        "config": {"imageSize": {"width": 8, "height": 6}},
    }
    root["frames"] += frames(name="b0", videoName="b", frameIndex=None, labels=None, size={"width": 4, "height": 3})
    write(tmp_path / "2.json", root)
    write(tmp_path / "1.json", frames())
    videos = videos_of(read_scalabel(tmp_path))
    assert {name: [frame.name for frame in members] for name, members in videos.items()} == {
        "a": ["a-0000001.jpg"],
        "b": ["b0", "b2"],
    }
    assert [frame.size for frame in videos["b"]] == [(3, 4), (6, 8)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"videos": []}, "'frames' is null, expected a list"),
        (None, "is null, expected a list of frames"),
        (["x"], "frames[0]: is a text, expected an object"),
        (frames(name=None), "name is None, expected a text"),
        (frames(videoName=3), "videoName is 3, expected a text"),
        (frames(frameIndex=-1), "frameIndex is -1"),
        (frames(labels={}), "labels is an object, expected a list"),
        (frames(size={"width": 0, "height": 4}), "size is {'width': 0"),
        (frames(label(id=None)), "labels[0]: id is None"),
        (frames(label(category=None)), "category is None"),
        (frames(label(score="high")), "score is 'high'"),
        (frames(label(attributes={"crowd": "false"})), "truncated, occluded, crowd, ignored are None, None, 'false'"),
        (frames(label(box2d={"x1": 1, "y1": 2, "x2": 3})), "box2d is {'x1': 1"),
        (frames(label(box2d={"x1": 9, "y1": 2, "x2": 3, "y2": 4})), "its corners are swapped"),
        (frames(label(rle={"counts": [1, 2], "size": [6, 8]})), "rle is {'counts': [1, 2]"),
        (frames(label(rle={"counts": "0", "size": [6, "8"]})), "rle is {'counts': '0'"),
        (frames(label(poly2d=[{"vertices": [[0, 0], [1, 1]], "types": "LL", "closed": True}])), "vertices are"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LCC", "closed": True}])), "types are 'LCC'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LLL", "closed": False}])), "a line has no area"),
    ],
)
def test_scalabel_problems_are_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match="a.json") as error:
        read_scalabel(write(tmp_path / "a.json", value))
    assert message in str(error.value)


def test_scalabel_reports_all_problems_of_all_files(tmp_path: Path) -> None:
    write(tmp_path / "1.json", frames(label(id=None), label(category=1)))
    (tmp_path / "2.json").write_text('[{"name": "x"')
    with pytest.raises(DataError) as error:
        read_scalabel(tmp_path)
    assert len(error.value.problems) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no JSON file"):
        read_scalabel(tmp_path / "empty")
