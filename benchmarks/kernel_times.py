"""`python benchmarks/kernel_times.py [--out FILE]`: how long every CUDA kernel of an operator takes, on an NVIDIA GPU.

At the sizes of `results/gpu_predictions.md`: the whole operator as a CUDA graph, where no launch is waited for, with
its prediction and the ratio of both; and kernel by kernel under torch's profiler. The caches are cold. With --once
every case runs once, for a profiler.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_box_projection_loss
import bench_mask_loss
import bench_mask_to_boxes
import bench_ms_deform_attn
import bench_pairwise_loss
import bench_patch_distance
import bench_temporal_topk
import bench_tk_loss
import torch
from harness import Case, arguments_on, side
from inputs import Setting
from machine import gpu_state, machine, seconds
from report import write
from torch.profiler import ProfilerActivity, profile

RUNS = 10
PREDICTED = {
    "tk_loss: matching + loss forward + backward": 298,
    "temporal_topk: T 5, 120x216": 45,
    "temporal_topk: T 5, 360x640": 267,
    "box_projection_loss: forward, T 5, 360x640, N 10,": 25,
    "box_projection_loss: forward + backward, T 5, 360x640, N 10,": 40,
    "box_projection_loss: forward, T 5, 360x640, N 100": 145,
    "box_projection_loss: forward + backward, T 5, 360x640, N 100": 264,
    "mask_to_boxes: ": 32,
    "pairwise_loss: forward, T": 102,
    "pairwise_loss: forward + backward": 244,
    "mask_loss: forward + backward": 485,
    "patch_distance: forward, T": 42,
    "patch_distance: forward + backward": 192,
    "ms_deform_attn: forward, 5": 130,
    "ms_deform_attn: forward + backward, 5": 382,
    "ms_deform_attn: softmax, forward, 5": 135,
    "ms_deform_attn: softmax, forward + backward, 5": 402,
}
"""Microseconds on an H200 (`results/gpu_predictions.md`), by the beginning of "operator: case"."""
LARGE = Setting(height=360, width=640)
ALL_LAYERS = Setting(instances=200)


def cases() -> dict[str, list[Case]]:
    """The measured cases by operator."""
    return {
        "tk_loss": bench_tk_loss.cases_of(bench_tk_loss.GOAL),
        "temporal_topk": [*bench_temporal_topk.cases_of(Setting())[:1], *bench_temporal_topk.cases_of(LARGE)],
        "box_projection_loss": [
            *bench_box_projection_loss.cases_of(LARGE),
            *bench_box_projection_loss.cases_of(replace(LARGE, instances=100)),
        ],
        "mask_to_boxes": bench_mask_to_boxes.cases_of(ALL_LAYERS),
        "pairwise_loss": bench_pairwise_loss.cases_of(ALL_LAYERS),
        "mask_loss": bench_mask_loss.cases_of(ALL_LAYERS)[:1],
        "patch_distance": bench_patch_distance.cases_of(Setting()),
        "ms_deform_attn": bench_ms_deform_attn.cases_of(Setting())[:4],
    }


def kernels_of(run: Callable[[], Any], scratch: torch.Tensor) -> dict[str, list[float]]:
    """The microseconds of each kernel's launches in each run, by its name."""
    run()
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(RUNS):
        scratch.add_(1)  # clears the caches
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        for event in profiler.key_averages():
            if event.self_device_time_total > 0:
                times[event.key].append(event.self_device_time_total)
    return times


def graph_time(run: Callable[[], Any], scratch: torch.Tensor) -> float:
    """The median microseconds of a replay."""
    warmup = torch.cuda.Stream()
    warmup.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warmup):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(warmup)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    times = []
    for _ in range(RUNS):
        scratch.add_(1)
        times.append(seconds(graph.replay, "cuda"))
    del kept
    return 1e6 * statistics.median(times)


def prediction(case: str, measured: float) -> str:
    for beginning, microseconds in PREDICTED.items():
        if case.startswith(beginning):
            return f", predicted {microseconds} µs, ratio {measured / microseconds:.2f}"
    return ", no prediction"


def short(name: str) -> str:
    """The name of a kernel without arguments and namespaces."""
    name = name.replace("mfvis::", "").replace("(anonymous namespace)::", "").removeprefix("void ")
    return name.split("(")[0][:70].replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables here")
    parser.add_argument("--once", action="store_true", help="run every case once and measure nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU; `mfvis doctor` shows what there is")
    scratch = torch.zeros(64 << 20, device="cuda")
    lines = ["# Times of the CUDA kernels", ""]
    lines += [f"* {name}: {value}" for name, value in (machine(torch.get_num_threads()) | gpu_state()).items()]
    for op, case in [(op, case) for op, of_op in cases().items() for case in of_op]:
        run = side(case, "ours", arguments_on("cuda", case))
        if options.once:
            run()
            continue
        lines += ["", f"## {op}: {case.name}", ""]
        try:
            measured = graph_time(run, scratch)
            lines += [f"As a CUDA graph {measured:.1f} µs{prediction(f'{op}: {case.name}', measured)}.", ""]
        except RuntimeError as error:
            torch.cuda.synchronize()
            lines += [f"No CUDA graph: {str(error).splitlines()[0]}", ""]
        times = kernels_of(run, scratch)
        lines += ["| kernel | µs, median | least |", "|---|--:|--:|"]
        for name, measured in sorted(times.items(), key=lambda item: -statistics.median(item[1])):
            lines.append(f"| `{short(name)}` | {statistics.median(measured):.1f} | {min(measured):.1f} |")
        lines.append(f"| all | {sum(map(statistics.median, times.values())):.1f} | |")
        print("\n".join(lines[-len(times) - 7 :]), flush=True)
        if options.out:  # after each case, in case the run is cut off
            write(options.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
