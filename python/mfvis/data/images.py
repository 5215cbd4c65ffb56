"""Image files: reading as upright RGB, and writing."""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mfvis.errors import VideoError
from mfvis.writing import atomic_write

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "TGA", "JPEG2000")
"""Pillow formats that only decode pixels. Among the others, EPS would start Ghostscript."""
MAX_PIXELS = 2**27
"""Maximum number of pixels of an image or video frame to decode. 16K has fewer."""
UNKNOWN_RANGE = frozenset({"I", "F"})
"""Pillow modes of 32-bit integers and floats, for which the value of white is unknown."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image upright, for each EXIF orientation except 1."""


def is_image(name: str | Path) -> bool:
    """True if a file name has the suffix of an image. Every other file with frames is a video file."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder in natural order (2.jpg before 10.jpg), without hidden files such as ``._2.jpg``."""
    return sorted((path for path in folder.iterdir() if is_image(path) and path.name[0] != "."), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def require_file(path: Path, name: str, remedy: str) -> None:
    """Check that `path` is a regular file, so that opening it can neither block nor access anything but the disk.

    Args:
        path: the path.
        name: the expected kind of file, for the message.
        remedy: a sentence that ends the message.

    Raises:
        VideoError: when it is missing, a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        problem = "does not exist"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    else:
        if stat.S_ISREG(mode):
            return
        problem = "is a folder, not a file" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file"
    raise VideoError(f"{path}: {name} {problem}. {remedy}")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image file as a Pillow image that is not loaded yet.

    Raises:
        VideoError: when it is missing, not an image, or too large. Errors while the block loads it are converted too.
    """
    require_file(path, "the frame's file", "Check the frames folder")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoError(f"{path}: the image is {image.width} x {image.height}, too large. Scale it down")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: the image cannot be decoded ({error}). Extract or copy it again") from error


def read_image(path: Path) -> np.ndarray:
    """One image file as RGB uint8 ``[H, W, 3]``: the upper 8 of 16 bits, and the colors of transparent images.

    The EXIF orientation is applied, as in annotation tools, browsers, OpenCV and detectron2.

    Raises:
        VideoError: when it is missing, not an image, cut off, or of unknown range.
    """
    with open_image(path) as image:
        if image.mode in UNKNOWN_RANGE:
            raise VideoError(f"{path}: the image has 32 bits a pixel. Save it with 8 bits a channel")
        if (turn := orientation(image)) > 1:
            image = image.transpose(_UPRIGHT[turn])
        if image.mode.startswith("I;16"):  # Pillow would clip these at 255
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
        return np.asarray(image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """EXIF orientation of an image, 1 (upright) to 8. From 5 on, width and height are exchanged.

    Loads the image, since Pillow turns TIFFs itself while loading them.
    """
    image.load()
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except SyntaxError:  # damaged EXIF data do not affect the pixels
        return 1
    return value if value in _UPRIGHT else 1


def write_image(path: str | Path, image_HW3: np.ndarray) -> None:
    """Write RGB uint8 ``[H, W, 3]`` atomically in the format given by the suffix of `path`."""
    with atomic_write(path) as temporary:
        save_image(temporary, image_HW3, quality=90)


def save_image(path: Path, image: np.ndarray, **options: Any) -> None:
    """Write uint8 ``[H, W, C]`` in the format given by the suffix of `path`. `options` are Pillow's.

    The file is encoded in memory, since Pillow does not detect an incomplete write on a full disk.
    """
    encoded = io.BytesIO()
    encoded.name = path.name  # Pillow chooses the format by the suffix
    Image.fromarray(image).save(encoded, **options)
    path.write_bytes(encoded.getvalue())
