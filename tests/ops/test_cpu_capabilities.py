"""Every operator gives the same results with every instruction set, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mfvis_ext


def run_at(capability: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MFVIS_CPU_CAPABILITY": capability}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("capabilities") / "baseline.pt"
    done = run_at("baseline", str(Path(__file__).with_name("capabilities.py")), str(file))
    assert done.returncode == 0, done.stderr
    return file


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_capabilities_agree(capability, baseline):
    capabilities = mfvis_ext.build_info()["cpu_capabilities"]
    if capability not in capabilities or capabilities.index(capability) > capabilities.index(
        mfvis_ext.build_info()["cpu_capability"]
    ):
        pytest.skip(f"this machine or this build has no {capability}")
    done = run_at(capability, str(Path(__file__).with_name("capabilities.py")), str(baseline))
    assert done.returncode == 0, done.stderr


def test_the_capability_can_be_forced():
    done = run_at("baseline", "-c", "import mfvis_ext; print(mfvis_ext.build_info()['cpu_capability'])")
    assert done.stdout == "baseline\n"


def test_unknown_capability():
    done = run_at("sse9", "-c", "import mfvis_ext")
    assert done.returncode != 0
    assert "MFVIS_CPU_CAPABILITY is sse9; expected baseline, avx2 or avx512" in done.stderr
