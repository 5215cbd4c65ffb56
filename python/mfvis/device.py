"""Where a command computes: what its flag says, what torch sees, and what the operators were built for."""

from __future__ import annotations

import re
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
        ConfigError: when the device is not there, or mfvis_ext has no kernels for it and would fail at its first use.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        missing = _missing_kernels(torch.device("cuda"))
        if missing:
            say(f"computes on the CPU and not on the GPU: {missing}")
        return torch.device("cpu" if missing else "cuda")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("the operators know CPUs and CUDA")
        missing = _missing_kernels(device) if device.type == "cuda" and torch.cuda.is_available() else None
        if missing:
            raise RuntimeError(missing)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {name!r}, which cannot be used ({reason}); give cpu, cuda or auto") from None
    return device


def runs_on(archs: str, major: int, minor: int) -> bool:
    """Whether a GPU of this compute capability runs what was built for `archs`, CMake's names with spaces between.

    "80-real" is machine code, "90" has PTX besides, which drivers translate for all later GPUs; "90a" is for that GPU
    alone.
    """
    for arch in archs.split():
        number, exact, binary = re.fullmatch(r"(\d+)([af]?)(-real)?", arch).groups()
        own = divmod(int(number), 10)
        if own == (major, minor) or (not exact and own < (major, minor) and (own[0] == major or not binary)):
            return True
    return False


def _missing_kernels(device: torch.device) -> str | None:
    """What keeps the operators from a GPU; None if nothing does."""
    built = mfvis_ext.build_info()
    if built["cuda"] is None:
        return "mfvis_ext was built without CUDA"
    if not runs_on(built["cuda_archs"], *torch.cuda.get_device_capability(device)):
        return f"mfvis_ext was built for other GPUs, {built['cuda_archs']}"
    return None
