"""Scalabel labels and BDD100K's published folders, small, for the tests of their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mfvis.data.bdd100k import FOLDERS
from mfvis.data.bitmask import CROWD, IGNORED, write_bitmask
from mfvis.data.rle import encode_mask
from PIL import Image

HEIGHT, WIDTH = 12, 16


def label(**fields: Any) -> dict[str, Any]:
    return {"id": "7", "category": "car", "box2d": {"x1": 10, "y1": 20.5, "x2": 30, "y2": 40}} | fields


def frames(*labels: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"name": "a-0000001.jpg", "videoName": "a", "frameIndex": 0, "labels": list(labels)} | fields]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def publish(root: Path, *, boxes: bool = True, masks: bool = True) -> None:
    """Two videos of two frames in the published folders: labels as RLE, polygons, bitmasks and boxes alike."""
    blank = np.zeros((HEIGHT, WIDTH), np.int32)
    for video, length in (("b-2", 2), ("a-1", 1)):
        frames = []
        for t in range(length):
            name = f"{video}-{t + 1:07d}"
            labels, category_HW, attributes_HW, id_HW = [], blank.copy(), blank.copy(), blank.copy()
            # id, name, bitmask class and attributes, x1 y1 x2 y2
            objects = [("11", "motor", 7, 0, (1 + t, 2, 5 + t, 6)), ("12", "trailer", 4, IGNORED, (8, 8, 16, 12))]
            objects += [("13", "person", 1, CROWD, (9, 0, 12, 3))] if t == 0 else []
            for number, category, place, bits, (x1, y1, x2, y2) in objects:
                mask_HW = np.zeros((HEIGHT, WIDTH), bool)
                mask_HW[y1:y2, x1:x2] = True
                entry = {"id": number, "category": category, "attributes": {"crowd": bits == CROWD}}
                entry |= {"box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}} if boxes else {}
                entry |= {"rle": encode_mask(mask_HW)} if masks else {}
                labels.append(entry)
                id_HW[mask_HW], category_HW[mask_HW], attributes_HW[mask_HW] = int(number), place, bits
            frames.append({"name": f"{name}.jpg", "videoName": video, "frameIndex": t, "labels": labels})
            write_bitmask(
                root / FOLDERS["bitmasks"] / "train" / video / f"{name}.png", category_HW, attributes_HW, id_HW
            )
            image = root / "images" / "seg_track_20" / "train" / video / f"{name}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(image)
        file = root / FOLDERS["rles"] / "train" / f"{video}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, {"frames": frames, "config": {"imageSize": {"width": WIDTH, "height": HEIGHT}}})
