"""`mfvis eval` against the field's own programs: do the numbers agree, and how long does each take, loading included.

    python benchmarks/bench_eval.py [--out FOLDER]

The references are run where they are installed: YouTube-VIS' evaluator in the copy that mmdet 3.3.0 contains (two of
its files, without the package), and BDD100K's toolkit (bdd100k 1.0.1, scalabel 0.3.1, motmetrics 1.4.0, pydantic 1).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine
from mfvis.data.bdd100k import CATEGORIES
from mfvis.data.bitmask import write_bitmask
from mfvis.eval.config import EvalConfig
from mfvis.eval.run import run
from pycocotools import mask as coco_mask
from report import add_out, write

HEIGHT, WIDTH, FRAMES = 720, 1280, 30
Numbers = dict[str, float]


def blob(x: float, y: float, rx: float, ry: float, phase: float) -> np.ndarray:
    """A lobed shape, uint8 ``[H, W]`` in Fortran order."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    left, right = max(0, int(x - 1.2 * rx)), min(WIDTH, int(x + 1.2 * rx) + 1)
    top, bottom = max(0, int(y - 1.2 * ry)), min(HEIGHT, int(y + 1.2 * ry) + 1)
    v, u = np.mgrid[top : max(top, bottom), left : max(left, right)]
    u, v = (u - x) / rx, (v - y) / ry
    mask[top : max(top, bottom), left : max(left, right)] = np.hypot(u, v) < 1 + 0.15 * np.sin(
        5 * np.arctan2(v, u) + phase
    )
    return mask


