"""`python benchmarks/bench_long_video.py CHECKPOINT`: memory, time, coverage and identity switches on long videos.

Draws a synthetic video of 1,000 frames, writes it as a 1280x720 film, and predicts it in windows and as a whole, each
in a process of its own; the peak is what the resident memory grows by after the model was loaded. Half and a quarter of
the length show what grows with it. What the tracks are worth is measured on some small films of the same lengths: the
share of true objects' frames that a track covers with an IoU of 0.5 or more, and the identity switches, which are
counted as in CLEAR: frames in which an object is covered by another track than before, and by that one no more.
CHECKPOINT is a run of `mfvis demo` or of `mfvis train --preset demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import RETURN_ALL, status_kb
from machine import machine
from mfvis.data.rle import decode_mask
from mfvis.data.synthetic import draw_video
from mfvis.data.video import open_video, video_writer
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import predict_video
from mfvis.train.checkpoint import load_model
from mfvis.types import TrackResult
from report import add_out, write

DRAWN = (90, 160)
"""Height and width of the small films, about what the demo's model knows; the large one is eight times as large."""
FILM = (720, 1280)
FIRST_SEED = 3


def make_film(path: Path, frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Writes the film; returns its true masks as drawn, bool ``[N, T, H, W]``.

    Sixty frames are played to and fro, so that objects that drift away come back.
    """
    images_THW3, masks_NTHW, _ = draw_video(np.random.default_rng(seed), 60, DRAWN, (3, 3))
    played = 59 - np.abs(np.arange(frames) % 118 - 59)
    images_THW3, masks_NTHW = images_THW3[played], masks_NTHW[:, played]
    with video_writer(path, 25, size) as write:
        for image_HW3 in images_THW3:
            image = torch.from_numpy(image_HW3).permute(2, 0, 1)[None].float()
            enlarged = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)
            write(enlarged[0].round().byte().permute(1, 2, 0).numpy())
    return masks_NTHW


def coverage(results: list[TrackResult], masks_NTHW: np.ndarray, score: float) -> tuple[float, int]:
    """The share of true masks that some track of at least this score covers, and identity switches of these tracks."""
    kept = [result for result in results if result.score >= score]
    changed, covered, present = 0, 0, 0
    last: dict[int, int] = {}
    for t in range(masks_NTHW.shape[1]):
        found = [decode_mask(result.segmentations[t], *DRAWN) for result in kept]
        for n, mask_HW in enumerate(masks_NTHW[:, t]):
            if mask_HW.sum() < 20:
                continue
            present += 1
            ious = [(mask_HW & own).sum() / max((mask_HW | own).sum(), 1) for own in found]
            if max(ious, default=0) < 0.5:
                continue
            covered += 1
            if n not in last or ious[last[n]] < 0.5:
                changed += n in last
                last[n] = int(np.argmax(ious))
    return covered / max(present, 1), changed


def predict_here(checkpoint: Path, film: Path, frames: int, window: int | None, out: Path) -> None:
    """One prediction in this process; its time and its peak go to `out`."""
    torch.set_grad_enabled(False)
    model, categories, config = load_model(checkpoint, torch.device("cpu"))
    infer = InferConfig(short_side=min(config.clip.short_sides), window=window)
    video = replace(open_video(film), length=frames)
    predict_video(model, replace(video, length=8), categories, replace(infer, window=None))  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kb("VmRSS")
    begin = time.perf_counter()
    predict_video(model, video, categories, infer)
    seconds = time.perf_counter() - begin
    out.write_text(json.dumps({"seconds": seconds, "peak_mb": (status_kb("VmHWM") - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--films", type=int, default=4, help="small films for coverage and identity switches")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--score", type=float, default=0.3, help="tracks below this are not looked at")
    add_out(parser)
    parser.add_argument("--predict", nargs=4, metavar=("FILM", "FRAMES", "WINDOW", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.predict:
        film, frames, window, out = options.predict
        predict_here(options.checkpoint, Path(film), int(frames), int(window) or None, Path(out))
        return

    lengths = (options.frames // 4, options.frames // 2, options.frames)
    rows = {(window, frames): {} for window in (options.window, 0) for frames in lengths}
    with tempfile.TemporaryDirectory() as directory:
        small = [Path(directory) / f"{number}.mp4" for number in range(options.films)]
        truth = [make_film(path, options.frames, DRAWN, FIRST_SEED + number) for number, path in enumerate(small)]
        film = Path(directory) / "film.mp4"
        make_film(film, options.frames, FILM, FIRST_SEED)
        model, categories, config = load_model(options.checkpoint, torch.device("cpu"))
        for (window, frames), row in rows.items():
            out = Path(directory) / "said.json"
            command = [sys.executable, __file__, str(options.checkpoint), "--predict"]
            subprocess.run(
                [*command, str(film), str(frames), str(window), str(out)], env=os.environ | RETURN_ALL, check=True
            )
            row |= json.loads(out.read_text())
            infer = InferConfig(short_side=min(config.clip.short_sides), window=window or None)
            found = []
            for path, masks_NTHW in zip(small, truth, strict=True):
                results = predict_video(model, replace(open_video(path), length=frames), categories, infer)
                found.append(coverage(results, masks_NTHW[:, :frames], options.score))
            row["covered"] = [covered for covered, _ in found]
            row["switches"] = [changed for _, changed in found]
            print(window, frames, row, file=sys.stderr, flush=True)
    lines = [
        "# Long videos",
        "",
        *(f"* {name}: {value}" for name, value in machine(torch.get_num_threads()).items()),
        f"* film for memory and time: {FILM[1]}x{FILM[0]}; frames go through the model with a short side of 96",
        f"* films for the tracks: {options.films} of {DRAWN[1]}x{DRAWN[0]}; their mean, and each of them",
        "",
        "| frames at once | frames | memory, MB | seconds | true masks covered (IoU 0.5) | identity switches |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for (window, frames), row in rows.items():
        covered = f"{np.mean(row['covered']):.0%} ({', '.join(f'{share:.0%}' for share in row['covered'])})"
        switches = f"{np.mean(row['switches']):.1f} ({', '.join(map(str, row['switches']))})"
        cells = (window or "all", frames, f"{row['peak_mb']:.0f}", f"{row['seconds']:.0f}", covered, switches)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    print("\n".join(lines))
    if options.out:
        write(options.out / "bench_long_video.md", "\n".join(lines) + "\n")
        said = [{"window": window, "frames": frames, **row} for (window, frames), row in rows.items()]
        write(options.out / "bench_long_video.json", json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
