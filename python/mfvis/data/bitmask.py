"""Bitmasks: images in which BDD100K stores the objects of a frame.

An RGBA image in which alpha is data: R is the class 1 to 8, G the attributes ``truncated << 3 | occluded << 2 | crowd
<< 1 | ignored``, and ``B << 8 | A`` the instance id, or 0 for background.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mfvis.data.images import save_image
from mfvis.errors import DataError, Problem
from mfvis.writing import atomic_write

CLASSES = 8
TRUNCATED, OCCLUDED, CROWD, IGNORED = 8, 4, 2, 1
LARGEST_ID = 0xFFFF
MOST_PER_FRAME = 100
"""Largest predicted id. BDD100K's toolkit fails on larger ones."""
MOST_PIXELS = 2**25
"""Largest side of an image. A larger one, beyond 8K, is a damaged header that would make Pillow allocate gigabytes."""


def read_bitmask(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channels of a bitmask: class uint8 ``[H, W]``, attributes uint8 ``[H, W]``, instance id int32 ``[H, W]``.

    A pixel without an id is background, whatever its class. All pixels of an id share class and attributes.

    Raises:
        DataError: when it is not an 8-bit RGBA PNG, is damaged (all checksums are compared), an id has two classes or
            two sets of attributes, or the class of an object that is not an ignore region is not 1 to 8.
    """

    def broken(record: str, problem: str, remedy: str) -> DataError:
        return DataError([Problem(str(path), record, problem, remedy)])

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise broken("file", "does not exist", "Check the path; a frame without objects needs a blank one") from None
    except (OSError, ValueError) as error:
        raise broken("file", f"cannot be read ({error})", "Check the path and its permissions") from None
    fault = _png_fault(data)
    if fault is not None:
        raise broken("file", fault, "Give an 8-bit RGBA PNG, copied again if it was damaged")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            rgba_HW4 = np.ascontiguousarray(image)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise broken("file", f"the image cannot be decoded ({error})", "Write or copy it again") from error
    problem = _inconsistent(rgba_HW4.view("<u4").ravel())
    if problem is not None:
        raise broken(*problem)
    id_HW = rgba_HW4.view(">u2")[..., 1].astype(np.int32)  # B and A are neighbors
    return rgba_HW4[..., 0].copy(), rgba_HW4[..., 1].copy(), id_HW


def write_bitmask(path: str | Path, category_HW: np.ndarray, attributes_HW: np.ndarray, id_HW: np.ndarray) -> None:
    """Write a frame's classes, attributes and instance ids (0 to 65535), each ``[H, W]``, as a bitmask, atomically.

    Raises:
        ValueError: when the shapes differ or a value does not fit its channel.
    """
    channels = {"category": (category_HW, 255), "attributes": (attributes_HW, 255), "id": (id_HW, LARGEST_ID)}
    for name, (values_HW, most) in channels.items():
        if values_HW.ndim != 2 or values_HW.shape != category_HW.shape:
            raise ValueError(f"{name} has shape {values_HW.shape}, expected [H, W] = {category_HW.shape}")
        if values_HW.size and (values_HW.min() < 0 or values_HW.max() > most):
            raise ValueError(f"{name} spans {values_HW.min()} to {values_HW.max()}, expected 0 to {most}")
    rgba_HW4 = np.stack([category_HW, attributes_HW, id_HW >> 8, id_HW & 255], -1).astype(np.uint8)
    with atomic_write(path) as temporary:
        save_image(temporary, rgba_HW4, format="PNG")


def _png_fault(data: bytes) -> str | None:
    """Problem of a PNG file as a container. None for a valid 8-bit RGBA file.

    Pillow reads the image, but skips the checksums of the pixel data and silently reduces 16 bits to 8.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return "is not a PNG" if data else "is empty"
    kinds, start = [], 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"is damaged: the checksum at byte {start} is wrong"
        kinds.append(data[start + 4 : start + 8])
        start = end
    if not kinds or kinds[-1] != b"IEND" or start != len(data):
        return "is cut off, or goes on after its end"
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") != 1 or kinds.count(b"IEND") != 1 or b"IDAT" not in kinds:
        return "is not a valid PNG: a part is missing or occurs twice"
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if width * height > MOST_PIXELS:
        return f"has {width} x {height} pixels, more than can be worked with"
    if (data[24], data[25]) != (8, 6):
        return f"has {data[24]} bits and color type {data[25]}, expected 8 bits and RGBA (6)"
    return None


def _inconsistent(pixels: np.ndarray) -> tuple[str, str, str] | None:
    """Record, problem and remedy for an id of a bitmask with two meanings. `pixels` are flat, with alpha in the top
    bits."""
    # Compare the distinct values of the runs: an image has a few thousand runs but a million pixels.
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    values = np.unique(pixels[np.concatenate([[0], starts])]) if pixels.size else pixels
    values = values[values >> 16 != 0]
    channels = values & 0xFF, values >> 8 & 0xFF, (values >> 8 & 0xFF00) | values >> 24
    seen: dict[int, tuple[int, int]] = {}
    for category, attributes, object_id in zip(*(channel.tolist() for channel in channels), strict=True):
        known = seen.setdefault(object_id, (category, attributes))
        if known != (category, attributes):
            problem = f"has class {known[0]}, attributes {known[1]} and class {category}, attributes {attributes}"
            return f"id {object_id}", problem, "Give each object one id, one class and one set of attributes"
        if not attributes & (CROWD | IGNORED) and not 1 <= category <= CLASSES:
            return f"id {object_id}", f"has class {category}, expected 1 to {CLASSES}", "Write the object's class"
    return None
