"""`make gpu-check`: everything that needs an NVIDIA GPU, in one command of at most ten minutes.

The order is that of importance, for a machine that may be at hand only briefly: whether every operator runs at all; the
operator tests; kernels against their predictions; the goal of matching and loss; deformable attention; performance
counters; sanitizers; random cases; training, with a count of synchronizations; a whole step; last the build there.
`--only` runs a part of it.

The results folder, `benchmarks/results/<GPU>`, or `<GPU>-<steps>` for a part, is written while the commands run, so
that nothing is lost if the check is killed: `gpu-check.md`, the steps with their times and failures; one text file per
command; and the measurements.

It needs no network. Prepare what the machine lacks elsewhere, with the Python version of that machine:

    python benchmarks/gpu_check.py --prepare wheels --python python3.12 --arch 9.0

builds the kernels as a wheel and downloads those of the other packages (40 MB, git-ignored). There:

    python benchmarks/gpu_check.py --wheels wheels

puts the library in place and installs the other packages for the check only. Without a wheel the check starts with the
build. A step whose programs are missing, such as compute-sanitizer, is skipped, which the summary says.
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
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gpu_wheels import PATH, PYTHON, ROOT, SITE, WORK, has_library, install, prepare

DEMO, RUN = WORK / "demo", WORK / "run"
SANITIZER = ["compute-sanitizer", "--error-exitcode", "86", "--launch-timeout", "60"]
OURS = ["--kernel-name", "kernel_substring=mfvis"]
SANITIZERS = {
    "memcheck": [*OURS, "--report-api-errors", "no"],
    "racecheck": OURS,
    "synccheck": OURS,
    "initcheck": [],
}
"""Tools, and the kernels they check. initcheck has to see all kernels, or else it would report what the others wrote as
uninitialized. API errors are off for memcheck, because PyTorch probes the driver with calls that may fail."""
COUNTED = "match_tiles|sum_tiles|gather_gradients|find_peaks|attend|attend_backward|distances_of_tiles"
PACKAGES = (
    *("pybind11", "pytest", "hypothesis", "numpy", "scipy", "yaml", "PIL", "safetensors", "transformers"),
    *("accelerate", "av", "pycocotools", "tyro", "docstring_parser", "typeguard", "setuptools"),
)
ON_GPU = {"MFVIS_TEST_DEVICE": "cuda", "MFVIS_FAIL_WITHOUT_CUDA": "1"}
SHARED = {**ON_GPU, "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
"""Environment of processes that share the machine's cores and its GPU."""
LARGEST_OUTPUT, END_OF_OUTPUT = 8 << 20, 2_000
"""Bytes of one command's output that are kept, and characters of a failed one in the summary."""


@dataclass(frozen=True)
class Step:
    """Commands that run in parallel or one after the other, with a limit in seconds. Later steps may use what a step
    leaves of its limit. `needs`: programs without which it is skipped. `count`: text whose lines are counted."""

    name: str
    seconds: int
    commands: Sequence[Sequence[str]]
    environment: dict[str, str] = field(default_factory=dict)
    parallel: bool = False
    by_default: bool = True
    needs: Sequence[str] = ()
    count: str = ""


