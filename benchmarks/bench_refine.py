"""Time of label mode's refinement of a mask in a 1080p frame, and what smoothing at a fraction of the size changes.

python benchmarks/bench_refine.py
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from machine import machine
from mfvis.labeling import refine as module
from mfvis.labeling.config import RefineConfig
from report import add_out, write
from torch import Tensor

import mfvis_ext

HEIGHT, WIDTH, FRAMES = 1080, 1920, 2
BOXES = ((200, 200), (400, 400), (600, 800), (1000, 1000))
"""Widths and heights in pixels."""


def inputs(width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, LAB frames and boxes of an ellipse of its own color on smooth noise."""
    random = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(FRAMES, 3, 34, 60, generator=random), (HEIGHT, WIDTH), mode="bicubic")
    frames = (smooth.clamp(0, 1) * 150).to(torch.uint8)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    object_HW = ((x - WIDTH / 2) / (width / 2)) ** 2 + ((y - HEIGHT / 2) / (height / 2)) ** 2 < 1
    frames[:, 0][object_HW.expand(FRAMES, HEIGHT, WIDTH)] += 70
    frames += torch.randint(0, 12, frames.shape, generator=random, dtype=torch.uint8)
    coarse = F.interpolate(object_HW[None, None].float(), (68, 120), mode="area") * 8 - 4
    coarse = coarse + torch.randn(coarse.shape, generator=random)
    logits = F.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0].expand(FRAMES, HEIGHT, WIDTH).contiguous()
    box = torch.tensor([WIDTH - width, HEIGHT - height, WIDTH + width, HEIGHT + height]) / 2
    return logits, mfvis_ext.rgb_to_lab(frames), box.expand(FRAMES, 4)


def timed(arguments: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, float]:
    """The masks, and the CPU seconds for each of them, best of three."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        masks = module.refine(*arguments, RefineConfig())
        seconds.append((time.process_time() - began) / FRAMES)
    return masks, min(seconds)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_out(arguments)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    pixels = module.PIXELS
    lines = ["| box | at full size, s | s | IoU of the two |", "|---|---|---|---|"]
    for width, height in BOXES:
        case = inputs(width, height)
        module.PIXELS = HEIGHT * WIDTH
        full, full_seconds = timed(case)
        module.PIXELS = pixels
        masks, seconds = timed(case)
        iou = ((masks & full).sum() / (masks | full).sum()).item()
        lines.append(f"| {width} x {height} | {full_seconds:.2f} | {seconds:.2f} | {iou:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out:
        facts = "\n".join(f"* {key}: {value}" for key, value in machine(1).items())
        write(given.out / "bench_refine.md", f"# Refinement of a mask in a 1080p frame\n\n{text}\n{facts}\n")


if __name__ == "__main__":
    main()
