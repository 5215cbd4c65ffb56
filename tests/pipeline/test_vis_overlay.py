"""Overlays on videos and images, and the names of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mfvis.data.images import read_image, write_image
from mfvis.data.rle import encode_mask
from mfvis.data.video import open_video, video_writer
from mfvis.errors import ConfigError
from mfvis.types import TrackResult, Video
from mfvis.vis.overlay import overlay_paths, write_overlay


@pytest.fixture
def image(tmp_path: Path) -> Video:
    """One frame, red at the left and blue at the right."""
    pixels = np.zeros((31, 44, 3), np.uint8)
    pixels[:, :22, 0] = pixels[:, 22:, 2] = 200
    path = tmp_path / "images" / "a.b.jpg"
    write_image(path, pixels)
    return Video(1, "a.b", 44, 31, 1, (path,))


def test_the_overlay_of_a_single_image_is_a_image(image, tmp_path):
    mask_HW = np.zeros((31, 44), bool)
    mask_HW[10:20, 4:16] = True
    result = TrackResult(1, 3, 0.9, (encode_mask(mask_HW),), np.array([[4, 10, 16, 20]], np.float32))
    (path,) = overlay_paths(tmp_path / "out", [image])
    write_overlay(path, image, [result], ["cat"])
    assert list((tmp_path / "out").iterdir()) == [path] and path.name == f"{image.name}.jpg"
    before, drawn = read_image(image.frames[0]).astype(int), read_image(path).astype(int)
    assert drawn.shape == (31, 44, 3)
    changed_HW = np.abs(drawn - before).max(-1)
    assert changed_HW[12:18, 6:14].min() > 20  # under the mask
    assert changed_HW[:, 30:].max() < 10  # far from it, where JPEG is all that changes


def test_no_overlay_replaces_what_it_is_drawn_over(image, tmp_path):
    with video_writer(tmp_path / "moving.mp4", 10, (32, 48)) as write:
        for _ in range(2):
            write(np.zeros((32, 48, 3), np.uint8))
    for video, folder in ((image, tmp_path / "images"), (open_video(tmp_path / "moving.mp4"), tmp_path)):
        with pytest.raises(ConfigError, match=f"out is {folder}, where the overlay would replace"):
            overlay_paths(folder, [video])
        assert overlay_paths(tmp_path / "else", [video])[0].parent == tmp_path / "else"
