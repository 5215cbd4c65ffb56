"""Tiny data sets in the folder layouts of the published ones, made from the synthetic videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mfvis.data.config import SyntheticConfig
from mfvis.data.datasets import DATASETS
from mfvis.data.rle import decode_mask
from mfvis.data.synthetic import write_demo

# Where each data set has, per split, its annotations and its frames.
PLACES = {
    "ytvis2019": ("{split}.json", "{split}/JPEGImages"),
    "ytvis2021": ("{split}/instances.json", "{split}/JPEGImages"),
    "ytvis2022": ("{split}/instances.json", "{split}/JPEGImages"),
    "ovis": ("annotations_{split}.json", "{split}"),
}


def publish(name: str, root: Path, videos: int = 2) -> Path | str:
    """Write the splits train and valid of a data set below `root` as they are published: without the annotations of
    valid, where an evaluation server keeps them. Returns what valid is to be measured against, as `--data` takes it."""
    size = {"frames": 3, "height": 32, "width": 48}
    small = SyntheticConfig(seed=3, videos=videos, val_videos=1, min_objects=1, max_objects=2, **size)
    train, valid = write_demo(root / "made", small)
    contents = {"train": _with_classes(name, train), "valid": _with_classes(name, valid)}
    if name == "coco":
        return _publish_coco(root, contents)
    if name == "bdd100k-mots":
        return _publish_bdd100k(root, contents)
    annotations, frames = PLACES[name]
    for split, content in contents.items():
        (root / frames.format(split=split)).mkdir(parents=True)
        for video in content["videos"]:
            for file in video["file_names"]:
                _copy(root / "made" / "JPEGImages" / file, root / frames.format(split=split) / file)
        path = root / annotations.format(split=split)
        if split == "valid":
            (path.parent / "answers.json").write_text(json.dumps(content))
            # Absent in YouTube-VIS, null in OVIS.
            content = content | {"annotations": None} if name == "ovis" else _without(content, "annotations")
        path.write_text(json.dumps(content))
    return (root / annotations.format(split="valid")).parent / "answers.json"


def _with_classes(name: str, made: Path) -> dict[str, Any]:
    """The content of a synthetic JSON in the classes of the data set `name`: its first ones, in their order."""
    content = json.loads(made.read_text())
    classes = DATASETS[name].categories
    numbers = {category["id"]: classes[place].id for place, category in enumerate(content["categories"])}
    content["categories"] = [{"id": category.id, "name": category.name} for category in classes]
    for annotation in content["annotations"]:
        annotation |= {"category_id": numbers[annotation["category_id"]], "iscrowd": 0}
        if name == "ovis":
            annotation["occlusion"] = ["slight_occlusion" if box else None for box in annotation["bboxes"]]
    return content


def _publish_coco(root: Path, contents: dict[str, Any]) -> str:
    """Every frame an image; masks as listed runs, polygons and compressed runs in turns."""
    (root / "annotations").mkdir()
    for split, content in contents.items():
        folder = {"train": "train2017", "valid": "val2017"}[split]
        images, annotations = [], []
        for video in content["videos"]:
            for t, file in enumerate(video["file_names"]):
                number = 100 * video["id"] + t
                name = f"{number:012}.jpg"
                _copy(root / "made" / "JPEGImages" / file, root / folder / name)
                images.append({"id": number, "file_name": name, "width": video["width"], "height": video["height"]})
                for track in content["annotations"]:
                    if track["video_id"] == video["id"] and track["bboxes"][t]:
                        common = {"id": len(annotations) + 1, "image_id": number, "category_id": track["category_id"]}
                        mask = _coco_mask(track["segmentations"][t], track["bboxes"][t], len(annotations))
                        annotations.append(
                            common | {"bbox": track["bboxes"][t], "segmentation": mask, "area": 1.0, "iscrowd": 0}
                        )
        value = {"images": images, "annotations": annotations, "categories": content["categories"]}
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(value))
    return f"coco:{root}"


def _coco_mask(rle: dict[str, Any], box: list[float], turn: int) -> Any:
    if turn % 3 == 0:
        return rle
    if turn % 3 == 1:
        x, y, w, h = box
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    pixels = decode_mask(rle, *rle["size"]).T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=False, append=pixels[-1:]))
    runs = np.diff([0, *edges, len(pixels)]).tolist()
    return {"size": rle["size"], "counts": runs}


def _publish_bdd100k(root: Path, contents: dict[str, Any]) -> str:
    """Scalabel JSON with boxes and run-length encodings, one file a video."""
    for split, content in contents.items():
        folder = {"train": "train", "valid": "val"}[split]
        names = {category["id"]: category["name"] for category in content["categories"]}
        for video in content["videos"]:
            frames = []
            for t, file in enumerate(video["file_names"]):
                name = f"{video['name']}-{t + 1:07}.jpg"
                _copy(root / "made/JPEGImages" / file, root / "images/seg_track_20" / folder / video["name"] / name)
                labels = []
                for track in content["annotations"]:
                    if track["video_id"] == video["id"] and track["bboxes"][t]:
                        x, y, w, h = track["bboxes"][t]
                        box = {"x1": x, "y1": y, "x2": x + w - 1, "y2": y + h - 1}
                        label = {"id": str(track["id"]), "category": names[track["category_id"]]}
                        labels.append(label | {"box2d": box, "rle": track["segmentations"][t]})
                size = {"width": video["width"], "height": video["height"]}
                frames.append(
                    {"name": name, "videoName": video["name"], "frameIndex": t, "size": size, "labels": labels}
                )
            path = root / "labels/seg_track_20/rles" / folder / f"{video['name']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"frames": frames}))
    return f"bdd100k-mots:{root}"


def _without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
