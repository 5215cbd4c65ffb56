"""The synthetic videos: valid, repeatable, and teachable from boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mfvis.data.check import check_file
from mfvis.data.config import SyntheticConfig
from mfvis.data.synthetic import SHAPES, draw_video, write_demo
from mfvis.errors import ConfigError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_sound(demo_data: tuple[Path, Path]) -> None:
    assert [path.name for path in demo_data] == ["train.json", "val.json"]
    assert all(check_file(path) == [] for path in demo_data)


def test_repeatable(tmp_path: Path) -> None:
    small = SyntheticConfig(videos=2, val_videos=1, frames=2, height=32, width=48)
    for folder, seed in (("a", 4), ("b", 4), ("c", 5)):
        write_demo(tmp_path / folder, replace(small, seed=seed))
    a, b, c = (contents(tmp_path / folder) for folder in "abc")
    assert a == b and a != c
    assert set(a) == {"train.json", "val.json"} | {
        f"JPEGImages/{video}/0000{frame}.jpg" for video in ("train0000", "train0001", "val0000") for frame in range(2)
    }


@pytest.fixture(scope="module")
def videos() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [draw_video(np.random.default_rng(seed), 6, (96, 160), (2, 4)) for seed in range(12)]


def test_masks_are_exclusive_and_non_convex(videos: list) -> None:
    fill, shapes = [], set()
    for images_THW3, masks_NTHW, shapes_N in videos:
        assert images_THW3.shape == (6, 96, 160, 3) and images_THW3.dtype == np.uint8
        assert len(masks_NTHW) == len(shapes_N) >= 1
        assert masks_NTHW.sum(0).max() <= 1, "each pixel belongs to the front object only"
        shapes |= set(shapes_N.tolist())
        masks = [mask_HW for mask_HW in masks_NTHW.reshape(-1, 96, 160) if mask_HW.any()]
        fill += [mask_HW.sum() / (np.ptp(np.argwhere(mask_HW), 0) + 1).prod() for mask_HW in masks]
    assert shapes == set(range(len(SHAPES)))
    assert 0.42 < np.mean(fill) < 0.62, "a filled box is a poor mask"


def test_objects_share_a_color_with_the_ground_unless_it_is_turned_off(videos: list) -> None:
    own = [draw_video(np.random.default_rng(seed), 1, (96, 160), (2, 2), shared_colors=False) for seed in range(8)]
    shares = []
    for drawn in (videos, own):
        found = []
        for images_THW3, masks_NTHW, _ in drawn:
            bins_HW3 = images_THW3[0] // 32
            frequent, counts = np.unique(bins_HW3[~masks_NTHW[:, 0].any(0)], axis=0, return_counts=True)
            ground = {tuple(color) for color in frequent[counts > 30].tolist()}
            found += [tuple(color) in ground for color in bins_HW3[masks_NTHW[:, 0].any(0)].tolist()]
        shares.append(np.mean(found))
    assert shares[0] > 0.4 and shares[1] < 0.25, shares


def test_things_move_and_carry_their_texture(videos: list) -> None:
    moved = []
    for images_THW3, masks_NTHW, _ in videos:
        gray_THW = images_THW3.astype(np.float32).mean(-1)
        for masks_THW in masks_NTHW:
            whole = [t for t in range(6) if masks_THW[t].sum() > 300]
            moved += [np.abs(_center(masks_THW[a]) - _center(masks_THW[b])).max() for a, b in pairwise(whole)]
        textured = [gray_THW[0][mask_HW].std() for mask_HW in masks_NTHW[:, 0] if mask_HW.sum() > 300]
        assert all(deviation > 6 for deviation in textured)
    assert 0.5 < np.median(moved) < 6, "visible, and within a search window of five pixels"


def test_patches_are_found_again_in_the_next_frame(videos: list) -> None:
    """The best match within five pixels of a patch inside an object lies on that object far more often than chance."""
    hits = total = chance = 0
    for images_THW3, masks_NTHW, _ in videos[:6]:
        image_THW3 = images_THW3.astype(np.float32)
        for masks_THW in masks_NTHW:
            y, x = np.nonzero(masks_THW[0, 7:-7, 7:-7])
            for i, j in zip(y[::37] + 7, x[::37] + 7, strict=True):
                patch = image_THW3[0, i - 1 : i + 2, j - 1 : j + 2]
                distance = {
                    (di, dj): np.square(image_THW3[1, i + di - 1 : i + di + 2, j + dj - 1 : j + dj + 2] - patch).sum()
                    for di in range(-5, 6)
                    for dj in range(-5, 6)
                }
                di, dj = min(distance, key=distance.__getitem__)
                hits += masks_THW[1, i + di, j + dj]
                chance += np.mean([masks_THW[1, i + di, j + dj] for di, dj in distance])
                total += 1
    assert total > 100
    assert hits / total > 0.93 > chance / total


def _center(mask_HW: np.ndarray) -> np.ndarray:
    return np.argwhere(mask_HW).mean(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": 0}, "videos is 0"),
        ({"min_objects": 3, "max_objects": 2}, "max_objects is 2; expected min_objects, 3, or more"),
    ],
)
def test_malformed_sizes(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticConfig(**change)
