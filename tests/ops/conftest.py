from __future__ import annotations

import os

import pytest
import torch

import mfvis_ext


def pytest_sessionstart() -> None:
    """A lost GPU or a build without CUDA kernels must not look like passing tests."""
    if os.environ.get("MFVIS_FAIL_WITHOUT_CUDA") == "1":
        assert torch.cuda.is_available(), "MFVIS_FAIL_WITHOUT_CUDA=1, but torch sees no GPU"
        assert mfvis_ext.build_info()["cuda"], "MFVIS_FAIL_WITHOUT_CUDA=1, but this build has no CUDA kernels"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the shared tests with the dtypes and malformed arguments of the operator's class."""
    if "dtype" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("dtype", metafunc.cls.dtypes, ids=lambda dtype: str(dtype).removeprefix("torch."))
    if "malformed" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("malformed", list(metafunc.cls.malformed))
    if "threads" in metafunc.fixturenames and metafunc.cls is not None:
        # The emulator has one thread.
        emulated = mfvis_ext.build_info()["cpu_capability"] == "emulated"
        metafunc.parametrize("threads", [1] if emulated else [1, 2, 3])
