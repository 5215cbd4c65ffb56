"""Effect of TK-Loss on the small box-prompted network of the demo, on synthetic videos.

    mfvis data demo DATA --videos 400 --val-videos 200 --width 128 --min-objects 1 --max-objects 3
    python benchmarks/bench_given_boxes.py DATA

The network, its training and the settings of its losses are those of the demo's preset; the rows differ in the weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine
from mfvis.data.ytvis import load_dataset
from mfvis.demo.box_prompted import segment_boxes, train_box_prompted
from mfvis.demo.config import BoxPromptedConfig, DemoConfig
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.parsing import build, load_preset
from mfvis.types import VideoDataset
from report import add_out, write

# Weights of the pairwise and the temporal term, in addition to the projection term; None: trained on the true masks.
SUPERVISION = {
    "projection": (0, 0),
    "projection + TK": (0, 2),
    "projection + pairwise": (1, 0),
    "projection + pairwise + TK (the demo)": (1, 2),
    "masks": None,
}


def weighted(config: BoxPromptedConfig, pairwise: float, temporal: float) -> BoxPromptedConfig:
    """The configuration with these weights."""
    loss = replace(
        config.loss,
        pairwise=replace(config.loss.pairwise, weight=pairwise),
        temporal=replace(config.loss.temporal, weight=temporal),
    )
    return replace(config, loss=loss)


def measured(train: VideoDataset, val: VideoDataset, demo: DemoConfig, config: BoxPromptedConfig, masks: bool) -> MeanJ:
    """J on the validation videos after a training with this configuration."""
    reader = train_box_prompted(train, demo.clip, config, masks)
    return mean_j(val, [result for video in val.videos for result in segment_boxes(reader, val, video, demo.clip)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_out(arguments)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    train, val = (load_dataset(given.data / f"{split}.json") for split in ("train", "val"))
    demo = build(DemoConfig, load_preset("demo"), "the demo's preset")
    lines = [f"| trained from | J, mean of {given.seeds} seeds | each seed | seconds a run |", "|---|---|---|---|"]
    for name, weights in SUPERVISION.items():
        config = weighted(demo.box_prompted, *weights) if weights else demo.box_prompted
        began = time.perf_counter()
        runs = [measured(train, val, demo, replace(config, seed=n), weights is None) for n in range(given.seeds)]
        seconds = (time.perf_counter() - began) / given.seeds
        each = " ".join(f"{run.j:.3f}" for run in runs)
        lines.append(f"| {name} | {sum(run.j for run in runs) / len(runs):.3f} | {each} | {seconds:.0f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    lines.insert(2, f"| a filled box | {runs[0].filled_box_j:.3f} | | |")
    steps = demo.box_prompted.optim.steps
    head = f"{steps} steps, {len(val.videos)} unseen videos, {runs[0].object_frames} object-frames."
    settings = "\n".join(f"* {key}: {value}" for key, value in machine(given.threads).items())
    title = "# TK-Loss in a box-prompted network"
    text = f"{title}\n\n{head}\n\n" + "\n".join(lines) + f"\n\n{settings}\n"
    print(text)
    if given.out:
        write(given.out / "given_boxes.md", text)


if __name__ == "__main__":
    main()
