"""Device selection from the flag, the GPUs that torch finds, and the architectures of the built operators."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

import mfvis_ext
from mfvis.errors import ConfigError


def device_of(name: str, say: Callable[[str], None] = print) -> torch.device:
    """Device named by a flag: cpu, cuda, cuda:1, ..., or auto, which selects a GPU if the operators can use one.

    Args:
        name: the flag.
        say: called with one sentence if auto leaves a GPU idle.

    Raises:
        ConfigError: the device does not exist, or mfvis_ext has no kernels for it and would fail at its first use.
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
    """True if a GPU of this compute capability runs code built for `archs` (CMake's names, separated by spaces).

    "80-real" is machine code only. "90" also contains PTX, which drivers compile for all later GPUs. "90a" runs only on
    that GPU.
    """
    for arch in archs.split():
        digits, exact, binary = re.fullmatch(r"(\d+)([af]?)(-real)?", arch).groups()
        built = divmod(int(digits), 10)
        if built == (major, minor) or (not exact and built < (major, minor) and (built[0] == major or not binary)):
            return True
    return False


def _missing_kernels(device: torch.device) -> str | None:
    """Reason why the operators cannot run on a GPU; None if they can."""
    built = mfvis_ext.build_info()
    if built["cuda"] is None:
        return "mfvis_ext was built without CUDA"
    if not runs_on(built["cuda_archs"], *torch.cuda.get_device_capability(device)):
        return f"mfvis_ext was built for other GPUs, {built['cuda_archs']}"
    return None
