"""BDD100K's bitmasks: read as the field's programs read them, damage is named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mfvis.data.bitmask import read_bitmask, write_bitmask
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


def png(depth: int, color: int, row: bytes, width: int = 2) -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)), (b"IDAT", zlib.compress(row))]
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
        (png(16, 6, b"\0" + bytes(16)), "16 bits and color type 6"),
        (png(8, 2, b"\0" + bytes(6)), "8 bits and color type 2, expected 8 bits and RGBA"),
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
