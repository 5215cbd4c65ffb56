"""`python benchmarks/bench_long_video.py CHECKPOINT`: memory, time and identity switches on a long video.

Draws a synthetic video of 1,000 frames, writes it as a 1280x720 film, and predicts it in windows and as a whole, each
in a process of its own; the peak is what the resident memory grows by after the model was loaded. Half and a quarter of
the length show what grows with it. An identity switch is a frame in which a true object is covered (IoU of 0.5 or
more) by another track than the last time it was covered. CHECKPOINT is a run of `mfvis demo` or
of `mfvis train --preset demo`.
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
from machine import HERE, machine
from mfvis.data.rle import decode_mask
from mfvis.data.synthetic import draw_video
from mfvis.data.video import VideoWriter, open_video
from mfvis.infer.predictor import InferConfig, predict_video
from mfvis.train.checkpoint import load_model
from mfvis.types import TrackResult
from report import write

DRAWN = (90, 160)
"""Height and width, about what the demo's model knows; the film is eight times as large."""
FILM = (720, 1280)


def make_film(path: Path, frames: int) -> np.ndarray:
    """Writes the film; returns its true masks as drawn, bool ``[N, T, H, W]``.

    Sixty frames are played to and fro, so that objects that drift away come back.
    """
    pictures_THW3, masks_NTHW, _ = draw_video(np.random.default_rng(3), 60, DRAWN, (3, 3))
    played = 59 - np.abs(np.arange(frames) % 118 - 59)
    pictures_THW3, masks_NTHW = pictures_THW3[played], masks_NTHW[:, played]
    with VideoWriter(path, 25, FILM) as writer:
        for picture_HW3 in pictures_THW3:
            picture = torch.from_numpy(picture_HW3).permute(2, 0, 1)[None].float()
            enlarged = torch.nn.functional.interpolate(picture, FILM, mode="bilinear", align_corners=False)
            writer.write(enlarged[0].round().byte().permute(1, 2, 0).numpy())
    return masks_NTHW


def switches(results: list[TrackResult], masks_NTHW: np.ndarray, score: float) -> tuple[int, float]:
    """Identity switches of the tracks of at least this score, and the share of true masks that some track covers."""
    kept = [result for result in results if result.score >= score]
    changed, covered, present = 0, 0, 0
    last: dict[int, int] = {}
    rows = np.linspace(0, FILM[0] - 1, DRAWN[0]).round().astype(int)
    columns = np.linspace(0, FILM[1] - 1, DRAWN[1]).round().astype(int)
    for t in range(masks_NTHW.shape[1]):
        found = [decode_mask(result.segmentations[t], *FILM)[np.ix_(rows, columns)] for result in kept]
        for n, mask_HW in enumerate(masks_NTHW[:, t]):
            if mask_HW.sum() < 20:
                continue
            present += 1
            ious = [(mask_HW & own).sum() / max((mask_HW | own).sum(), 1) for own in found]
            best = int(np.argmax(ious)) if ious else -1
            if best < 0 or ious[best] < 0.5:
                continue
            covered += 1
            changed += last.get(n, best) != best
            last[n] = best
    return changed, covered / max(present, 1)


def predict_here(checkpoint: Path, film: Path, frames: int, window: int | None, out: Path) -> None:
    """One prediction in this process; its time, its peak and its tracks go to `out`."""
    torch.set_grad_enabled(False)
    model, categories, config = load_model(checkpoint, torch.device("cpu"))
    infer = InferConfig(short_side=min(config.clip.short_sides), window=window)
    video = replace(open_video(film), length=frames)
    predict_video(model, replace(video, length=8), categories, replace(infer, window=None))  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kb("VmRSS")
    begin = time.perf_counter()
    results = predict_video(model, video, categories, infer)
    seconds = time.perf_counter() - begin
    torch.save(
        {"seconds": seconds, "peak_mb": (status_kb("VmHWM") - before) / 1024, "results": [vars(r) for r in results]},
        out,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--score", type=float, default=0.3, help="tracks below this are not looked at")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--predict", nargs=4, metavar=("FILM", "FRAMES", "WINDOW", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        film, frames, window, out = options.predict
        predict_here(options.checkpoint, Path(film), int(frames), int(window) or None, Path(out))
        return

    rows = []
    with tempfile.TemporaryDirectory() as directory:
        film = Path(directory) / "film.mp4"
        masks_NTHW = make_film(film, options.frames)
        for window in (options.window, 0):
            for frames in (options.frames // 4, options.frames // 2, options.frames):
                out = Path(directory) / "tracks.pt"
                command = [sys.executable, __file__, str(options.checkpoint), "--predict"]
                subprocess.run(
                    [*command, str(film), str(frames), str(window), str(out)], env=os.environ | RETURN_ALL, check=True
                )
                said = torch.load(out, weights_only=False)  # written by this very program
                results = [TrackResult(**result) for result in said["results"]]
                changed, covered = switches(results, masks_NTHW[:, :frames], options.score)
                rows.append((window, frames, said["peak_mb"], said["seconds"], changed, covered))
                print(rows[-1], file=sys.stderr, flush=True)
    lines = [
        "# Long videos",
        "",
        *(f"* {name}: {value}" for name, value in machine(torch.get_num_threads()).items()),
        f"* film: {FILM[1]}x{FILM[0]}, {len(masks_NTHW)} objects; frames go through the model with a short side of 96",
        "",
        "| frames at once | frames | memory, MB | seconds | identity switches | true masks covered (IoU 0.5) |",
        "|---|--:|--:|--:|--:|--:|",
        *(f"| {w or 'all'} | {f} | {mb:.0f} | {s:.0f} | {n} | {c:.0%} |" for w, f, mb, s, n, c in rows),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "bench_long_video.md", "\n".join(lines) + "\n")
    keys = ("window", "frames", "peak_mb", "seconds", "switches", "covered")
    write(options.out / "bench_long_video.json", json.dumps([dict(zip(keys, r, strict=True)) for r in rows]) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
