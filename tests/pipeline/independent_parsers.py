"""Second parsers of every format: short, without checks, and sharing no code with the package."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT, LENGTH = 80, 60, 6
"""Size and number of the frames of all valid files."""

Json = Any
Box = tuple[float, float, float, float]


def clipped(box: Box, width: int = WIDTH, height: int = HEIGHT, least: float = 0.0) -> Box | None:
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (x1, y1, x2, y2) if x2 - x1 > least and y2 - y1 > least else None


Tracks = list[tuple[str, dict[int, Box]]]


def visible(tracks: Tracks) -> Tracks:
    """The tracks as an import keeps them: clipped, those never seen left out."""
    kept = [(name, {t: clipped(box, least=0.00999) for t, box in boxes.items()}) for name, boxes in tracks]
    kept = [(name, {t: box for t, box in boxes.items() if box}) for name, boxes in kept]
    return [(name, boxes) for name, boxes in kept if boxes]


def mot(content: bytes) -> Tracks:
    tracks: dict[int, Any] = {}
    rows = [row.rstrip(", ").replace(",", " , ").split(" , ") for row in content.decode("utf-8-sig").split("\n")]
    rows = [[word.strip() for word in row] for row in rows if any(row)]
    flags = all(len(row) > 6 and float(row[6]) in (0, 1) for row in rows)
    for row in rows:
        has_no_id = row[1] in ("", "nan") or float(row[1]) < 0
        if has_no_id or flags and float(row[6]) == 0 or 0 in map(float, row[4:6]):
            continue
        x, y, width, height = map(float, row[2:6])
        if len(row) < 8 or float(row[7]) == -1:
            continue  # without a class, where others have one
        name = {1: "pedestrian", 2: "person on vehicle", 3: "car", 7: "static person", 8: "distractor"}[float(row[7])]
        boxes = tracks.setdefault(int(float(row[1])), (name, {}))[1]
        assert float(row[0]) - 1 not in boxes
        boxes[int(float(row[0])) - 1] = (x - 1, y - 1, x - 1 + width, y - 1 + height)
    return visible(list(tracks.values()))


def kitti(content: bytes) -> Tracks:
    tracks: dict[str, Any] = {}
    for row in content.decode("utf-8-sig").split("\n"):
        words = row.split()
        if words and words[2] != "DontCare" and float(words[1]) >= 0:
            x1, y1, x2, y2 = map(float, words[6:10])
            if x1 == x2 or y1 == y2:
                continue
            boxes = tracks.setdefault(float(words[1]), (words[2], {}))[1]
            assert float(words[0]) not in boxes
            boxes[int(float(words[0]))] = tuple(map(float, words[6:10]))
    return visible(list(tracks.values()))


def csv_table(content: bytes) -> Tracks:
    tracks: dict[str, Any] = {}
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    first = 0 if any(float(row["frame"]) == 0 for row in rows) else 1
    for row in rows:
        row["id"] = row["id"].strip()
        if row["id"] in ("", "nan") or re.fullmatch(r"-\d.*", row["id"]) and float(row["id"]) < 0:
            continue
        x, y, width, height = (float(row[name]) for name in "xywh")
        if 0 in (width, height) or not (row["class"] or "").strip():
            continue
        names, boxes = tracks.setdefault(row["id"].removeprefix("-"), ([], {}))
        t = int(float(row["frame"])) - first
        assert t not in boxes
        names.append(row["class"].strip())
        boxes[t] = (x, y, x + width, y + height)
    return visible([(max(names, key=names.count), boxes) for names, boxes in tracks.values()])


def coco_video(content: bytes) -> Tracks:
    root = json.loads(content)
    names = {category["id"]: str(category["name"]) for category in root["categories"]}
    tracks: dict[Any, Any] = {}
    for video in root["videos"]:
        images = [image for image in root["images"] if image["video_id"] == video["id"]]
        if all("frame_id" in image for image in images):
            images.sort(key=lambda image: image["frame_id"])
        places = {image["id"]: place for place, image in enumerate(images)}
        for annotation in root["annotations"]:
            track = annotation.get("track_id")
            without = track in (None, "") or isinstance(track, (int, float)) and track < 0
            if annotation["image_id"] in places and not annotation.get("iscrowd") and not without:
                x, y, width, height = annotation["bbox"]
                if 0 in (width, height):
                    continue
                key = (video["id"], str(track))
                boxes = tracks.setdefault(key, (names[annotation["category_id"]], {}))[1]
                boxes[places[annotation["image_id"]]] = (x, y, x + width, y + height)
    return visible(list(tracks.values()))


def key_frames(keys: list[tuple[int, list[float], bool, bool]], pivot: tuple[float, float]) -> dict[int, Box]:
    """Frame by frame between ``(frame, [x1, y1, x2, y2, degrees], seen there, goes on after)``, by numpy.

    The boxes around those that are turned about `pivot`, a place between their corners.
    """
    keys = sorted(keys)
    frames = [key[0] for key in keys]
    assert len(set(frames)) == len(frames)
    sides = np.array([key[1] for key in keys])
    boxes = {}
    for t in range(LENGTH):
        before = [key for key in keys if key[0] <= t]
        if before and (before[-1][2] if before[-1][0] == t else before[-1][3]):
            x1, y1, x2, y2 = (np.interp(t, frames, side) for side in sides.T[:4])
            angle = np.interp(t, frames, np.unwrap(sides.T[4], period=360))
            center = x1 + (x2 - x1) * pivot[0] + 1j * (y1 + (y2 - y1) * pivot[1])
            corners = np.array([x1 + 1j * y1, x2 + 1j * y1, x1 + 1j * y2, x2 + 1j * y2])
            turned = (corners - center) * np.exp(1j * np.radians(angle)) + center
            boxes[t] = (turned.real.min(), turned.imag.min(), turned.real.max(), turned.imag.max())
    return boxes


def cvat(content: bytes) -> Tracks:
    tracks, all_written = [], []
    elements = ElementTree.fromstring(content).findall("track")
    for track in elements:
        written = []
        for box in track:
            assert box.tag == "box"
            seen = box.get("outside") == "0"
            sides = [float(box.get(name, 0)) for name in ("xtl", "ytl", "xbr", "ybr", "rotation")]
            written.append((int(box.get("frame")), sides, seen, seen))
        all_written.append(written)
    # with its own interpolation in the file, CVAT has written all frames in which something is seen
    every = any(box.get("keyframe") == "0" for track in elements for box in track)
    for track, written in zip(elements, all_written, strict=True):
        boxes = key_frames(written, (0.5, 0.5)) if written else {}
        others = {frame for keys in all_written for frame, *_ in keys} - {frame for frame, *_ in written}
        tracks.append((track.get("label"), {t: box for t, box in boxes.items() if not (every and t in others)}))
    return visible(tracks)


def label_studio(content: bytes) -> Tracks:
    root = json.loads(content)
    (task,) = root if isinstance(root, list) else [root]
    tracks = []
    for result in task["annotations"][0]["result"] if "annotations" in task else []:
        labels = result["value"].get("labels") or []
        labels = {str(label) for label in (labels if isinstance(labels, list) else [labels])}
        if result.get("type") == "videorectangle" and labels:  # none of a region without a label
            keys = []
            for key in result["value"]["sequence"]:
                x, y = key["x"] / 100 * WIDTH, key["y"] / 100 * HEIGHT
                sides = [x, y, x + key["width"] / 100 * WIDTH, y + key["height"] / 100 * HEIGHT, key.get("rotation", 0)]
                keys.append((key["frame"] - 1, sides, True, key["enabled"]))
            tracks += [(label, key_frames(keys, (0, 0))) for label in labels]
    return visible(tracks)


def scalabel_frames(content: bytes) -> list[Json]:
    root = json.loads(content)
    return root["frames"] if isinstance(root, dict) else root


def scalabel(content: bytes) -> list[Any]:
    read = []
    for frame in scalabel_frames(content):
        labels = []
        for label in frame.get("labels") or []:
            box = label.get("box2d")
            flags = [bool((label.get("attributes") or {}).get(flag)) for flag in ("crowd", "ignored")]
            corners = None if box is None else (box["x1"], box["y1"], box["x2"] + 1, box["y2"] + 1)
            labels.append((str(label["id"]), label["category"], corners, *flags, label.get("rle")))
        read.append((frame["name"], frame.get("videoName"), frame.get("frameIndex"), labels))
    return read


def scalabel_tracks(content: bytes) -> Tracks:
    videos: dict[str, list[Json]] = {}
    for frame in sorted(scalabel_frames(content), key=lambda frame: (frame["videoName"], frame.get("frameIndex") or 0)):
        videos.setdefault(frame["videoName"], []).append(frame)
    tracks: dict[Any, Any] = {}
    for video, frames in videos.items():
        for place, frame in enumerate(frames):
            for label in frame.get("labels") or []:
                if not any((label.get("attributes") or {}).get(flag) for flag in ("crowd", "ignored")):
                    corners = _corners(label)
                    if corners:
                        track = tracks.setdefault((video, str(label["id"])), (label["category"], {}))
                        track[1][place] = corners
    return visible(list(tracks.values()))


def _corners(label: Json) -> Box | None:
    if label.get("box2d"):
        box = label["box2d"]
        return box["x1"], box["y1"], box["x2"] + 1, box["y2"] + 1
    rows, columns = np.nonzero(coco_mask.decode(label["rle"]))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


CLASSES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
OTHER_NAMES = {"van": "car", "motor": "motorcycle", "bike": "bicycle", "person": "pedestrian", "caravan": "car"}
REGIONS = {"trailer", "other person", "other vehicle"}


def bdd100k(content: bytes) -> Tracks:
    root = scalabel_frames(content)
    for frame in root:
        labels = [label for label in frame.get("labels") or [] if str(label["id"]) != "-1"]
        frame["labels"] = [label for label in labels if label["category"] not in REGIONS]
        for label in frame["labels"]:
            label["category"] = OTHER_NAMES.get(label["category"], label["category"])
            label["id"] = f"{label['id']} {label['category']}"
    return scalabel_tracks(json.dumps(root).encode())


def mots(content: bytes, truth: bytes) -> Any:
    """Ids and classes of annotated and predicted masks, and their IoUs, in the frames of the one video."""
    true_frames, found_frames = (
        sorted(scalabel_frames(side), key=lambda frame: frame.get("frameIndex") or 0) for side in (truth, content)
    )
    read = []
    for t, true_frame in enumerate(true_frames):
        true, found = _masks(true_frame), _masks(found_frames[t]) if found_frames else []
        if found and sum(mask.astype(int) for *_, mask in found).max() > 1:
            found = []
        true, found = ([(who, mask) for *who, region, mask in side if not region] for side in (true, found))
        ious = [[float((a & b).sum() / max((a | b).sum(), 1)) for _, b in found] for _, a in true]
        read.append(([who for who, _ in true], [who for who, _ in found], ious))
    return read


def _masks(frame: Json) -> list[tuple[int, int, bool, np.ndarray]]:
    """Id, class from 1 on, whether it is an ignore region, and pixels of each label with a mask."""
    masks = []
    for label in frame.get("labels") or []:
        if label.get("rle"):
            name = OTHER_NAMES.get(label["category"], label["category"])
            region = name in REGIONS or any((label.get("attributes") or {}).get(flag) for flag in ("crowd", "ignored"))
            number = 0 if name in REGIONS else CLASSES.index(name) + 1
            masks.append((int(label["id"]), number, region, coco_mask.decode(label["rle"])))
    return masks


def ytvis(content: bytes) -> Any:
    root = json.loads(content)
    shapes = {_id(video["id"]): (*_size(video), len(video["file_names"])) for video in root["videos"]}
    return _dataset(root, shapes, "video_id")


def coco(content: bytes) -> Any:
    root = json.loads(content)
    for annotation in root.get("annotations") or []:
        annotation["bboxes"] = [annotation["bbox"]]
    shapes = {_id(image["id"]): (*_size(image), 1) for image in root["images"]}
    return _dataset(root, shapes, "image_id")


def _id(value: Any) -> int:
    return int(value) if isinstance(value, str) else value


def _size(entry: Json) -> tuple[int, int]:
    return _id(entry["width"]), _id(entry["height"])


def _dataset(root: Json, shapes: dict[int, tuple[int, int, int]], where: str) -> Any:
    tracks = {}
    for annotation in root.get("annotations") or []:
        width, height, _ = shapes[_id(annotation[where])]
        boxes = []
        for box in annotation["bboxes"]:
            if not box or np.isnan(box).all() or 0 in box[2:]:
                boxes.append(None)
            else:
                assert min(box[2:]) > 0
                boxes.append(clipped((box[0], box[1], box[0] + box[2], box[1] + box[3]), width, height))
        crowd = bool(annotation.get("iscrowd", 0))
        owner, category = _id(annotation[where]), _id(annotation["category_id"])
        tracks[_id(annotation["id"])] = (owner, category, crowd, boxes)
    names = {
        _id(category["id"]): str(_id(category["id"]) if category.get("name") in (None, "") else category["name"])
        for category in root.get("categories") or []
    }
    return names, shapes, tracks


def results(content: bytes) -> Any:
    read = []
    for entry in json.loads(content):
        if _id(entry["category_id"]) not in (2, 5):  # those of the valid data set
            continue
        masks = []
        for segmentation in entry["segmentations"]:
            if not segmentation:
                masks.append(bytes(HEIGHT * WIDTH))
                continue
            if isinstance(segmentation["counts"], list):
                segmentation = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
            masks.append(coco_mask.decode(segmentation).tobytes(order="C"))
        read.append((_id(entry["video_id"]), _id(entry["category_id"]), float(entry["score"]), masks))
    return read


def bitmask(content: bytes) -> Any:
    pixels = np.asarray(Image.open(io.BytesIO(content))).astype(np.uint16)
    assert pixels.shape[2] == 4
    channels = pixels[..., 0], pixels[..., 1], pixels[..., 2] * 256 + pixels[..., 3]
    return [(channel.shape, channel.tobytes()) for channel in channels]
