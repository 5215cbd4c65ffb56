"""`python benchmarks/kernel_resources.py [--out FILE]`: registers, stack and spills of every CUDA kernel, on no GPU.

Compiles csrc/ops/cuda/*.cu with nvcc for every architecture that a wheel has, warnings as errors, reads what ptxas says
of each kernel, and writes the table. Spills and a stack, which both lie in local memory, are errors: such a kernel
waits for memory where it should compute, and nothing else would show it on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc" / "ops" / "cuda").glob("*_kernel.cu"))
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]


@dataclass(frozen=True)
class Resources:
    """Resources per thread of one kernel on one architecture: registers, bytes of local memory (stack and spills)."""

    registers: int
    local: int


def compile_for(source: Path, architecture: str, directory: Path) -> dict[str, Resources]:
    """By the kernel's mangled name. Raises RuntimeError with the compiler's words."""
    command = ["nvcc", "-std=c++17", f"-arch=sm_{architecture}", "-O3", "-Xptxas", "-v", "--Werror", "all-warnings"]
    command += ["-Xcompiler=-Wall,-Wno-unknown-pragmas", "-c", str(source)]
    command += ["-o", str(directory / f"{source.stem}_{architecture}.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile for sm_{architecture}:\n{done.stderr}")
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers"
    )
    return {
        name: Resources(int(registers), int(stack) + int(stores) + int(loads))
        for name, stack, stores, loads, registers in re.findall(pattern, done.stderr, re.DOTALL)
    }


def readable(name: str) -> str:
    """A kernel as its source has it: "sum_tiles<float>"."""
    text = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    text = text.replace("mfvis::", "").replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return text[:at]
    return text


def table(found: dict[tuple[str, str], dict[str, Resources]]) -> list[str]:
    """One row a kernel: registers on each architecture, and the bytes of its stack and spills where it has most."""
    architectures = " | ".join("sm_" + a for a in ARCHITECTURES)
    lines = [f"| op | kernel | {architectures} | local memory |", "|---|---|" + "--:|" * 8]
    for (op, kernel), by_architecture in sorted(found.items()):
        registers = " | ".join(str(by_architecture[a].registers) for a in ARCHITECTURES)
        local = max(resources.local for resources in by_architecture.values())
        lines.append(f"| {op} | `{kernel}` | {registers} | {f'**{local} B**' if local else 0} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    arguments = parser.parse_args()
    jobs = [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES]
    found: dict[tuple[str, str], dict[str, Resources]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(arguments.jobs) as pool:
        compiled = pool.map(lambda job: compile_for(*job, Path(directory)), jobs)
        try:
            for (source, architecture), kernels in zip(jobs, compiled, strict=True):
                for name, resources in kernels.items():
                    found[source.name.removesuffix("_kernel.cu"), readable(name)][architecture] = resources
        except (RuntimeError, FileNotFoundError) as error:
            pool.shutdown(cancel_futures=True)
            print(error, file=sys.stderr)
            return 1
    release = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    lines = [
        "# Registers and local memory of the CUDA kernels",
        "",
        f"`python benchmarks/kernel_resources.py`, nvcc {re.search(r'V([0-9.]+)', release)[1]}, "
        f"{len(SOURCES)} files, {len(found)} kernels, {len(ARCHITECTURES)} architectures. Registers per thread.",
        "",
        *table(found),
    ]
    print("\n".join(lines))
    if arguments.out:
        unfinished = arguments.out.with_suffix(".unfinished")
        unfinished.write_text("\n".join(lines) + "\n")
        unfinished.replace(arguments.out)
    in_memory = sorted({name for (_, name), kernels in found.items() if any(r.local for r in kernels.values())})
    if in_memory:
        print(f"these kernels keep numbers in local memory: {', '.join(in_memory)}", file=sys.stderr)
    return 1 if in_memory else 0


if __name__ == "__main__":
    sys.exit(main())
