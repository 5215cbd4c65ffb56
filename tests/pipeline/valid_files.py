"""A small valid file of each format that the package reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from independent_parsers import HEIGHT, WIDTH
from mfvis.data.bitmask import write_bitmask
from mfvis.data.rle import encode_mask

Json = Any


def box_mask(x: int, y: int) -> Json:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[y : y + 12, x : x + 17] = True
    return encode_mask(mask_HW)


def mot() -> bytes:
    rows = [f"{t},{n},{10 * n + t},{5 * n}.5,20,15,1,{1 + 2 * (n == 2)},0.8" for n in (1, 2, 3) for t in range(n, 6)]
    return "\n".join([*rows, "2,9,1,1,5,5,0,8,1"]).encode()


def kitti() -> bytes:
    rows = [
        f"{t} {n} {'Car' if n else 'Van'} 0 1 -1.57 {5 * t}.25 {3 * n} {40 + n} 50 1.5 1.6 4 1 2 20 0.1"
        for n in (0, 1)
        for t in range(5)
    ]
    return "\n".join([*rows, "1 -1 DontCare -1 -1 -10 1 2 9 8 -1 -1 -1 -1000 -1000 -1000 -10"]).encode()


def csv_table() -> bytes:
    rows = [
        f"{n},{t},{10 * n + t},{5 * n}.5,20,15,{'car' if n < 2 else 'dog'},0.5" for n in (1, 2, 3) for t in range(5)
    ]
    return "\n".join(["id,frame,x,y,w,h,class,score", *rows]).encode()


def coco_video() -> bytes:
    images = [{"id": 9 - t, "video_id": 2, "file_name": f"clip/{t + 1:06d}.jpg", "frame_id": t} for t in (3, 0, 1, 2)]
    annotations = [
        {"id": 10 * n + t, "image_id": 9 - t, "track_id": n, "category_id": 3 + n % 2, "iscrowd": 0}
        | {"bbox": [4 * n + t, 5.5, 20, 30]}
        for n in (1, 2)
        for t in range(4)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    root = {"videos": [{"id": 2, "name": "clip"}], "images": images, "annotations": annotations}
    return json.dumps(root | {"categories": categories}, indent=1).encode()


def cvat() -> bytes:
    def box(t: int, x: float, key: int, outside: int) -> str:
        corners = f'xtl="{x:.2f}" ytl="3.00" xbr="{x + 20:.2f}" ybr="33.00"'
        return f'<box frame="{t}" outside="{outside}" occluded="0" keyframe="{key}" {corners} z_order="0">\n</box>'

    first = [box(0, 5, 1, 0), box(1, 7.5, 0, 0), box(2, 10, 1, 0), box(4, 30, 1, 1)]
    second = [box(1, 50, 1, 0), box(2, 50, 1, 1), box(4, 20, 1, 0)]
    size = "<original_size>\n<width>80</width>\n<height>60</height>\n</original_size>"
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    lines += ["<meta>", "<task>", "<size>6</size>", size, "</task>", "</meta>"]
    lines += ['<track id="0" label="car" source="manual">', *first, "</track>"]
    lines += ['<track id="1" label="dog" source="manual">', *second, "</track>", "</annotations>"]
    return "\n".join(lines).encode()


def label_studio() -> bytes:
    def region(label: str, *keys: tuple[int, float, bool]) -> Json:
        sequence = [
            {"frame": t, "enabled": on, "rotation": 0, "x": x, "y": 20, "width": 30, "height": 40.5, "time": t / 25}
            for t, x, on in keys
        ]
        value = {"framesCount": 6, "duration": 0.24, "sequence": sequence, "labels": [label]}
        return {"value": value, "id": label, "from_name": "box", "to_name": "video", "type": "videorectangle"}

    results = [region("Man", (1, 10, True), (4, 40, False)), region("Dog", (2, 0, True), (3, 5, False), (5, 9.5, True))]
    task = {
        "id": 3,
        "data": {"video": "/data/clip.mp4"},
        "annotations": [{"id": 1, "was_cancelled": False, "result": results}],
    }
    return json.dumps([task], indent=1).encode()


def scalabel() -> bytes:
    def label(name: str, category: str, **fields: Json) -> Json:
        return {"id": name, "category": category, "attributes": {"crowd": False, "occluded": True}} | fields

    frames = []
    for t in range(3):
        labels = [
            label("1", "car", box2d={"x1": 5.5 + t, "y1": 4, "x2": 25.5, "y2": 40}),
            label("2", "rider", rle=box_mask(3 + t, 9)),
        ]
        labels += [label("3", "van", attributes={"ignored": True}, box2d={"x1": 1, "y1": 1, "x2": 9, "y2": 9})] * (
            t == 1
        )
        frames.append({"name": f"{t + 1:06d}.jpg", "videoName": "clip", "frameIndex": t, "labels": labels})
    return json.dumps(
        {"frames": frames, "config": {"imageSize": {"width": WIDTH, "height": HEIGHT}}}, indent=1
    ).encode()


def mots() -> bytes:
    frames = json.loads(scalabel())["frames"]
    for t, frame in enumerate(frames):
        frame["labels"] = [label | {"rle": box_mask(5 + 20 * int(label["id"]), 4 + t)} for label in frame["labels"]]
    return json.dumps(frames, indent=1).encode()


def ytvis() -> bytes:
    shape = {"width": WIDTH, "height": HEIGHT, "length": 3}
    videos = [{"id": n, "file_names": [f"{n}/{t}.jpg" for t in range(3)], "fps": 5} | shape for n in (4, 7)]
    annotations = [
        {
            "id": 10 * n,
            "video_id": n,
            "category_id": 2,
            "iscrowd": int(n == 7),
            "bboxes": [[n, 5.5, 20, 30], None, [0, 0, 80, 60]],
        }
        | {
            "segmentations": [box_mask(n, 5), None, {"size": [HEIGHT, WIDTH], "counts": [0, 4800]}],
            "areas": [204, None, 4800],
        }
        for n in (4, 7)
    ]
    categories = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]
    return json.dumps({"videos": videos, "annotations": annotations, "categories": categories}, indent=1).encode()


def results() -> bytes:
    shapes = [box_mask(3, 5), None, box_mask(40, 33)]
    results = [{"video_id": n, "category_id": 2, "score": 0.5 + n / 100, "segmentations": shapes} for n in (4, 7, 7)]
    return json.dumps(results, indent=1).encode()


def coco() -> bytes:
    images = [{"id": n, "width": WIDTH, "height": HEIGHT, "file_name": f"{n}.jpg"} for n in (1, 2)]
    annotations = [
        {
            "id": n,
            "image_id": 1 + n % 2,
            "category_id": 3,
            "iscrowd": 0,
            "bbox": [n, 4.5, 20, 30],
            "segmentation": box_mask(n, 5),
        }
        for n in (8, 9, 10)
    ]
    return json.dumps(
        {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}, indent=1
    ).encode()


def bitmask(folder: Path) -> bytes:
    id_HW = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, x in ((1, 3), (256, 30), (700, 55)):
        id_HW[5:40, x : x + 20] = number
    write_bitmask(folder / "valid.png", (id_HW > 0) * 3, (id_HW == 700) * 2, id_HW)
    return (folder / "valid.png").read_bytes()
