"""The machine of a benchmark: its description, which every result contains, and its measured limits."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mfvis_ext

HERE = Path(__file__).resolve().parent


def machine(threads: int) -> dict[str, Any]:
    """Description of the hardware and the versions with which numbers were measured."""

    def git(*arguments: str) -> str:
        if not shutil.which("git"):
            return ""
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True).stdout.strip()

    described = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in described if line.startswith("model name")), platform.machine())
    changed = git("status", "--porcelain", "--", ":/csrc", ":/mfvis_ext", ":/benchmarks/*.py")
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + (" with uncommitted changes" if changed else ""),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **mfvis_ext.build_info(),
    }


def gpu_state() -> dict[str, Any]:
    """Name, clocks (MHz), temperature (°C) and power (W) of the GPU at this moment; empty without nvidia-ml-py."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        name = pynvml.nvmlDeviceGetName(gpu)
        return {
            "gpu": name.decode() if isinstance(name, bytes) else name,
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "celsius": pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            "watts": pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        }
    except pynvml.NVMLError as error:  # a virtual GPU need not tell, and a container may lack the library
        return {"gpu": torch.cuda.get_device_name(0), "nvml": str(error)}


def seconds(run: Callable[[], Any], device: str) -> float:
    """How long one run takes; on a GPU between two events, so that launching it counts only where it is the limit.

    On the CPU the result outlives the clock: giving its memory back may make the C library give back what others freed
    before, which is many times what a small operator takes.
    """
    if device == "cpu":
        begin = time.perf_counter()
        result = run()
        elapsed = time.perf_counter() - begin
        del result
        return elapsed
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_speed(device: str) -> float:
    """GB/s, read and written, of a copy of 256 MB."""
    source, target = torch.ones(64 << 20, device=device), torch.empty(64 << 20, device=device)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(7))
    return 2 * source.nbytes / best / 1e9


def arithmetic_rate(device: str) -> float:
    """GFLOP/s of a float32 matrix product, without the tensor cores that the operators have no use for."""
    size = 1024 if device == "cpu" else 8192
    a, b = torch.ones(2, size, size, device=device).unbind()
    best = min(seconds(lambda: a @ b, device) for _ in range(7))
    return 2 * size**3 / best / 1e9


if __name__ == "__main__":  # python benchmarks/machine.py [cuda]
    on = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    found = machine(torch.get_num_threads()) | (gpu_state() if on != "cpu" else {})
    found |= {"copy_gb_per_s": round(copy_speed(on)), "matrix_product_gflop_per_s": round(arithmetic_rate(on))}
    found |= {"after": gpu_state()} if on != "cpu" else {}  # the clocks under load
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
