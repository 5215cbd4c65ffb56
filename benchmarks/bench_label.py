"""`mfvis label` on real clips whose masks are withheld: mean J, and what each loss brings to it.

    python benchmarks/bench_label.py DATA.json --weights mobilenet_v2_imagenet.safetensors

DATA.json is a YouTube-VIS file with masks. Each rung of the ladder labels a copy of it that holds boxes alone, then the
masks are compared with the true ones. The last rung is the preset that ships. Rungs but the last are one try each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import machine
from mfvis.data.jsonfile import read_json
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import mean_j
from mfvis.label.config import LabelConfig
from mfvis.label.run import run
from mfvis.parsing import parse
from mfvis.types import TrackResult
from report import add_out, write

OFF = {
    "pairwise": ["--loss.pairwise.weight", "0"],
    "background": ["--loss.background", "0"],
    "propagation": ["--propagation.weight", "0"],
    "refine": ["--refine.steps", "0"],
}
ALONE = ["--shared-steps", "0"]
ONE_TRY = ["--num-models", "1", *ALONE]
TK = ["--loss.temporal.weight", "0.2", "--loss.temporal.warmup", "20", *ONE_TRY]
RUNGS = {
    "projection": (["pairwise", "background", "propagation", "refine"], ONE_TRY),
    "+ pairwise": (["background", "propagation", "refine"], ONE_TRY),
    "+ TK": (["background", "propagation", "refine"], TK),
    "+ background outside the boxes": (["propagation", "refine"], TK),
    "+ background that escaped": (["refine"], TK),
    "+ colors and edges at full size": ([], TK),
    "as above, without TK": ([], ONE_TRY),
    "three tries": ([], ALONE),
    "the preset: three tries, and what the videos share": ([], []),
}


def without_masks(source: Path, target: Path) -> None:
    """A copy of the data set with boxes alone."""
    data = json.loads(source.read_text())
    for annotation in data["annotations"]:
        annotation.pop("segmentations", None)
        annotation.pop("areas", None)
    target.write_text(json.dumps(data))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--frames", type=Path, help="default: JPEGImages beside the data")
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--only", help="the rungs that have this in their name")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_out(arguments)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    frames = given.frames or given.data.parent / "JPEGImages"
    truth = load_dataset(given.data, frames)
    names = [video.name for video in truth.videos]
    lines = [f"| losses | mean J | seconds | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        boxes = Path(folder) / "boxes.json"
        without_masks(given.data, boxes)
        chosen = [(seed, *rung) for rung in RUNGS.items() if (given.only or "") in rung[0] for seed in given.seeds]
        for seed, name, (off, flags) in chosen:
            name = f"{name}, seed {seed}"
            flags = [str(boxes), "--frames", str(frames), "--backbone.weights", str(given.weights), *flags]
            flags += ["--seed", str(seed)]
            flags += ["--no-overlays", "--out", str(Path(folder) / name.replace(" ", "-"))]
            config = parse(LabelConfig, [*flags, *(flag for part in off for flag in OFF[part])], "bench", "label")
            began = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                completed = run(config)
            seconds = time.perf_counter() - began
            labeled = {
                annotation["id"]: annotation["segmentations"] for annotation in read_json(completed, [])["annotations"]
            }
            j = mean_j(
                truth,
                [
                    TrackResult(video.id, track.category_id, 1.0, tuple(labeled[track.id]), track.boxes_T4, track.id)
                    for video in truth.videos
                    for track in video.tracks
                ],
            )
            per_video = [[track.j for track in j.tracks if track.video == video] for video in names]
            cells = [" ".join(f"{value:.3f}" for value in values) for values in per_video]
            lines.append(f"| {name} | {j.j:.3f} | {seconds:.0f} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    facts = machine(given.threads)
    facts["command"] = " ".join(["python benchmarks/bench_label.py", given.data.name, "--weights", given.weights.name])
    settings = "\n".join(f"* {key}: {value}" for key, value in facts.items())
    head = f"# `mfvis label`: mean J over {j.object_frames} object-frames\n\nA filled box has {j.filled_box_j:.3f}.\n"
    text = f"{head}\n" + "\n".join(lines) + f"\n\n{settings}\n"
    print(text)
    if given.out:
        write(given.out / "label.md", text)


if __name__ == "__main__":
    main()
