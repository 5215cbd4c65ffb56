"""`make gpu-check`: everything that needs an NVIDIA GPU, in one command of at most eight minutes.

Builds the CUDA kernels for the GPU at hand; runs the operators' tests on it, which fail if it is lost; looks for wrong
memory accesses, races and uninitialised memory with compute-sanitizer; trains a small model from boxes; and measures.
The order is that of importance: correct before fast. `--only` runs a part, also those that take longer (see --help).

The results folder, `benchmarks/results/<GPU>`, and `<GPU>-<steps>` for a part, is written step by step, so that one
that is killed leaves what it knows: `gpu-check.md`, what ran, how long it took and what failed; `log.txt`, what the
steps printed; `kernel_times.md`; `benchmarks.md`, the tables, and `benchmarks.tar.gz`, these with numbers and plots.

It needs no network. Packages that the machine's Python lacks can travel as wheels. Elsewhere, say for Python 3.12:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64
        --platform manylinux2014_x86_64 -d wheels av pycocotools tyro docstring-parser typeguard
        "setuptools>=77,<82"

and there `python benchmarks/gpu_check.py --wheels wheels`. The build reads pyproject.toml, which an older setuptools
cannot; torch wants none above 81. Without the other five everything runs but `data`, `train` and
the training step among the `benchmarks`: `--only build operators fuzz sanitizers kernels benchmarks`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu-check"
SITE, DEMO, RUN, MEASURED = WORK / "site", WORK / "demo", WORK / "run", WORK / "benchmarks"
PYTHON = sys.executable
SANITIZER = ["compute-sanitizer", "--error-exitcode", "86", "--launch-timeout", "60"]
OURS = ["--kernel-name", "kernel_substring=mfvis"]
SANITIZERS = {
    "memcheck": [*OURS, "--report-api-errors", "no"],
    "racecheck": OURS,
    "synccheck": OURS,
    "initcheck": [],
}
"""Checks, and of which kernels. What a kernel that is not looked at writes would count as never written; and calls that
torch and its libraries make to find out what the driver can do count as errors where they are answered by no."""
PACKAGES = (
    *("pybind11", "pytest", "hypothesis", "numpy", "scipy", "yaml", "PIL", "safetensors", "transformers"),
    *("accelerate", "av", "pycocotools", "tyro", "docstring_parser", "typeguard", "setuptools"),
)
PROGRAMS = ("nvcc", "cmake", "ninja", "c++", "compute-sanitizer")
PATH = os.pathsep.join(
    [
        *(str(Path(os.environ[home]) / "bin") for home in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(home)),
        *[str(Path(PYTHON).parent), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"],
    ]
)
ON_GPU = {"MFVIS_TEST_DEVICE": "cuda", "MFVIS_FAIL_WITHOUT_CUDA": "1"}
AT_ONCE = {**ON_GPU, "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
"""Of processes that share the machine's cores and its GPU."""
LONGEST_LOG, END_OF_LOG = 500_000, 2_000
"""Characters of one command's output that are kept, the last ones; and of one that failed, in the summary."""


@dataclass(frozen=True)
class Step:
    """Commands that run all at once, or else one after the other, and their seconds. What a step leaves of its seconds
    the next ones may use; then they are cut off."""

    name: str
    seconds: int
    commands: Sequence[Sequence[str]]
    environment: dict[str, str] = field(default_factory=dict)
    at_once: bool = False
    by_default: bool = True


