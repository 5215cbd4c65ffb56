"""Draws the figures of docs/label-mode.md from a generated video: ``python benchmarks/label_figures.py [FOLDER]``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mfvis
import numpy as np
from mfvis.data.rle import mask_box
from mfvis.data.synthetic import draw_video
from mfvis.data.video import video_in_memory
from mfvis.grid import STRIDE
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.model_factory import initial_models
from mfvis.labeling.video import prepare_window
from mfvis.labeling.window_inputs import add_propagated_background
from mfvis.parsing import build, load_preset
from mfvis.types import Track
from mfvis.vis.draw import color_of, enlarge, overlay, sheet
from PIL import Image
from torch import from_numpy

SETTINGS = load_preset("demo-label") | {"num_models": 1}
OFF: dict[str, dict[str, Any]] = {
    "pairwise": {"loss": {"pairwise": {"weight": 0.0}}},
    "propagation": {"propagation": {"weight": 0.0}},
    "refine": {"refine": {"steps": 0}},
}
STAGES = {
    "box losses": ("pairwise", "propagation", "refine"),
    "+ pairwise": ("propagation", "refine"),
    "+ propagated": ("refine",),
    "+ refinement": (),
}
"""Panels, and what is turned off in them. The position prior is always on."""
ZOOM = 3
SHOWN = (2, 8, 14)
"""Frames of the figure of propagated background."""


def main(folder: Path) -> None:
    """Write the three figures."""
    (folder / "label-windows.svg").write_text(_windows())
    frames, truth, _ = draw_video(np.random.default_rng([5, 0, 0]), 16, (96, 160), (2, 2), shared_colors=False)
    boxes = np.array([[mask_box(mask) for mask in track] for track in truth], np.float32)
    Image.fromarray(_propagated(frames, boxes)).save(folder / "label-background.jpg", quality=85)
    Image.fromarray(_stages(frames, boxes, truth)).save(folder / "label-losses.jpg", quality=85)


def _windows() -> str:
    """A video of 100 frames with three tracks, and the windows that are labeled one after the other, as SVG."""
    tracks, left, scale = ((0, 100), (12, 66), (55, 100)), 70, 6
    parts = ["<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 690 190' font-family='sans-serif' font-size='13'>"]
    parts.append("<rect width='690' height='190' fill='#fafaf9'/>")
    for first in range(0, 100, 40):
        last = min(first + 40, 100)
        x, width = left + scale * first, scale * (last - first)
        present = sum(start < last and end > first for start, end in tracks)
        parts.append(f"<rect x='{x + 2}' y='10' width='{width - 4}' height='170' fill='#fff' stroke='#6b6864' rx='6'/>")
        lines = (f"frames {first} to {last - 1}", f"3 models, {present} readouts each")
        for y, line in zip((30, 168), lines if width > 150 else (lines[0], "3 models"), strict=True):
            parts.append(f"<text x='{x + width / 2}' y='{y}' text-anchor='middle' fill='#1c1b1a'>{line}</text>")
    for n, (start, end) in enumerate(tracks):
        red, green, blue = color_of(n)
        x, y, width = left + scale * start, 46 + 36 * n, scale * (end - start)
        parts.append(f"<text x='8' y='{y + 18}' fill='#1c1b1a'>track {n + 1}</text>")
        fill = f"rgb({red},{green},{blue})"
        parts.append(f"<rect x='{x}' y='{y}' width='{width}' height='26' fill='{fill}' fill-opacity='0.8' rx='4'/>")
    return "\n".join([*parts, "</svg>", ""])


def _propagated(frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Frames with their boxes and the background that was found in them."""
    config = build(LabelConfig, SETTINGS | {"data": "frames"}, "the figures")
    video = replace(video_in_memory(frames), tracks=tuple(Track(n, 1, track) for n, track in enumerate(boxes)))
    times, height = range(len(frames)), frames.shape[1]
    tensor = from_numpy(frames).permute(0, 3, 1, 2)
    inputs = prepare_window(initial_models(config), config, video, times, range(len(boxes)), tensor)
    inputs = add_propagated_background(inputs, config.propagation)
    factor = ZOOM * STRIDE * height // inputs.size[0]
    known = enlarge(inputs.propagated_NTHW.numpy(), factor, smooth=False)
    panels = []
    for t in SHOWN:
        image = enlarge(frames[t], ZOOM, smooth=True)
        known_NHW = known[:, t, : image.shape[0], : image.shape[1]]
        panels.append(overlay(image, known_NHW, ZOOM * boxes[:, t], None, (0, 1)))
    return sheet([_row(panels)], [f"frame {t}" for t in SHOWN])


def _stages(frames: np.ndarray, boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The middle frame with masks of label mode, with more and more of its parts."""
    t, panels, captions = len(frames) // 2, [], []
    for name, off in STAGES.items():
        changes = {key: value for part in off for key, value in OFF[part].items()}
        masks, _ = mfvis.label(frames, boxes, **(SETTINGS | changes))
        j = ((masks & truth).sum((2, 3)) / (masks | truth).sum((2, 3))).mean()
        print(f"{name}: J {j:.3f}", flush=True)
        large = enlarge(frames[t], ZOOM, smooth=True)
        panels.append(overlay(large, enlarge(masks[:, t], ZOOM, smooth=False), None, None, (0, 1)))
        captions.append(f"{name}: J {j:.2f}")
    return sheet([_row(panels)], captions)


def _row(panels: list[np.ndarray]) -> np.ndarray:
    gap = np.full((panels[0].shape[0], 6, 3), 250, np.uint8)
    return np.concatenate([piece for panel in panels for piece in (gap, panel)][1:], axis=1)


if __name__ == "__main__":
    main(Path(*sys.argv[1:]) if len(sys.argv) > 1 else Path("docs"))
