"""AP of files against the reference program of YouTube-VIS, in the copy that mmdet 3.3.0 on PyPI contains."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mfvis.eval.config import EvalConfig
from mfvis.eval.run import run
from pycocotools import mask as coco_mask
from pytest import approx

SIDE = 24
LEVELS = ("no_occlusion", "slight_occlusion", "severe_occlusion")


def module(name: str) -> ModuleType:
    """A file of mmdet by itself: the package would want mmcv."""
    try:
        files = importlib.metadata.files("mmdet") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs mmdet")
    (path,) = (file.locate() for file in files if str(file).endswith(f"evaluation/functional/{name}.py"))
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def reference(annotations: Path, results: Path, monkeypatch) -> list[float]:
    monkeypatch.setattr(np, "float", float, raising=False)  # as before numpy 1.20
    with contextlib.redirect_stdout(io.StringIO()):
        true = module("ytvis").YTVIS(str(annotations))
        evaluator = module("ytviseval").YTVISeval(true, true.loadRes(str(results)))
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def ours(annotations: Path, results: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return list(run(EvalConfig(results, str(annotations))).as_dict().values())


def encoded(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def listed(mask: np.ndarray) -> dict:
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": [SIDE, SIDE], "counts": np.diff([0, *edges, mask.size]).tolist()}


def tube(rng: np.random.Generator, length: int, jitter: np.ndarray | None = None) -> np.ndarray:
    """int ``[T, 4]``: a box that moves, corner and size on a coarse grid; or `jitter` moved a little."""
    start = np.array([*rng.integers(0, 5, 2) * 4, *rng.choice([4, 6, 8], 2)])
    boxes = start + np.arange(length)[:, None] * [1, 1, 0, 0] if jitter is None else jitter.copy()
    if jitter is not None:
        boxes[:, rng.integers(0, 4)] += rng.choice([0, 0, 1, 2])
    return boxes


def painted(boxes: np.ndarray) -> list[np.ndarray]:
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (x, y, w, h) in zip(masks, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    return list(masks)


def random_files(folder: Path, seed: int) -> tuple[Path, Path]:
    """Crowds, an id of 0, equal scores, null masks, empty masks, listed runs, polygons and areas that disagree."""
    rng = np.random.default_rng(seed)
    videos, annotations, results = [], [], []
    first = int(rng.random() < 0.8)
    for video in rng.permutation(np.arange(3, 7)).tolist():
        length = int(rng.integers(1, 4))
        names = [f"{video}/{t}.jpg" for t in range(length)]
        videos.append({"id": video, "width": SIDE, "height": SIDE, "length": length, "file_names": names})
        for _ in range(rng.integers(0, 5)):
            boxes, category = tube(rng, length), int(rng.integers(1, 4))
            masks = painted(boxes)
            there = rng.random(length) < 0.8
            segmentations = [
                (listed if rng.random() < 0.3 else encoded)(mask) if here else None
                for mask, here in zip(masks, there, strict=True)
            ]
            if rng.random() < 0.2:
                x, y, w, h = (float(side) for side in boxes[0])
                segmentations[0] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            areas = [float(rng.choice([mask.sum(), 128**2, 20000, 256**2])) for mask in masks]
            annotations.append(
                {
                    "id": len(annotations) + first,
                    "video_id": video,
                    "category_id": category,
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentations": segmentations,
                    "areas": [area if here else None for area, here in zip(areas, there, strict=True)],
                    "bboxes": [[0, 0, 4, 4]] * length,
                    "occlusion": [str(rng.choice(LEVELS)) for _ in range(length)],
                }
            )
            for _ in range(rng.integers(0, 4)):
                found = painted(tube(rng, length, boxes))
                score, label = float(rng.choice([0.2, 0.5, 0.9])), category if rng.random() < 0.9 else 2
                masks = [encoded(mask) if rng.random() < 0.9 else None for mask in found]
                results.append({"video_id": video, "category_id": label, "score": score, "segmentations": masks})
    if not results:
        return random_files(folder, seed + 1000)
    content = {
        "videos": videos,
        "categories": [{"id": number, "name": f"class{number}"} for number in (3, 1, 2, 4)],
        "annotations": annotations,
    }
    paths = folder / "annotations.json", folder / "results.json"
    for path, value in zip(paths, (content, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


def without_occlusion(annotations: Path, path: Path, low: float = 0, high: float = 1) -> Path:
    """The annotations without occlusion, those outside a range of it with an area that is in no range either."""
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        scores = sorted([(0, 0.25, 0.75)[LEVELS.index(level)] for level in annotation.pop("occlusion")])
        worst = scores[len(scores) // 2 :]
        if not low <= sum(worst) / len(worst) <= high:
            annotation["areas"] = [2e10] * len(annotation["areas"])
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_reference_program(seed, tmp_path, monkeypatch):
    annotations, results = random_files(tmp_path, seed)
    plain = without_occlusion(annotations, tmp_path / "plain.json")
    expected = reference(plain, results, monkeypatch)
    assert ours(plain, results) == approx(expected, abs=1e-12)
    # OVIS: the same twelve, and AP and AR of each range of occlusion are those of annotations that others ignore.
    ovis = ours(annotations, results)
    assert ovis[:6] + ovis[9:15] == approx(expected, abs=1e-12)
    for place, (low, high) in enumerate([(0, 0.25), (0.25, 0.5), (0.5, 1)]):
        within = without_occlusion(annotations, tmp_path / "within.json", low, high)
        stats = reference(within, results, monkeypatch)
        assert [ovis[6 + place], ovis[15 + place]] == approx([stats[0], stats[8]], abs=1e-12)


def test_the_cases_are_not_trivial(tmp_path):
    values = set()
    for seed in range(10):
        annotations, results = random_files(tmp_path, seed)
        values |= {round(value, 6) for value in ours(annotations, results)}
    assert len(values) > 40
