"""Fixtures of the tests of `benchmarks/study.py` and the modules next to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mfvis.cli import main
from mfvis.data.config import SyntheticConfig
from mfvis.data.synthetic import write_demo

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import study

    return study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json with boxes only, train_masks.json, val.json."""
    folder = tmp_path_factory.mktemp("study")
    size = {"frames": 4, "height": 32, "width": 48, "min_objects": 1, "max_objects": 2}
    write_demo(folder, SyntheticConfig(seed=1, videos=4, val_videos=2, **size))
    (folder / "train.json").rename(folder / "train_masks.json")
    content = json.loads((folder / "train_masks.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentations"]
    (folder / "train.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def in_process(study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the commands of a study in this process: importing torch takes longer than they do."""

    def measured(command: list[str], *_) -> tuple[int, dict[str, float]]:
        if "--predict" in command:
            study.predict(*(Path(command[command.index(flag) + 1]) for flag in ("--predict", "--val", "--results")))
            return 0, {}
        return main(command[command.index("mfvis") + 1 :]), {"cpu_seconds": 1.0}

    monkeypatch.setattr(study, "_measured", measured)