def steps(out: Path) -> list[Step]:
    """All steps in order; those that run by default take at most 540 s together."""
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""
    tests = [PYTHON, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--durations=5"]
    files = sorted((ROOT / "tests" / "ops").glob("test_*.py"))
    operators = [path.stem for path in sorted((ROOT / "mfvis_ext" / "ops").glob("[!_]*.py"))] + ["mask_loss"]
    cpu_only = ("test_fuzz", "test_emulated", "test_emulator", "test_cpu_capabilities", "test_no_synchronization")
    mfvis = [PYTHON, "-m", "mfvis"]
    train = ["train", "--preset", "test", "--data", str(DEMO / "train.json"), "--train.device", "auto"]
    train += ["--train.steps", "40", "--train.checkpoint-every", "40"]
    resnet = ["--model.backbone.name", "resnet50", "--train.amp", "fp16"]
    warned = "import runpy, torch; torch.cuda.set_sync_debug_mode('warn'); "
    warned += "runpy.run_module('mfvis', run_name='__main__')"
    kernel_times = [PYTHON, "benchmarks/kernel_times.py"]

    def benchmark(name: str, *options: str) -> list[str]:
        script = str(ROOT / "benchmarks" / f"bench_{name}.py")
        return [PYTHON, script, "--device", "cuda", "--out", str(out / "benchmarks"), *options]

    def fuzz(name: str, seconds: int, cases: int, by_default: bool) -> Step:
        commands = [[*tests, str(ROOT / "tests/ops/test_fuzz.py"), "-k", operator] for operator in operators]
        return Step(name, seconds, commands, {**SHARED, "MFVIS_FUZZ": str(cases)}, True, by_default)

    goal = ["--grid", "instances", "--only", "matching"]
    rest = sorted({*operators} - {"tk_loss", "temporal_topk", "box_projection_loss", "ms_deform_attn"})
    build = Step(
        "build",
        75,
        [[PYTHON, "setup.py", "build_ext", "--inplace"]],
        {"MFVIS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability},
        needs=("nvcc", "cmake", "ninja", "c++"),
    )
    return [
        *([] if has_library() else [build]),
        Step("machine", 15, [[PYTHON, "benchmarks/machine.py", "cuda"]]),
        Step(
            "smoke",
            30,
            [[*tests, "-x", "-k", "test_reference and float32", f"tests/ops/test_{name}.py"] for name in operators],
            SHARED,
            parallel=True,
        ),
        Step("operators", 80, [[*tests, str(f)] for f in files if f.stem not in cpu_only], SHARED, parallel=True),
        Step("kernels", 45, [[*kernel_times, "--out", str(out / "kernel_times.md")]]),
        Step("goal", 35, [benchmark("tk_loss", *goal, "--seconds", "3")]),
        Step("attention", 20, [benchmark("ms_deform_attn", "--seconds", "3", "--only", "side 480")]),
        Step(
            "counters",
            45,
            [
                ["ncu", "--kernel-name", f"regex:^({COUNTED})$", "--launch-count", "33", "--set", "basic"]
                + ["--section", "SpeedOfLight", "--section", "MemoryWorkloadAnalysis", *kernel_times, "--once"]
            ],
            needs=("ncu",),
        ),
        Step(
            "sanitizers",
            75,
            [
                [*SANITIZER, "--tool", tool, *kernels, PYTHON, "tests/ops/capabilities.py", str(WORK / f"{tool}.pt")]
                for tool, kernels in SANITIZERS.items()
            ],
            {**SHARED, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            parallel=True,
            needs=("compute-sanitizer",),
        ),
        fuzz("fuzz", 50, 300, by_default=True),
        Step("data", 20, [[*mfvis, "data", "demo", str(DEMO)]]),
        Step(
            "train",
            40,
            [
                [PYTHON, "-W", "always", "-c", warned, *train, "--out", str(RUN / "bf16"), "--train.amp", "bf16"],
                [*mfvis, *train, "--out", str(RUN / "fp16"), *resnet],
            ],
            parallel=True,
            count="called a synchronizing CUDA operation",
        ),
        Step("step", 30, [benchmark("step")]),
        Step(
            "benchmarks",
            30,
            [
                benchmark("temporal_topk", "--seconds", "3", "--grid", "size"),
                benchmark("box_projection_loss", "--seconds", "3", "--grid", "size"),
            ],
        ),
        *([build] if has_library() else []),
        Step("rest", 150, [benchmark(name, "--seconds", "3") for name in rest], by_default=False),
        Step(
            "compiled",
            300,
            [benchmark("tk_loss", *goal, "--compiled"), benchmark("temporal_topk", "--compiled")],
            by_default=False,
        ),
        fuzz("long-fuzz", 540, 2000, by_default=False),
    ]


def end_of(file: Path, size: int) -> str:
    return file.read_bytes()[-size:].decode(errors="replace")


def run(step: Step, allowed: float, out: Path) -> tuple[list[str], float]:
    """Run the commands of a step, which print to files of their own below `out`.

    Returns a section for each failed command, and the seconds that the step took, at most those allowed.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), str(SITE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **step.environment}
    begin = time.perf_counter()
    problems: list[str] = []
    numbered = list(enumerate(step.commands))
    for commands in [numbered] if step.parallel else [[command] for command in numbered]:
        running = []
        for i, command in commands:
            printed = out / f"{step.name}-{i}.txt"
            with printed.open("w") as file:
                # In a new session, so that its child processes end with it. `env` reports a missing program.
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
            try:
                process.wait(max(0.0, allowed - (time.perf_counter() - begin)))
                outcome = f"status {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                outcome = f"cut off after {allowed:.0f} s"
            if printed.stat().st_size > LARGEST_OUTPUT:
                write(printed, end_of(printed, LARGEST_OUTPUT))
            if process.returncode:
                shown = " ".join(word.removeprefix(f"{ROOT}/") for word in command)
                text = end_of(printed, END_OF_OUTPUT).strip()
                problems.append(f"## {step.name}, {outcome}: `{shown}`\n\n```\n{text}\n```\n")
    return problems, time.perf_counter() - begin


def missing_packages() -> list[str]:
    """Python packages that the steps need and this Python lacks."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if "setuptools" not in packages and int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        packages.append("setuptools>=77")
    return packages


def folder_name(gpu: str, only: Sequence[str]) -> str:
    """The results folder; a part of the check has its own."""
    return re.sub(r"\W+", "-", "-".join([gpu.lower(), *only]))


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.replace(path)


def summary_head(gpu: str) -> list[str]:
    commit = ""  # A copy of a checkout may lack its history, and the machine may lack git.
    if shutil.which("git"):
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout
    return [
        f"# GPU check on {gpu}",
        "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}, commit "
        f"{commit.strip() or 'unknown'}; `python benchmarks/gpu_check.py {' '.join(sys.argv[1:])}`",
        "",
        "| step | outcome | seconds | at most |",
        "|---|---|--:|--:|",
    ]


def check(chosen: Sequence[Step], out: Path, gpu: str) -> int:
    """Run the steps. The summary is rewritten after each."""
    lines, failed, allowed = summary_head(gpu), list[str](), 0.0
    for step in chosen:
        allowed += step.seconds
        absent = [program for program in step.needs if shutil.which(program, path=PATH) is None]
        problems, seconds = run(step, allowed, out) if not absent else ([], 0.0)
        failed += problems
        outcome = f"FAILED, {len(problems)} of {len(step.commands)} commands" if problems else "passed"
        outcome = f"skipped: no {', '.join(absent)}" if absent else outcome
        if step.count and not absent:
            texts = (end_of(printed, LARGEST_OUTPUT) for printed in sorted(out.glob(f"{step.name}-*.txt")))
            outcome += f"; {sum(text.count(step.count) for text in texts)} x '{step.count}'"
        lines.append(f"| {step.name} | {outcome} | {seconds:.0f} | {allowed:.0f} |")
        allowed = max(0.0, allowed - seconds)
        print(f"{step.name:12} {outcome} ({seconds:.0f} s)", flush=True)
        write(out / "gpu-check.md", "\n".join([*lines, "", *failed]) + "\n")
        if problems and step.name == "build" and step is chosen[0]:
            break
    print("\n".join(failed))
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [step.name for step in steps(Path())]
    parser.add_argument("--out", type=Path, help="results folder (default: benchmarks/results/<GPU>[-<steps>])")
    parser.add_argument("--only", nargs="+", choices=every, metavar="STEP", help=f"only these: {', '.join(every)}")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels that --prepare has collected")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="collect wheels for another machine, no check")
    parser.add_argument("--python", default=PYTHON, help="with --prepare: a Python of that machine's version")
    parser.add_argument("--arch", default="9.0", help="with --prepare: compute capability of its GPU (default: 9.0)")
    others = ", ".join(step.name for step in steps(Path()) if not step.by_default)
    parser.epilog = f"By default all steps run except {others}."
    options = parser.parse_args()
    if options.prepare:
        return prepare(options.prepare.resolve(), options.python, options.arch)
    if not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no GPU; run it on a machine with one", file=sys.stderr)
        return 1
    shutil.rmtree(WORK, ignore_errors=True)  # of an earlier check, whose training would resume
    WORK.mkdir(parents=True)
    problem = install(options.wheels) if options.wheels else ""
    if not problem and missing_packages() and not options.only:
        problem = f"this Python lacks {', '.join(missing_packages())}; bring them (--prepare, --wheels)"
        problem += " or name the steps that need none of them with --only"
    if problem:
        print(f"gpu-check: {problem}", file=sys.stderr)
        return 1
    gpu = torch.cuda.get_device_name()
    out = (options.out or ROOT / "benchmarks" / "results" / folder_name(gpu, options.only or [])).resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [step for step in steps(out) if (step.name in options.only if options.only else step.by_default)]
    return check(chosen, out, gpu)


if __name__ == "__main__":
    sys.exit(main())
