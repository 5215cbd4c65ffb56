"""The CUDA kernels without a GPU: the tests of every operator on the emulator (csrc/emulator)."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mfvis_ext.ops

HERE = Path(__file__).parent
OPERATORS = sorted(module.name for module in pkgutil.iter_modules(mfvis_ext.ops.__path__))
CHECKS = "reference or gradcheck or strided or repeatable or swallowed or outside or any_case"
"""Those of the operator tests that run a kernel; `any_case` includes the sizes of `any_size`."""


def test_operators():
    """One process for all, which starts only once."""
    if "emulated" not in mfvis_ext.build_info()["cpu_capabilities"]:
        assert "MFVIS_FAIL_WITHOUT_EMULATOR" not in os.environ, "expected a build with the emulator: MFVIS_EMULATE=1"
        pytest.skip("built without MFVIS_EMULATE=1")
    files = [*(f"test_{operator}.py" for operator in OPERATORS), "test_mask_loss.py", "test_fuzz.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHECKS, *files],
        env={**os.environ, "MFVIS_CPU_CAPABILITY": "emulated", "MFVIS_FUZZ": "30"},
        cwd=HERE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
