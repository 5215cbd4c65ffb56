"""Every script and the notebook in ``examples/`` runs, and shows what it claims."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_masks_of_a_plain_training_loop_are_better_than_filled_boxes() -> None:
    iou, filled = load("loss_in_your_own_loop").main(videos=1)
    assert iou > filled + 0.15, (iou, filled)


def test_arrays_are_labeled(tmp_path: Path) -> None:
    example = load("label_videos")
    quality = example.main(tmp_path, short_side=64, optim={"steps": 8, "warmup": 1})
    images, _, truth = example.generate()
    assert 0 < quality <= 1
    assert np.load(tmp_path / "masks.npy").shape == truth.shape == (2, 12, *images.shape[1:3])
    with Image.open(tmp_path / "masks.png") as image:
        assert image.height == 3 * images.shape[1]


def test_own_tracks_are_imported_trained_on_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(load("train_on_your_tracks").main(tmp_path).read_text())
    assert {result["category_id"] for result in results} == {1}
    printed = capsys.readouterr().out
    assert "2 videos, 8 tracks (8 toy), 46 boxes" in printed
    assert "Average Precision" in printed


def test_every_cell_of_the_notebook_runs() -> None:
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells), "committed without outputs"
    namespace: dict[str, Any] = {}
    for source in code:
        source = source.replace('"num_models": 1', '"num_models": 1, "optim": {"steps": 30, "warmup": 1}')  # quick
        exec(compile(source, "tour.ipynb", "exec"), namespace)
    assert namespace["masks"].shape == namespace["truth"].shape
    assert namespace["iou"].mean() > namespace["filled_iou"].mean()