def encoded(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(mask)
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def tubes(rng: np.random.Generator, count: int) -> list[tuple[list[dict], list[dict]]]:
    """Pairs of a true tube and one that is a little off."""
    pairs = []
    for _ in range(count):
        x, y, rx, ry = rng.uniform((200, 150, 40, 30), (1080, 570, 260, 200))
        dx, dy = rng.normal(0, 3, 2)
        shift = rng.uniform(0, 0.3) * min(rx, ry)
        true = [encoded(blob(x + dx * t, y + dy * t, rx, ry, t / 10)) for t in range(FRAMES)]
        found = [encoded(blob(x + shift + dx * t, y + dy * t, rx, ry, t / 10)) for t in range(FRAMES)]
        pairs.append((true, found))
    return pairs


def write_tracks(
    folder: Path, videos: int, classes: int, pool: list[tuple[list[dict], list[dict]]]
) -> tuple[Path, Path]:
    """A YouTube-VIS file of 4 tracks a video, and results of 10: two near each track, two anywhere."""
    rng = np.random.default_rng(classes)
    annotations, results = [], []
    for video in range(1, videos + 1):
        chosen, labels = rng.choice(len(pool), 6, replace=False), rng.integers(1, classes + 1, 4)
        for n in range(4):
            true = pool[chosen[n]][0]
            areas = [int(area) if area else None for area in coco_mask.area(true)]
            boxes = [box.tolist() if area else None for box, area in zip(coco_mask.toBbox(true), areas, strict=True)]
            annotation = {"id": len(annotations) + 1, "video_id": video, "category_id": int(labels[n]), "iscrowd": 0}
            annotations.append(annotation | {"segmentations": true, "areas": areas, "bboxes": boxes})
        for n in range(10):
            masks = pool[chosen[n % 4]][n // 4] if n < 8 else pool[chosen[n - 4]][0]
            label = int(labels[n % 4]) if n < 8 and rng.random() < 0.8 else int(rng.integers(1, classes + 1))
            result = {"video_id": video, "category_id": label, "score": float(rng.random())}
            results.append(result | {"segmentations": masks[1:] + masks[:1]})
    sizes = {"width": WIDTH, "height": HEIGHT, "length": FRAMES}
    content = {
        "videos": [
            {"id": n, **sizes, "file_names": [f"{n}/{t}.jpg" for t in range(FRAMES)]} for n in range(1, videos + 1)
        ],
        "categories": [{"id": n, "name": f"class{n}"} for n in range(1, classes + 1)],
        "annotations": annotations,
    }
    paths = folder / f"annotations{classes}.json", folder / f"results{classes}.json"
    for path, value in zip(paths, (content, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


def write_mots(folder: Path, frames: int, objects: int) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """One video of segmentation tracking: annotated and predicted JSON, annotated and predicted folder of bitmasks."""
    rng = np.random.default_rng(0)
    starts = rng.uniform((60, 60, 15, 12), (1220, 660, 110, 80), (objects, 4))
    labeled: list[list[dict]] = [[], []]
    for t in range(frames):
        for side, name in enumerate(("annotated", "predicted")):
            id_HW = np.zeros((HEIGHT, WIDTH), np.int32)
            for n, (x, y, rx, ry) in enumerate(starts):
                if (n + t) % 9:
                    id_HW[(blob(x + t + 3 * side, y, rx, ry, t / 10) > 0) & (id_HW == 0)] = n + 1
            label_HW = np.where(id_HW > 0, id_HW % 8 + 1, 0)
            ignored_HW = np.where(id_HW > 0.9 * objects, 1 - side, 0)
            write_bitmask(folder / name / "video" / f"video-{t + 1:07d}.png", label_HW, ignored_HW, id_HW)
            labels = [
                {
                    "id": str(n),
                    "category": CATEGORIES[n % 8].name,
                    "attributes": {"ignored": side == 0 and n > 0.9 * objects, "crowd": False},
                    "rle": encoded(np.asfortranarray(id_HW == n, np.uint8)),
                }
                for n in np.unique(id_HW[id_HW > 0]).tolist()
            ]
            frame = {"name": f"video-{t + 1:07d}.jpg", "videoName": "video", "frameIndex": t, "labels": labels}
            labeled[side].append(frame)
    files = folder / "annotated.json", folder / "predicted.json"
    for path, frames_ in zip(files, labeled, strict=True):
        path.write_text(json.dumps(frames_))
    return files, (folder / "annotated", folder / "predicted")


def ours(annotated: Path, predicted: Path) -> Numbers:
    return run(EvalConfig(predicted, str(annotated))).as_dict()


def reference_tracks() -> Callable[[Path, Path], Numbers] | None:
    try:
        files = importlib.metadata.files("mmdet") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    np.float = float  # as before numpy 1.20

    def load(name: str) -> object:
        path = next(file.locate() for file in files if str(file).endswith(f"evaluation/functional/{name}.py"))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    api, evaluation = load("ytvis"), load("ytviseval")

    def evaluate(annotated: Path, predicted: Path) -> Numbers:
        true = api.YTVIS(str(annotated))
        evaluator = evaluation.YTVISeval(true, true.loadRes(str(predicted)))
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
        return dict(zip(names, map(float, evaluator.stats), strict=True))

    return evaluate


def reference_mots() -> Callable[[Path, Path], Numbers] | None:
    try:
        from bdd100k.common.utils import group_and_sort_files, list_files, load_bdd100k_config
        from bdd100k.eval.mots import evaluate_seg_track as evaluate_bitmasks
        from bdd100k.label.to_scalabel import bdd100k_to_scalabel
        from scalabel.eval.mots import acc_single_video_mots, evaluate_seg_track
        from scalabel.label.io import group_and_sort, load
    except ImportError:
        return None
    logging.disable(logging.CRITICAL)

    def evaluate(annotated: Path, predicted: Path) -> Numbers:
        config = load_bdd100k_config("seg_track")
        if annotated.is_dir():
            sides = [
                group_and_sort_files(list_files(str(side), ".png", with_prefix=True)) for side in (annotated, predicted)
            ]
            result = evaluate_bitmasks(*sides, config.scalabel, nproc=1)
        else:
            loaded = (load(str(side)).frames for side in (annotated, predicted))
            sides = [group_and_sort(bdd100k_to_scalabel(frames, config)) for frames in loaded]
            result = evaluate_seg_track(acc_single_video_mots, *sides, config.scalabel, nproc=1)
        overall = result.IDSw[-1]["OVERALL"]
        return {"mMOTSA": result.mMOTA, "mMOTSP": result.mMOTP, "mIDF1": result.mIDF1, "IDSw": overall}

    return evaluate


def timed(measure: Callable[[Path, Path], Numbers], paths: tuple[Path, Path]) -> tuple[float, float, Numbers]:
    """Seconds on the wall, seconds of the processor, and the numbers."""
    wall, processor = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        numbers = measure(*paths)
    return time.perf_counter() - wall, time.process_time() - processor, numbers


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--videos", type=int, default=300)
    arguments.add_argument("--mots-frames", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=3)
    add_out(arguments)
    given = arguments.parse_args()
    where = machine(threads=1)
    rows = ["| | ours: s | of the processor | reference: s | of the processor | largest difference |", "|---" * 6 + "|"]
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        pool = tubes(np.random.default_rng(0), 60)
        mots = write_mots(Path(folder), given.mots_frames, 15)
        cases = [
            (
                f"AP, {given.videos} videos, 40 classes",
                write_tracks(Path(folder), given.videos, 40, pool),
                reference_tracks(),
            ),
            (
                f"AP, {given.videos} videos, 1 class",
                write_tracks(Path(folder), given.videos, 1, pool),
                reference_tracks(),
            ),
            (f"MOTS, {given.mots_frames} RLE frames", mots[0], reference_mots()),
            (f"MOTS, {given.mots_frames} bitmask frames", mots[1], reference_mots()),
        ]
        for name, paths, reference in cases:
            measures = [ours] + ([reference] if reference else [])
            times: list[list[tuple[float, float, Numbers]]] = [[] for _ in measures]
            for _ in range(given.rounds):
                for measure, taken in zip(measures, times, strict=True):
                    taken.append(timed(measure, paths))
            best = [[min(one[place] for one in taken) for place in (0, 1)] for taken in times]
            cells = [f"{seconds:.2f}" for pair in best for seconds in pair] + ["-", "-"] * (2 - len(best))
            numbers = [taken[0][2] for taken in times]
            differences = [abs(numbers[0][key] - numbers[-1][key]) for key in numbers[0]]
            agree = f"{max(differences):.1e}" if reference else "-"
            if reference and not max(differences) < 1e-9:
                raise AssertionError(f"{name}: {numbers}")
            rows.append(f"| {name} | {' | '.join(cells)} | {agree} |")
            print(rows[-1], file=sys.stderr, flush=True)
            shown = [[f"{one[key]:.12g}" for key in numbers[0]] for one in numbers if math.isfinite(sum(one.values()))]
            tables += [f"\n{name}:\n", f"| | {' | '.join(numbers[0])} |", "|---" * (1 + len(numbers[0])) + "|"]
            tables += [
                f"| {side} | {' | '.join(row)} |" for side, row in zip(("ours", "reference"), shown, strict=False)
            ]
    facts = "\n".join(f"* {key}: {value}" for key, value in where.items())
    size = f"{FRAMES} frames of {WIDTH} x {HEIGHT}"
    head = (
        "# `mfvis eval` and the field's own programs\n\n"
        f"Loading included, one core, best of {given.rounds} rounds in turns. AP: videos of {size}, 4 tracks and 10\n"
        "predictions each, against youtubevos/cocoapi (the copy in mmdet 3.3.0). MOTS: 15 objects in a frame, against\n"
        "bdd100k 1.0.1 with one process.\n"
    )
    text = "\n".join([head, *rows, *tables, "", facts, ""])
    print(text)
    if given.out:
        write(given.out / "bench_eval.md", text)


if __name__ == "__main__":
    main()