def steps(out: Path) -> list[Step]:
    """In the order in which they run; those that run by default take at most 480 s together."""
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""
    tests = [PYTHON, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--durations=5"]
    files = sorted((ROOT / "tests" / "ops").glob("test_*.py"))
    operators = [path.stem for path in sorted((ROOT / "mfvis_ext" / "ops").glob("[!_]*.py"))]
    on_cpu_alone = ("test_fuzz", "test_emulated", "test_cpu_capabilities")
    mfvis = [PYTHON, "-m", "mfvis"]
    train = [*mfvis, "train", "--preset", "test", "--data", str(DEMO / "train.json"), "--train.device", "auto"]
    train += ["--train.steps", "40", "--train.checkpoint-every", "40"]
    scaled = ["--model.backbone.name", "resnet50", "--train.amp", "fp16"]  # what the presets train

    def benchmark(name: str, *options: str) -> list[str]:
        script = str(ROOT / "benchmarks" / f"bench_{name}.py")
        return [PYTHON, script, "--device", "cuda", "--out", str(MEASURED), *options]

    matching = ["--grid", "instances", "--only", "matching"]
    rest = sorted({*operators} - {"tk_loss", "temporal_topk", "box_projection_loss", "ms_deform_attn"})
    return [
        Step(
            "build",
            75,
            [[PYTHON, "setup.py", "build_ext", "--inplace"]],
            {"MFVIS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability},
        ),
        Step(
            "operators",
            100,
            [[*tests, str(path)] for path in files if path.stem not in on_cpu_alone],
            AT_ONCE,
            at_once=True,
        ),
        Step(
            "fuzz",
            50,
            [[*tests, str(ROOT / "tests/ops/test_fuzz.py"), "-k", operator] for operator in operators],
            {**AT_ONCE, "MFVIS_FUZZ": "300"},
            at_once=True,
        ),
        Step(
            "sanitizers",
            75,
            [
                [*SANITIZER, "--tool", tool, *kernels, PYTHON, "tests/ops/capabilities.py", str(WORK / f"{tool}.pt")]
                for tool, kernels in SANITIZERS.items()
            ],
            {**AT_ONCE, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            at_once=True,
        ),
        Step("data", 20, [[*mfvis, "data", "demo", str(DEMO)]]),
        Step(
            "train",
            40,
            [
                [*train, "--out", str(RUN / "bf16"), "--train.amp", "bf16"],
                [*train, "--out", str(RUN / "fp16"), *scaled],
            ],
            at_once=True,
        ),
        Step("kernels", 40, [[PYTHON, "benchmarks/kernel_times.py", "--out", str(out / "kernel_times.md")]]),
        Step(
            "benchmarks",
            80,
            [
                benchmark("tk_loss", *matching, "--seconds", "3"),
                benchmark("temporal_topk", "--seconds", "3", "--grid", "size"),
                benchmark("box_projection_loss", "--seconds", "3", "--grid", "size"),
                benchmark("ms_deform_attn", "--seconds", "3"),
                benchmark("step"),
            ],
        ),
        Step("rest", 150, [benchmark(name, "--seconds", "3") for name in rest], by_default=False),
        Step(
            "compiled",
            300,
            [benchmark("tk_loss", *matching, "--compiled"), benchmark("temporal_topk", "--compiled")],
            by_default=False,
        ),
        Step(
            "long-fuzz",
            540,
            [[*tests, str(ROOT / "tests/ops/test_fuzz.py"), "-k", operator] for operator in operators],
            {**AT_ONCE, "MFVIS_FUZZ": "2000"},
            at_once=True,
            by_default=False,
        ),
    ]


def run(step: Step, allowed: float, log: Path) -> tuple[list[str], float]:
    """What went wrong, a section for each command, and the seconds it took, at most those allowed. What the commands
    print joins the log."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), str(SITE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **step.environment}
    begin = time.perf_counter()
    problems: list[str] = []
    for commands in [list(step.commands)] if step.at_once else [[command] for command in step.commands]:
        running = []
        for i, command in enumerate(commands):
            printed = WORK / f"printed-{i}.txt"
            with printed.open("w") as file:
                # A session of its own, so that what it starts ends with it; `env` says what it cannot find.
                process = subprocess.Popen(
                    ["env", *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            running.append((command, process, printed))
        for command, process, printed in running:
            what = " ".join(word.removeprefix(f"{ROOT}/") for word in command)
            try:
                process.wait(max(0.0, allowed - (time.perf_counter() - begin)))
                outcome = f"status {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                outcome = f"cut off after {allowed:.0f} s"
            text = printed.read_text(errors="replace")
            with log.open("a") as file:
                file.write(f"\n### {step.name}: `{what}`: {outcome}\n{text[-LONGEST_LOG:]}")
            if process.returncode:
                problems.append(f"## {step.name}, {outcome}: `{what}`\n\n```\n{text[-END_OF_LOG:].strip()}\n```\n")
    return problems, time.perf_counter() - begin


def missing() -> list[str]:
    """Of the Python packages and programs that the steps need."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if "setuptools" not in packages and int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        packages.append("setuptools>=77")
    return packages + [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def folder_name(gpu: str, only: Sequence[str]) -> str:
    """Of the results: those of a few steps do not replace the whole check's."""
    return re.sub(r"\W+", "-", "-".join([gpu.lower(), *only]))


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.replace(path)


def collect_measurements(out: Path) -> None:
    """The benchmarks' tables in one file, and all that they wrote in another."""
    tables = [path.read_text() for path in sorted(MEASURED.glob("*.md"))]
    if not tables:
        return
    write(out / "benchmarks.md", "\n".join(tables))
    unfinished = out / ".benchmarks.tar.gz"
    with tarfile.open(unfinished, "w:gz") as archive:
        archive.add(MEASURED, "benchmarks")
    unfinished.replace(out / "benchmarks.tar.gz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "benchmarks/results/<GPU>, of a part <GPU>-<steps>"
    parser.add_argument("--out", type=Path, help=f"results folder (default: {where})")
    every = [step.name for step in steps(Path())]
    others = ", ".join(step.name for step in steps(Path()) if not step.by_default)
    parser.add_argument("--only", nargs="+", choices=every, metavar="STEP", help=f"of {', '.join(every)}; these alone")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="packages that this Python lacks, as wheels")
    parser.epilog = f"By default all steps run but {others}."
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no GPU; run it on a machine with one", file=sys.stderr)
        return 1
    shutil.rmtree(WORK, ignore_errors=True)  # of an earlier check, whose training would have to be resumed
    MEASURED.mkdir(parents=True)
    if options.wheels:
        wheels = list(map(str, sorted(options.wheels.glob("*.whl"))))
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(SITE), *wheels]
        if not wheels or subprocess.run(pip).returncode:
            print(f"gpu-check: {options.wheels} has no wheels that this Python can install", file=sys.stderr)
            return 1
        sys.path.insert(0, str(SITE))
    if missing() and not options.only:
        told = f"gpu-check: this machine lacks {', '.join(missing())}; bring them (--wheels, see --help), or name steps"
        print(f"{told} that do without by --only", file=sys.stderr)
        return 1
    gpu = torch.cuda.get_device_name()
    out = (options.out or ROOT / "benchmarks" / "results" / folder_name(gpu, options.only or [])).resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").write_text("")
    commit = ""  # A copy of a checkout may have lost its history, and its machine may have no git.
    if shutil.which("git"):
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout
    lines = [
        f"# GPU check on {gpu}",
        "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}, commit "
        f"{commit.strip() or 'unknown'}; `python benchmarks/gpu_check.py {' '.join(sys.argv[1:])}`",
        "",
        "| step | outcome | seconds | at most |",
        "|---|---|--:|--:|",
    ]
    failed: list[str] = []
    allowed = 0.0
    for step in steps(out):
        if step.name not in options.only if options.only else not step.by_default:
            continue
        allowed += step.seconds
        problems, seconds = run(step, allowed, out / "log.txt")
        failed += problems
        outcome = f"FAILED, {len(problems)} of {len(step.commands)} commands" if problems else "passed"
        lines.append(f"| {step.name} | {outcome} | {seconds:.0f} | {allowed:.0f} |")
        allowed = max(0.0, allowed - seconds)
        print(f"{step.name:12} {outcome} ({seconds:.0f} s)", flush=True)
        write(out / "gpu-check.md", "\n".join([*lines, "", *failed]) + "\n")
        collect_measurements(out)
        if problems and step.name == "build":
            break
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
