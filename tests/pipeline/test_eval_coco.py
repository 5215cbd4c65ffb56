"""AP of images against pycocotools' own evaluation."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from mfvis.errors import DataError
from mfvis.eval.config import EvalConfig
from mfvis.eval.run import run
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pytest import approx

SIDE = 160
CATEGORIES = {1: "person", 3: "car", 18: "dog"}
SIZES = (8, 20, 32, 33, 64, 96, 120)
"""Sides of the objects: of all three sizes, and on both limits."""


def encoded(box: np.ndarray) -> dict:
    x, y, w, h = box.tolist()
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = coco_mask.encode(mask)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def random_files(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """Annotations with crowds and polygons, and the same results as COCO and as YouTube-VIS have them."""
    rng = np.random.default_rng(seed)
    images = [{"id": n, "width": SIDE, "height": SIDE, "file_name": f"{n}.jpg"} for n in rng.permutation(6).tolist()]
    annotations, of_images, videos = [], [], []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            box = np.array([*rng.integers(0, 40, 2), *rng.choice(SIZES, 2)])
            x, y, w, h = box.tolist()
            crowd, category = int(rng.random() < 0.25), int(rng.choice(list(CATEGORIES)))
            polygon = not crowd and rng.random() < 0.5
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": float(w * h) + polygon * rng.choice([0.0, 0.5]),
                    "iscrowd": crowd,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]] if polygon else encoded(box),
                }
            )
            for _ in range(rng.integers(0, 4)):
                found = box.copy()
                if crowd and rng.random() < 0.7:
                    found[2:] = np.maximum(found[2:] // 2, 1)  # mostly inside: by IoU it would be a false alarm
                found[rng.integers(0, 4)] += rng.choice([0, 1, 3, 6])
                fields = {"category_id": category, "score": float(rng.choice([0.2, 0.5, 0.7, 0.9]))}
                of_images.append({"image_id": image["id"], "segmentation": encoded(found)} | fields)
                videos.append({"video_id": image["id"], "segmentations": [encoded(found)]} | fields)
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    content = {"images": images, "categories": categories, "annotations": annotations}
    paths = tuple(folder / name for name in ("instances.json", "images.json", "videos.json"))
    for path, value in zip(paths, (content, of_images, videos), strict=True):
        path.write_text(json.dumps(value))
    return paths


def reference(annotations: Path, images: Path) -> list[float]:
    true = COCO(str(annotations))
    evaluator = COCOeval(true, true.loadRes(str(images)), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools(seed: int, tmp_path: Path) -> None:
    annotations, images, videos = random_files(tmp_path, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = reference(annotations, images)
        numbers, same = (run(EvalConfig(results, f"coco:{annotations}")).as_dict() for results in (images, videos))
    assert list(numbers.values()) == approx(expected, abs=1e-12)
    assert same == numbers
    assert 0 < numbers["AP"] < 1


def test_a_bbox_next_to_the_mask_changes_nothing(tmp_path: Path) -> None:
    """pycocotools would sort by the area of the bbox, and its users delete it before: so do detectron2 and mmdet."""
    annotations, images, _ = random_files(tmp_path, 3)
    expected = run(EvalConfig(images, f"coco:{annotations}"))
    entries = [entry | {"bbox": [0, 0, 5, 5]} for entry in json.loads(images.read_text())]
    images.write_text(json.dumps(entries))
    assert run(EvalConfig(images, f"coco:{annotations}")) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "image 77 is unknown. Correct image_id, or give the data set that was predicted on"),
        ({"image_id": "three"}, "image_id is 'three', expected an integer"),
        ({"score": None}, "score is None, expected a number"),
        ({"segmentation": None}, "has no segmentations. Write the mask"),
        ({"segmentation": None, "bbox": [1, 2, 3, 4]}, "has no segmentations, but boxes. Write the mask"),
        ({"segmentation": [[0, 0, 5, 0]]}, "no polygon has three or more points"),
        ({"segmentation": {"size": [5, 5], "counts": "0"}}, r"the mask's size is \[5, 5\]"),
    ],
)
def test_malformed_results(change: dict, message: str, tmp_path: Path) -> None:
    annotations, images, _ = random_files(tmp_path, 3)
    entries = json.loads(images.read_text())
    images.write_text(json.dumps([*entries[:-1], entries[-1] | change]))
    with pytest.raises(DataError, match=message) as caught:
        run(EvalConfig(images, f"coco:{annotations}"))
    assert [problem.record.split(",")[0] for problem in caught.value.problems] == [f"results[{len(entries) - 1}]"]
