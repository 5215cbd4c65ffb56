"""Harness of the operators' benchmarks: cases, measurement, command line.

A script gives the `Case`s of a `Setting` and calls `main`. A row is measured only after all sides gave the same result:
our operator, the plain-PyTorch reference, and with --compiled the reference under torch.compile. Their runs take turns,
each after the caches were overwritten; on the CPU the peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from inputs import GRID, Setting
from machine import arithmetic_rate, copy_speed, gpu_state, machine, seconds
from report import Row, Timing, add_out, as_markdown, write_results
from torch import Tensor

import mfvis_ext

RETURN_ALL = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MFVIS_KEEP_MEMORY": "0"}
"""Environment of a process whose peak memory is measured: what is freed is returned, the first run leaves nothing."""


def close(ours: Any, reference: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, reference, rtol=rtol, atol=atol)


@dataclass(frozen=True)
class Case:
    """One comparison: two functions of the same arguments."""

    make: Callable[[], dict[str, Any]]
    """The arguments on the CPU; deterministic, because the processes that measure memory make their own."""
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    bytes_moved: Callable[[dict[str, Any]], float]
    """The least an implementation must read and write."""
    operations: Callable[[dict[str, Any]], float] = lambda made: 0
    """The least it must compute, in floating-point operations; 0 where only memory is the limit."""
    agree: Callable[[Any, Any], None] = close
    """Raises AssertionError unless the two results are the same."""
    differentiate: bool = False
    """The result is a loss, and its gradients by the arguments that require one are part of the run."""
    reference_bytes: float = 0
    """Memory that the reference needs at least. The baseline is left out where this exceeds half of the memory."""
    setting: Setting = field(default_factory=Setting)
    kind: str = ""
    """Name of the measured part if a benchmark has several; one line in a plot."""
    size: str = ""
    """How large it is, in the words of the operator; default: the setting."""
    quick: bool = True
    """Small enough for --quick."""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.kind, self.size or str(self.setting))))


class KnownPairs(list):
    """Frame pairs as Python numbers: the compiler would have to stop at reading them from a tensor."""

    def tolist(self) -> list[list[int]]:
        return list(self)


def side(case: Case, name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A run of "ours", "eager" or "compiled"."""
    function = case.ours if name == "ours" else case.reference
    if name == "compiled":
        function = torch.compile(function, dynamic=False)
        arguments = {key: KnownPairs(v.tolist()) if key == "pairs" else v for key, v in arguments.items()}
    inputs = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]

    def run() -> Any:
        if not case.differentiate:
            with torch.no_grad():
                return function(**arguments)
        loss = function(**arguments)
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    return run


def arguments_on(device: str, case: Case) -> dict[str, Any]:
    return {
        key: value.detach().to(device).requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
        for key, value in case.make().items()
    }


def variants(case: Case, passes: int) -> list[Case]:
    """A loss without and with its gradient, which takes `passes` times the bytes and operations of the loss."""
    return [
        replace(case, kind="forward"),
        replace(
            case,
            kind="forward + backward",
            bytes_moved=lambda made: passes * case.bytes_moved(made),
            operations=lambda made: passes * case.operations(made),
            differentiate=True,
        ),
    ]


def take_turns(
    runs: Sequence[Callable[[], Any]], rounds: int, longest_s: float = 60, device: str = "cpu"
) -> list[list[float]]:
    """Seconds of each function with cold caches, taking turns: `rounds` times, but from the third on only in time."""
    scratch = torch.zeros(16 << 20 if device == "cpu" else 64 << 20, device=device)
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    while len(times[0]) < rounds and (len(times[0]) < 3 or sum(map(sum, times)) < longest_s):
        for run, measured in zip(runs, times, strict=True):
            scratch.add_(1)
            measured.append(seconds(run, device))
    return times


def status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def peak_in_this_process(run: Callable[[], Any]) -> float:
    """MB by which the resident memory rises at most during a run, after one run to load what is loaded only once."""
    run()
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark starts again at the present size.
    before = status_kb("VmRSS")
    run()
    return max(0, status_kb("VmHWM") - before) / 1024


def peak_of(script: Path, case: Case, name: str, options: argparse.Namespace) -> float:
    """MB; on the CPU in a fresh process that returns what is freed: the first run leaves nothing for the second."""
    if options.device != "cpu":
        run = side(case, name, arguments_on(options.device, case))
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    environment = os.environ | RETURN_ALL
    command = [sys.executable, str(script), "--threads", str(options.threads), "--peak", case.name, name]
    command += ["--grid", *options.grid] * bool(options.grid)
    command += ["--replay", str(options.replay)] * bool(options.replay)
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def memory_at_hand(device: str) -> float:
    if device == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return torch.cuda.get_device_properties(0).total_memory


def measure(
    script: Path, case: Case, options: argparse.Namespace, copied_gb_per_s: float, multiplied_gflop_per_s: float
) -> Row:
    arguments = arguments_on(options.device, case)
    names = ["ours"]
    if case.reference_bytes < memory_at_hand(options.device) / 2:
        names += ["eager", "compiled"] if options.compiled else ["eager"]
    runs = [side(case, name, arguments) for name in names]
    result = runs[0]()
    for run in runs[1:]:
        case.agree(result, run())
    times = take_turns(runs, options.rounds, options.seconds, options.device)
    state = gpu_state() if options.device != "cpu" else {}
    timings = {}
    for name, measured in zip(names, times, strict=True):
        first, median, third = statistics.quantiles(measured, n=4)
        in_ms = [1e3 * value for value in (min(measured), median, first, third)]
        timings[name] = Timing(*in_ms, extra_mb=peak_of(script, case, name, options))
    best = timings["ours"].best_ms / 1e3
    gb_per_s, gflop_per_s = case.bytes_moved(arguments) / best / 1e9, case.operations(arguments) / best / 1e9
    return Row(
        case=case.name,
        kind=case.kind,
        setting=case.setting,
        ours=timings["ours"],
        eager=timings.get("eager"),
        compiled=timings.get("compiled"),
        gb_per_s=gb_per_s,
        share_of_copy_speed=gb_per_s / copied_gb_per_s,
        gflop_per_s=gflop_per_s,
        share_of_arithmetic=gflop_per_s / multiplied_gflop_per_s,
        gpu=state,
    )


