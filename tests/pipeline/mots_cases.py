"""Small cases of segmentation tracking in BDD100K's two forms, by hand and at random, for the tests of its metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mfvis.eval.mots import MotsMetrics
from PIL import Image
from pycocotools import mask as coco_mask

NAMES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
HEIGHT, WIDTH = 24, 32


@dataclass(frozen=True)
class Thing:
    """One object in one frame: its id, class 1 to 8, mask bool ``[H, W]``; ignored ones are regions."""

    id: int
    label: int
    mask: np.ndarray
    ignored: bool = False
    name: str | None = None
    """Another name of its class, or one that makes it a region."""


Frame = tuple[list[Thing], list[Thing]]
"""Annotated, predicted."""
Numbers = dict[tuple[str, str], float]
"""Metric by (row, name); a row is a class or a group."""


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return mask


A, B = rectangle(0, 0, 8, 8), rectangle(16, 8, 24, 16)
"""Two objects far from each other."""


def one_video(*frames: Frame) -> dict[str, list[Frame]]:
    return {"video": list(frames)}


def random_case(seed: int, disjoint: bool = True) -> dict[str, list[Frame]]:
    """Videos by name. `disjoint`: annotated masks do not overlap either, as bitmasks want it."""
    rng = np.random.default_rng(seed)
    case = {}
    for number in range(int(rng.integers(1, 4))):
        labels = rng.choice([1, 3, 3, 4, 8], int(rng.integers(0, 5)))
        corners = rng.integers(0, 14, (len(labels), 2)) * 2
        sizes = rng.choice([4, 6, 8, 10], (len(labels), 2))
        # Bitmask ids beyond 255, and one whose alpha is 0.
        ids = [256 * (n + 1) if n % 2 else n + 1 for n in range(len(labels))]
        found = {int(one): int(rng.integers(1, 600)) for one in ids}
        frames = []
        for _ in range(int(rng.integers(1, 7))):
            true: list[Thing] = []
            predicted: list[Thing] = []
            taken, occupied = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
            for n, (label, (x, y), (w, h)) in enumerate(zip(labels, corners, sizes, strict=True)):
                if rng.random() < 0.2:
                    continue
                mask = rectangle(x, y, x + w, y + h)
                mask &= ~taken if disjoint else True
                taken |= mask
                ignored = bool(rng.random() < 0.15)
                if mask.any():
                    true.append(Thing(ids[n], int(label), mask, ignored))
                if rng.random() < 0.15:
                    found[ids[n]] = int(rng.integers(1, 600))
                shift = int(rng.choice([0, 0, 1, 2, w // 3]))
                guess = rectangle(x + shift, y, x + shift + w, y + h) & ~occupied
                known = int(label) if rng.random() < 0.9 else int(rng.choice([1, 3]))
                if guess.any() and rng.random() < 0.85 and found[ids[n]] not in {one.id for one in predicted}:
                    occupied |= guess
                    predicted.append(Thing(found[ids[n]], known, guess, bool(rng.random() < 0.05)))
            for _ in range(int(rng.integers(0, 3))):
                x, y = rng.integers(0, 14, 2) * 2
                guess, new = rectangle(x, y, x + 5, y + 4) & ~occupied, int(rng.integers(600, 900))
                if guess.any() and new not in {one.id for one in predicted}:
                    occupied |= guess
                    predicted.append(Thing(new, int(rng.choice([1, 3, 7])), guess))
            frames.append((true, predicted))
            corners = np.clip(corners + rng.integers(-1, 2, corners.shape), 0, 26)
        case[f"video{number}"] = frames
    return case


def encoded(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def scalabel_frames(case: dict[str, list[Frame]], side: int) -> list[dict]:
    """The frames of one side, 0 annotated or 1 predicted, as Scalabel has them."""
    return [
        {
            "name": f"{video}-{t + 1:07d}.jpg",
            "videoName": video,
            "frameIndex": t,
            "labels": [
                {
                    "id": str(one.id),
                    "category": one.name or NAMES[one.label - 1],
                    "attributes": {"crowd": False, "ignored": one.ignored, "occluded": False, "truncated": False},
                    "rle": encoded(one.mask),
                }
                for one in frame[side]
            ],
        }
        for video, frames in case.items()
        for t, frame in enumerate(frames)
    ]


def write_scalabel(folder: Path, case: dict[str, list[Frame]]) -> tuple[Path, Path]:
    """``(annotated.json, predicted.json)``."""
    paths = folder / "annotated.json", folder / "predicted.json"
    for side, path in enumerate(paths):
        path.write_text(json.dumps(scalabel_frames(case, side)))
    return paths


def write_bitmasks(folder: Path, case: dict[str, list[Frame]]) -> tuple[Path, Path]:
    """``(annotated, predicted)``: folders with a folder of PNGs per video."""
    roots = folder / "annotated", folder / "predicted"
    for side, root in enumerate(roots):
        for video, frames in case.items():
            (root / video).mkdir(parents=True, exist_ok=True)
            for t, frame in enumerate(frames):
                rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
                for one in frame[side]:
                    rgba[one.mask] = (one.label, int(one.ignored), one.id >> 8, one.id & 255)
                Image.fromarray(rgba, "RGBA").save(root / video / f"{video}-{t + 1:07d}.png")
    return roots


def flat(metrics: MotsMetrics) -> Numbers:
    return {(key, name): value for name, row in metrics.clear.items() for key, value in vars(row).items()}
