"""Image files: reading them as RGB, upright, and writing them."""

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
"""Pillow's formats that only decode pixels. Of the others, EPS starts Ghostscript."""
MAX_PIXELS = 2**27
"""Pixels of the largest picture or video frame that is decoded; 16K has fewer."""
UNKNOWN_RANGE = frozenset({"I", "F"})
"""Pillow's modes of 32-bit integers and floats: nothing says which value is white."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns a picture of each EXIF orientation but 1 upright."""


def is_image(name: str | Path) -> bool:
    """Whether a file name ends as one of a picture. Every other file that has frames is a video file."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """The pictures in a folder in natural order (2.jpg before 10.jpg), without hidden files such as ``._2.jpg``."""
    return sorted((path for path in folder.iterdir() if is_image(path) and path.name[0] != "."), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def require_file(path: Path, name: str, remedy: str) -> None:
    """Check that `path` is a regular file, so that opening it can neither hang nor reach anything but the disk.

    Args:
        path: the path.
        name: the thing that it was to be, for the message.
        remedy: a sentence for the message.

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
        VideoError: when it is missing, not an image, or too large; also for such errors in the block, which loads it.
    """
    require_file(path, "the frame's file", "Check the frames folder")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoError(f"{path}: the picture is {image.width} x {image.height}, too large. Scale it down")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: the picture cannot be decoded ({error}). Extract or copy it again") from error


def read_image(path: Path) -> np.ndarray:
    """One image file as RGB uint8 ``[H, W, 3]``: the upper 8 of 16 bits, and the colors of transparent pictures.

    Turned as its EXIF says, since annotation tools and browsers show it so, and OpenCV and detectron2 read it so.

    Raises:
        VideoError: when it is missing, not an image, cut off, or of unknown range.
    """
    with open_image(path) as image:
        if image.mode in UNKNOWN_RANGE:
            raise VideoError(f"{path}: the picture has 32 bits a pixel. Save it with 8 bits a channel")
        if (turn := orientation(image)) > 1:
            image = image.transpose(_UPRIGHT[turn])
        if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
        return np.asarray(image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a picture, 1 (upright) to 8; from 5 on width and height change places.

    Loads the picture, since Pillow turns TIFFs itself while it loads them.
    """
    image.load()
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except SyntaxError:  # the EXIF is damaged, which does the picture no harm
        return 1
    return value if value in _UPRIGHT else 1


def write_image(path: str | Path, picture_HW3: np.ndarray) -> None:
    """Write RGB uint8 ``[H, W, 3]`` in the format that the suffix of `path` names; atomic."""
    with atomic_write(path) as temporary:
        save_picture(temporary, picture_HW3, quality=90)


def save_picture(path: Path, picture: np.ndarray, **options: Any) -> None:
    """Write uint8 ``[H, W, C]`` in the format that the suffix of `path` names; `options` are Pillow's.

    Through memory, as Pillow does not notice that a full disk took only the first part.
    """
    encoded = io.BytesIO()
    encoded.name = path.name  # whose suffix Pillow reads
    Image.fromarray(picture).save(encoded, **options)
    path.write_bytes(encoded.getvalue())