def profile(cases: Sequence[Case], device: str, trace: Path) -> None:
    """Twenty runs of ours of every case: on CUDA in NVTX ranges for Nsight, on the CPU in one chrome trace."""
    runs = {case.name: side(case, "ours", arguments_on(device, case)) for case in cases}
    for run in runs.values():
        run()
    if device != "cpu":
        for name, run in runs.items():
            for _ in range(20):
                with torch.cuda.nvtx.range(name):
                    run()
        torch.cuda.synchronize()
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for name, run in runs.items():
            for _ in range(20):
                with torch.profiler.record_function(name):
                    run()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
    profiler.export_chrome_trace(str(trace))
    print(f"for chrome://tracing or ui.perfetto.dev: {trace}")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with one sentence where the command line asks for what this machine cannot do."""
    if options.threads < 1 or options.rounds < 2:
        parser.error(f"{options.threads} threads, {options.rounds} rounds; expected 1 thread and 2 rounds or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no GPU; `mfvis doctor` shows what there is")
    if options.device == "cuda" and mfvis_ext.build_info()["cuda"] is None:
        parser.error("--device cuda: mfvis_ext was built without CUDA; build it again with MFVIS_CUDA=1")


def kept_batch(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    """Batch in the file of --replay. Exits with one sentence if the file is not a batch that a training kept."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        parser.error(f"--replay {file} cannot be read ({str(error).splitlines()[0]}); name a batch.pt of failed/")
    if not isinstance(content, dict) or "frames_BTCHW" not in content:
        parser.error(f"--replay {file} is not a batch; name the batch.pt that a stopped training kept below failed/")
    return content


def main(
    script: str,
    cases_of: Callable[[Setting], Sequence[Case]],
    axes: Sequence[str] = (),
    replay: Callable[[dict[str, Any]], Sequence[Case]] | None = None,
) -> None:
    """The command line of a benchmark: measures, prints the table; --out writes it, and JSON, CSV and plots.

    axes: those of GRID that matter to the operator. replay: the cases of a batch that a training kept (`batch.pt`).
    """
    path = Path(script).resolve()
    parser = argparse.ArgumentParser(description=f"{path.stem}: our operator against plain PyTorch.")
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--compiled", action="store_true", help="against the reference under torch.compile, too")
    add("--grid", nargs="+", choices=(*axes, "all"), default=[], help="the settings along these axes, and plots")
    add("--only", default="", help="the cases that have this in their name")
    add("--quick", action="store_true", help="the small cases only, five rounds")
    add("--rounds", type=int, default=25, help="runs of each side (default: 25)")
    add("--seconds", type=float, default=60, help="no new round of a case after that long, from the third on")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    add_out(parser)
    add("--profile", type=Path, metavar="TRACE", help="measure nothing: NVTX ranges on CUDA, on the CPU a chrome trace")
    if replay:
        add("--replay", type=Path, metavar="FILE", help="on a batch that a training kept (failed/.../batch.pt)")
    add("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    parser.set_defaults(replay=None)
    options = parser.parse_args()
    check_options(parser, options)
    if options.profile and options.device == "cpu" and not options.profile.resolve().parent.is_dir():
        parser.error(f"--profile {options.profile}: there is no folder {options.profile.resolve().parent}")
    torch.set_num_threads(options.threads)

    grid = axes if "all" in options.grid else options.grid
    settings = list(dict.fromkeys([Setting(), *(setting for axis in grid for setting in GRID[axis])]))
    if options.replay:
        cases = list(replay(kept_batch(parser, options.replay)))
    else:
        cases = [case for setting in settings for case in cases_of(setting)]
    names = [case.name for case in cases]
    cases = [case for case in cases if options.only in case.name and (case.quick or not options.quick)]
    if not cases:
        parser.error(
            f"no case is left of --only {options.only!r}{' --quick' * options.quick}:\n  " + "\n  ".join(names)
        )
    if options.peak:
        name, of_side = options.peak
        case = next(case for case in cases if case.name == name)
        print(peak_in_this_process(side(case, of_side, arguments_on("cpu", case))))
        return
    if options.profile:
        profile(cases, options.device, options.profile)
        return

    options.rounds = 5 if options.quick else options.rounds
    where = machine(options.threads) | (gpu_state() if options.device != "cpu" else {})
    copied, multiplied = copy_speed(options.device), arithmetic_rate(options.device)
    where |= {"copy_gb_per_s": round(copied, 1), "matrix_product_gflop_per_s": round(multiplied, 1)}
    stem = path.stem + ("_replay" if options.replay else "")
    rows, wrong = [], []
    for case in cases:
        try:
            rows.append(measure(path, case, options, copied, multiplied))
        except AssertionError as error:  # Said at the end: the other cases are measured none the less.
            wrong.append(f"{case.name}: {error}")
            continue
        print(f"{case.name}: {rows[-1].ours.best_ms:.2f} ms", file=sys.stderr, flush=True)
        if options.out:
            write_results(options.out, stem, where, rows, {axis: GRID[axis] for axis in grid})
    print(as_markdown(stem, where, rows))
    if wrong:
        sys.exit("\n".join(["ours and plain PyTorch differ, so there is no time of:", *wrong]))
