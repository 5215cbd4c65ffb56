"""The device that a command uses, and the error about one that it cannot use."""

from __future__ import annotations

import pytest
import torch
from mfvis.device import device_of
from mfvis.errors import ConfigError

import mfvis_ext

NO_CUDA = "mfvis_ext was built without CUDA"
OTHERS = "mfvis_ext was built for other GPUs, 80-real 100"


def machine(monkeypatch: pytest.MonkeyPatch, gpu: bool, built: str | None, archs: str) -> None:
    """A GPU of compute capability 9.0, or none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    info = mfvis_ext.build_info() | {"cuda": built, "cuda_archs": archs}
    monkeypatch.setattr(mfvis_ext, "build_info", lambda: info)


@pytest.mark.parametrize(
    ("gpu", "built", "archs", "device", "missing"),
    [
        (True, "13.0", "80-real 90-real", "cuda", []),
        (True, "13.0", "80", "cuda", []),
        (True, "13.0", "80-real 100", "cpu", [OTHERS]),
        (True, None, "", "cpu", [NO_CUDA]),
        (False, "13.0", "90", "cpu", []),
        (False, None, "", "cpu", []),
    ],
)
def test_auto_takes_a_gpu_that_the_operators_can_use(
    gpu: bool, built: str | None, archs: str, device: str, missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpu, built, archs)
    said: list[str] = []
    assert device_of("auto", said.append) == torch.device(device)
    assert said == [f"computes on the CPU and not on the GPU: {reason}" for reason in missing]


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
@pytest.mark.parametrize(("built", "archs", "missing"), [(None, "", NO_CUDA), ("13.0", "80-real 100", OTHERS)])
def test_a_gpu_by_name_needs_operators_for_it(
    name: str, built: str | None, archs: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, True, built, archs)
    with pytest.raises(ConfigError, match=f"device is '{name}', which cannot be used .{missing}.; give cpu"):
        device_of(name)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{name}', which cannot be used"):
        device_of(name)
