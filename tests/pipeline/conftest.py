"""Data for the tests: a tiny synthetic set, made once, and the real clips where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from import_helpers import write_images
from mfvis.data.config import SyntheticConfig
from mfvis.data.synthetic import write_demo


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """``(train.json, val.json)``: four and two synthetic videos of six frames, 64 x 96 pixels. Do not write there."""
    folder = tmp_path_factory.mktemp("demo")
    size = {"frames": 6, "height": 64, "width": 96}
    return write_demo(folder, SyntheticConfig(seed=1, videos=4, val_videos=2, min_objects=2, max_objects=3, **size))


@pytest.fixture(scope="session")
def six_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six frames, 80 x 60. Do not write there."""
    return write_images(tmp_path_factory.mktemp("frames") / "clip")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips (``realvid``, ``clips``, ``weights``); the test is skipped where it is absent."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MFVIS_REAL_DATA", default))
    if not (folder / "realvid" / "train.json").is_file():
        pytest.skip(f"no real clips in {folder}; set MFVIS_REAL_DATA")
    return folder
