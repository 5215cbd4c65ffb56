"""`make gpu-check`: everything that needs an NVIDIA GPU, in one command.

Builds the CUDA kernels for the GPU at hand; runs the operators' tests on it, which fail if it is lost; looks for wrong
memory accesses, races and uninitialised memory with compute-sanitizer; trains a small model from boxes; and measures.
The order is that of importance: correct before fast. Everything that a step prints goes to a file of the results folder
`benchmarks/results/<GPU>`, and a summary tells what ran, how long it took and what failed. `--only` runs a part.

It needs no network. Packages that the machine lacks can travel as wheels for its Python, say 3.12. Elsewhere:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64
        --platform manylinux2014_x86_64 -d wheels av pycocotools tyro docstring-parser typeguard

and there: `pip install --no-index --no-deps --target site wheels/*.whl`, then `PYTHONPATH=$PWD/site make gpu-check`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
SANITIZER = ["compute-sanitizer", "--error-exitcode", "86"]
OURS = ["--kernel-name", "kernel_substring=mfvis"]
SANITIZERS = {"memcheck": OURS, "racecheck": OURS, "synccheck": OURS, "initcheck": []}
"""Checks, and of which kernels. What a kernel that is not looked at writes would count as never written."""
PACKAGES = (
    *("pybind11", "pytest", "hypothesis", "numpy", "scipy", "yaml", "PIL", "safetensors", "transformers"),
    *("accelerate", "av", "pycocotools", "tyro"),
)
PROGRAMS = ("nvcc", "cmake", "ninja", "c++", "compute-sanitizer")
PATH = os.pathsep.join(
    [
        *(str(Path(os.environ[home]) / "bin") for home in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(home)),
        *[str(Path(PYTHON).parent), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"],
    ]
)
ON_GPU = {"MFVIS_TEST_DEVICE": "cuda", "MFVIS_FAIL_WITHOUT_CUDA": "1"}


@dataclass(frozen=True)
class Step:
    """One command. What it costs at most is cut off, so that the whole stays in its time."""

    name: str
    command: Sequence[str]
    seconds: int
    environment: dict[str, str]


def steps(out: Path, work: Path) -> list[Step]:
    """In the order in which they run."""
    tests = [PYTHON, "-m", "pytest", "-q", "--durations=10"]
    every_kernel = [PYTHON, "tests/ops/levels.py"]
    one_allocation_each = {**ON_GPU, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    train = [
        *[PYTHON, "-m", "mfvis.cli", "train", "--preset", "test", "--data", str(work / "demo" / "train.json")],
        *["--out", str(work / "run"), "--train.device", "auto", "--train.steps", "40", "--train.amp", "bf16"],
    ]
    return [
        Step("build", [PYTHON, "setup.py", "build_ext", "--inplace"], 240, {"MFVIS_CUDA": "1"}),
        Step(
            "operators",
            [*tests, "tests/ops", "--ignore=tests/ops/test_fuzz.py"],
            240,
            ON_GPU,
        ),
        Step("fuzz", [*tests, "tests/ops/test_fuzz.py"], 240, {**ON_GPU, "MFVIS_FUZZ": "300"}),
        *(
            Step(
                tool,
                [*SANITIZER, "--tool", tool, *kernels, *every_kernel, str(work / f"{tool}.pt")],
                120,
                one_allocation_each,
            )
            for tool, kernels in SANITIZERS.items()
        ),
        Step("data", [PYTHON, "-m", "mfvis.cli", "data", "demo", str(work / "demo")], 60, {}),
        Step("train", train, 90, {}),
        *(
            Step(path.stem, [PYTHON, str(path), "--device", "cuda", "--out", str(out)], 60, {})
            for path in sorted((ROOT / "benchmarks").glob("bench_*.py"))
            if '"--device"' in path.read_text() or "from harness import Case" in path.read_text()
        ),
    ]


def run(step: Step, log: Path) -> tuple[str, float]:
    """ "passed" or what went wrong, and the seconds it took."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": path, **step.environment}
    begin = time.perf_counter()
    with log.open("w") as file:
        try:
            done = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=step.seconds
            )
            outcome = "passed" if done.returncode == 0 else f"FAILED, status {done.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"CUT OFF after {step.seconds} s"
        except FileNotFoundError as error:
            outcome = f"FAILED, {error.filename} is missing"
    return outcome, time.perf_counter() - begin


def missing() -> list[str]:
    """Of the Python packages and programs that the steps need."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return packages + [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="results folder (default: benchmarks/results/<GPU>)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no GPU; run it on a machine with one", file=sys.stderr)
        return 1
    if missing() and not options.only:
        told = (
            f"gpu-check: this machine lacks {', '.join(missing())}; bring them (wheels: see --help), or name steps that"
        )
        print(f"{told} do without by --only", file=sys.stderr)
        return 1
    gpu = torch.cuda.get_device_name()
    out = options.out or ROOT / "benchmarks" / "results" / re.sub(r"\W+", "-", gpu.lower())
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)  # of an earlier check, whose training would have to be resumed
    work.mkdir(parents=True)
    (out / ".gitignore").write_text("work/\n")
    commit = ""  # A copy of a checkout may have lost its history, and its machine may have no git.
    if shutil.which("git"):
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout
    lines = [
        f"# GPU check on {gpu}",
        "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}, commit "
        f"{commit.strip() or 'unknown'}; `make gpu-check`",
        "",
        "| step | outcome | seconds |",
        "|---|---|--:|",
    ]
    failed = []
    for step in steps(out, work):
        if options.only and step.name not in options.only:
            continue
        outcome, seconds = run(step, out / f"{step.name}.log")
        failed += [step.name] * (outcome != "passed")
        lines.append(f"| {step.name} | {outcome} | {seconds:.0f} |")
        print(f"{step.name:24} {outcome} ({seconds:.0f} s)", flush=True)
        # After each step, so that a check that is killed leaves what it knows.
        unfinished = out / ".summary"
        unfinished.write_text("\n".join(lines) + "\n")
        unfinished.replace(out / "gpu-check.md")
        if failed and step.name == "build":
            break
    for name in failed:
        print(f"\n{name}: the end of {out / name}.log\n" + "".join((out / f"{name}.log").read_text()[-3000:]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
