"""What every benchmark of an operator is made of: rows, how they are measured, what is written down.

A script lists `Case`s and calls `main`. A row is measured only after both sides gave the same result; our runs and the
baseline's take turns, each after the caches were overwritten; the peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import mfvis_ext

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """One comparison: two functions of the same arguments."""

    name: str
    make: Callable[[], dict[str, Any]]
    """The arguments; deterministic, because the processes that measure memory make their own."""
    ours: Callable[..., Any]
    baseline: Callable[..., Any]
    agree: Callable[[Any, Any], None]
    """Raises AssertionError unless the two results are the same."""
    bytes_moved: Callable[[dict[str, Any]], int]
    """The least an implementation must read and write."""
    quick: bool = True
    """Small enough for --quick."""


@dataclass(frozen=True)
class Row:
    case: str
    best_ms: float
    median_ms: float
    quartiles_ms: tuple[float, float]
    baseline_best_ms: float
    baseline_median_ms: float
    baseline_quartiles_ms: tuple[float, float]
    speedup_of_best: float
    """What is left when other programs use the machine, too."""
    speedup: float
    """Of the medians."""
    gb_per_s: float
    share_of_copy_speed: float
    """GB/s over the speed at which this machine copies memory, measured in the same run."""
    extra_mb: float
    baseline_extra_mb: float


def close(ours: Any, baseline: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, baseline, rtol=rtol, atol=atol)


def overwrite_caches(scratch: torch.Tensor) -> None:
    scratch.add_(1)


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def take_turns(runs: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each function, `rounds` times each with cold caches, one after the other."""
    scratch = torch.zeros(16 << 20)
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, measured in zip(runs, times, strict=True):
            overwrite_caches(scratch)
            measured.append(seconds(run))
    return times


def copy_speed() -> float:
    """GB/s, read and written, of a copy of 256 MB."""
    source, target = torch.ones(64 << 20), torch.empty(64 << 20)
    best = min(seconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best / 1e9


def status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def peak_in_this_process(run: Callable[[], Any]) -> float:
    """MB by which the resident memory rises at most during a run, after one run to load what is loaded only once."""
    run()
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark starts anew at the present size.
    before = status_kb("VmRSS")
    run()
    return max(0, status_kb("VmHWM") - before) / 1024


def peak_of(script: Path, case: Case, side: str, threads: int) -> float:
    """The same in a fresh process whose allocator returns what is freed: the first run leaves nothing to reuse."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(script), "--threads", str(threads), "--peak", case.name, side]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(script: Path, case: Case, rounds: int, threads: int, copied_gb_per_s: float) -> Row:
    arguments = case.make()
    case.agree(case.ours(**arguments), case.baseline(**arguments))
    ours, baseline = take_turns([lambda: case.ours(**arguments), lambda: case.baseline(**arguments)], rounds)
    median, baseline_median = statistics.median(ours), statistics.median(baseline)
    gb_per_s = case.bytes_moved(arguments) / min(ours) / 1e9

    def quartiles(times: list[float]) -> tuple[float, float]:
        first, _, third = statistics.quantiles(times, n=4)
        return 1e3 * first, 1e3 * third

    return Row(
        case=case.name,
        best_ms=1e3 * min(ours),
        median_ms=1e3 * median,
        quartiles_ms=quartiles(ours),
        baseline_best_ms=1e3 * min(baseline),
        baseline_median_ms=1e3 * baseline_median,
        baseline_quartiles_ms=quartiles(baseline),
        speedup_of_best=min(baseline) / min(ours),
        speedup=baseline_median / median,
        gb_per_s=gb_per_s,
        share_of_copy_speed=gb_per_s / copied_gb_per_s,
        extra_mb=peak_of(script, case, "ours", threads),
        baseline_extra_mb=peak_of(script, case, "baseline", threads),
    )


def machine(threads: int) -> dict[str, Any]:
    """Where and with what the numbers were taken."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True).stdout.strip()

    described = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in described if line.startswith("model name")), platform.machine())
    changed = git("status", "--porcelain", "--", ":/csrc", ":/mfvis_ext", ":/benchmarks/*.py")
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else ""),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **mfvis_ext.build_info(),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""

    def time_of(best: float, median: float, quartiles: tuple[float, float]) -> str:
        return f"{best:.2f}; {median:.2f} ({quartiles[0]:.2f}-{quartiles[1]:.2f})"

    lines = [
        "| case | ms: best; median (quartiles) | PyTorch, ms | faster: best, median "
        "| GB/s (best) | of copy speed | extra MB | PyTorch, extra MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.case} | {time_of(row.best_ms, row.median_ms, row.quartiles_ms)} "
        f"| {time_of(row.baseline_best_ms, row.baseline_median_ms, row.baseline_quartiles_ms)} "
        f"| {row.speedup_of_best:.1f}x, {row.speedup:.1f}x | {row.gb_per_s:.1f} "
        f"| {row.share_of_copy_speed:.0%} | {row.extra_mb:.1f} | {row.baseline_extra_mb:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)


def main(script: str, cases: Sequence[Case]) -> None:
    """The command line of a benchmark: measures, prints the table, writes it and a JSON file beside it."""
    path = Path(script).resolve()
    parser = argparse.ArgumentParser(description=f"{path.stem}: our operator against plain PyTorch, on the CPU.")
    parser.add_argument("--quick", action="store_true", help="the small cases only, five rounds")
    parser.add_argument("--rounds", type=int, default=25, help="runs of each side (default: 25)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="default: benchmarks/results")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    if options.peak:
        name, side = options.peak
        case = next(case for case in cases if case.name == name)
        arguments = case.make()
        print(peak_in_this_process(lambda: (case.ours if side == "ours" else case.baseline)(**arguments)))
        return

    where = machine(options.threads)
    copied = copy_speed()
    chosen = [case for case in cases if case.quick or not options.quick]
    rows = [measure(path, case, 5 if options.quick else options.rounds, options.threads, copied) for case in chosen]
    record = {"machine": {**where, "copy_gb_per_s": copied}, "rows": [asdict(row) for row in rows]}
    head = "\n".join(f"* {name}: {value}" for name, value in record["machine"].items())
    text = f"# {path.stem}\n\n{head}\n\n{table(rows)}"
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / f"{path.stem}.json", json.dumps(record, indent=1) + "\n")
    write(options.out / f"{path.stem}.md", text)
    print(text)
