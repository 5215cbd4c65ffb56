from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the ladder's tests the dtypes and the table of malformed arguments of the operator's own class."""
    if "dtype" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("dtype", metafunc.cls.dtypes, ids=lambda dtype: str(dtype).removeprefix("torch."))
    if "malformed" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("malformed", list(metafunc.cls.malformed))
    if "threads" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("threads", [1, 2, 3])
