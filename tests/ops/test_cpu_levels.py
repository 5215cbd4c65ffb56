"""The kernels compiled for other instruction sets compute the same: every operator of the ladder, backward too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mfvis_ext


def run_at(level: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MFVIS_CPU_LEVEL": level}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("levels") / "baseline.pt"
    done = run_at("baseline", str(Path(__file__).with_name("levels.py")), str(file))
    assert done.returncode == 0, done.stderr
    return file


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_levels_agree(level, baseline):
    levels = mfvis_ext.build_info()["cpu_levels"]
    if level not in levels or levels.index(level) > levels.index(mfvis_ext.build_info()["cpu_level"]):
        pytest.skip(f"this machine or this build has no {level}")
    done = run_at(level, str(Path(__file__).with_name("levels.py")), str(baseline))
    assert done.returncode == 0, done.stderr


def test_the_level_can_be_forced():
    done = run_at("baseline", "-c", "import mfvis_ext; print(mfvis_ext.build_info()['cpu_level'])")
    assert done.stdout == "baseline\n"


def test_unknown_level():
    done = run_at("sse9", "-c", "import mfvis_ext")
    assert done.returncode != 0
    assert "MFVIS_CPU_LEVEL is sse9; expected baseline, avx2 or avx512" in done.stderr
