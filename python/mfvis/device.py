"""Where a command computes: what its flag says, what torch sees, and what the operators were built for."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mfvis_ext
from mfvis.errors import ConfigError


def device_of(name: str, say: Callable[[str], None] = print) -> torch.device:
    """The device that a flag names: cpu, cuda, cuda:1, ...; or auto, the GPU if the operators can use one.

    Args:
        name: the flag.
        say: is told in one sentence if auto leaves a GPU idle.

    Raises:
        ConfigError: when the device is not there, or mfvis_ext was built without CUDA and would fail at its first use.
    """
    has_gpu = torch.cuda.is_available()
    left_idle = has_gpu and mfvis_ext.build_info()["cuda"] is None
    if name == "auto":
        if left_idle:
            say("computes on the CPU and not on the GPU: mfvis_ext was built without CUDA")
        return torch.device("cuda" if has_gpu and not left_idle else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("the operators know CPUs and CUDA")
        if device.type == "cuda" and left_idle:
            raise RuntimeError("mfvis_ext was built without CUDA")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {name!r}, which cannot be used ({reason}); give cpu, cuda or auto") from None
    return device
