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
CHECKS = "reference or any_size or gradcheck or strided or repeatable"
"""Those of the operator tests that run a kernel."""


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator):
    if "emulated" not in mfvis_ext.build_info()["cpu_capabilities"]:
        assert "MFVIS_FAIL_WITHOUT_EMULATOR" not in os.environ, "expected a build with the emulator: MFVIS_EMULATE=1"
        pytest.skip("built without MFVIS_EMULATE=1")
    for choice in (["-k", CHECKS, f"test_{operator}.py"], ["-k", f"any_case and {operator}", "test_fuzz.py"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *choice],
            env={**os.environ, "MFVIS_CPU_CAPABILITY": "emulated", "MFVIS_FUZZ": "20"},
            cwd=HERE,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:]
