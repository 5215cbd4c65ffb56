"""Which device a command takes, and what is said about one that it cannot take."""

from __future__ import annotations

import pytest
import torch
from mfvis.device import device_of
from mfvis.errors import ConfigError

import mfvis_ext


def machine(monkeypatch: pytest.MonkeyPatch, gpu: bool, built: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    info = mfvis_ext.build_info() | {"cuda": built}
    monkeypatch.setattr(mfvis_ext, "build_info", lambda: info)


@pytest.mark.parametrize(
    ("gpu", "built", "device", "sentences"),
    [(True, "13.0", "cuda", 0), (True, None, "cpu", 1), (False, "13.0", "cpu", 0), (False, None, "cpu", 0)],
)
def test_auto_takes_a_gpu_that_the_operators_can_use(
    gpu: bool, built: str | None, device: str, sentences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpu, built)
    said: list[str] = []
    assert device_of("auto", said.append) == torch.device(device)
    assert said == ["computes on the CPU and not on the GPU: mfvis_ext was built without CUDA"] * sentences


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_by_name_needs_operators_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, built=None)
    message = f"device is '{name}', which cannot be used .mfvis_ext was built without CUDA.; give cpu"
    with pytest.raises(ConfigError, match=message):
        device_of(name)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{name}', which cannot be used"):
        device_of(name)
