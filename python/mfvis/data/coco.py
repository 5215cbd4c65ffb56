"""COCO instances: pictures with boxes and masks, read as videos of one frame.

{"images":      [{"id", "width", "height", "file_name"}],
 "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "segmentation"?, "area"?, "iscrowd"?}],
 "categories":  [{"id", "name"}]}
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mfvis.data.jsonfile import LARGEST, read_object
from mfvis.data.ytvis import JsonReader
from mfvis.errors import DataError
from mfvis.text import path_fault, printable, shortened, unique_names
from mfvis.types import Category, Track, Video, VideoDataset


def load_coco(
    json_path: str | Path, images_dir: str | Path, *, with_masks: bool = True, boxes_from_masks: bool = False
) -> VideoDataset:
    """Read a COCO instances file: every picture becomes a video of one frame, every annotation a track.

    Neither pictures nor masks are touched. A box without size, of which the published files have a few, counts as
    absent; `VideoDataset.notes` says how many there were.

    Args:
        json_path: the file; without ``annotations`` it is a list of pictures to predict.
        images_dir: the folder that ``file_name`` starts from.
        with_masks: keep the masks; without, they leave the memory, of which COCO's take gigabytes.
        boxes_from_masks: give the annotations that have a mask but no ``bbox`` the box of their mask.

    Raises:
        DataError: with every problem of the file.
    """
    path, folder = Path(json_path), Path(images_dir)
    reader = JsonReader(str(path), boxes_from_masks, forgiving=True)
    root = read_object(path, reader.problems)
    if root is not None and "videos" in root:
        reader.report("file", "has videos, so that it is not COCO's", f"Write {path} without coco:")
    if root is None or reader.problems:
        raise DataError(reader.problems)
    if not folder.is_dir():
        reader.report("images folder", f"{folder} is not a folder", "Name the folder that file_name starts from")
    categories = reader.categories(root)
    images: dict[int, Video] = {}
    for record, entry in reader.entries(root, "images", needed=True):
        image = _image(reader, record, entry, folder, images)
        if image is not None:
            images[image.id] = image
    tracks: dict[int, list[Track]] = {}
    seen: dict[int, None] = {}
    for record, entry in reader.entries(root, "annotations", needed=False):
        track = _track(reader, record, entry, images, categories, seen, with_masks)
        if track is not None:
            tracks.setdefault(entry["image_id"], []).append(track)
    names = unique_names([image.name for image in images.values()], list(images))
    videos = tuple(
        replace(image, name=name, tracks=tuple(tracks.get(image.id, ())))
        for image, name in zip(images.values(), names, strict=True)
    )
    ordered = tuple(sorted(categories.values(), key=lambda category: category.id))
    if reader.problems:
        raise DataError(reader.problems)
    return VideoDataset(path, ordered, videos, reader.notes())


def _image(reader: JsonReader, record: str, entry: Any, folder: Path, images: Collection[int]) -> Video | None:
    fields = reader.fields(record, entry, ("id", "width", "height"))
    if fields is None or not reader.unique(fields["id"], images, record, "image"):
        return None
    record = f"image {fields['id']}"
    faulty = [name for name in ("width", "height") if not 0 < fields[name] <= LARGEST]
    for name in faulty:
        reader.report(record, f"{name} is {shortened(fields[name])}", "Write the size of the picture")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        reader.report(record, f"file_name is {shortened(name)}, expected a text", "Name the picture's file")
    elif fault := path_fault(name):
        reader.report(record, f"file_name {shortened(name)} {fault}", "Correct the name")
    elif not faulty:
        path = folder / name
        return Video(fields["id"], printable(path.stem), fields["width"], fields["height"], 1, (path,))
    return None


def _track(
    reader: JsonReader,
    record: str,
    entry: Any,
    images: dict[int, Video],
    categories: dict[int, Category],
    seen: dict[int, None],
    with_masks: bool,
) -> Track | None:
    fields = reader.fields(record, entry, ("id", "image_id", "category_id"))
    if fields is None or not reader.unique(fields["id"], seen, record, "annotation"):
        return None
    seen[fields["id"]] = None
    record = f"annotation {fields['id']}"
    image = images.get(fields["image_id"])
    if image is None:
        reader.report(record, f"image {fields['image_id']} is unknown", "Add it to 'images', or correct image_id")
    if fields["category_id"] not in categories:
        problem = f"category {fields['category_id']} is unknown"
        reader.report(record, problem, "Add it to 'categories', or correct category_id")
    if image is None or fields["category_id"] not in categories:
        return None
    segmentation, box = entry.get("segmentation"), entry.get("bbox")
    boxes_T4 = np.zeros((1, 4), np.float32)
    if box is not None:
        boxes_T4[0] = reader.box(record, box, image)
    elif segmentation is not None and reader.boxes_from_masks:
        boxes_T4[0] = reader.box_of_mask(record, segmentation, image)
    else:
        reader.report(
            record, "has no bbox", "Write [x, y, width, height], or take the box of the mask: PATH@boxes=masks"
        )
    if entry.get("iscrowd", 0) not in (0, 1):
        reader.report(record, f"iscrowd is {shortened(entry['iscrowd'])}, expected 0 or 1", "Write 0 or 1")
    area = entry.get("area")
    if area is not None and not (isinstance(area, (int, float)) and 0 <= area < math.inf):
        problem = f"area is {shortened(area)}, expected a number of pixels"
        reader.report(record, problem, "Write the area of the mask, or leave it out")
    kept = (segmentation,) if with_masks and segmentation is not None else None
    areas = None if area is None else (area,)
    return Track(fields["id"], fields["category_id"], boxes_T4, kept, areas, bool(entry.get("iscrowd", 0)))
