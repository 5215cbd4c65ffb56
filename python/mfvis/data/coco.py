"""COCO instances: images with boxes and masks, read as videos of one frame. The categories are COCO's or any others.

{"images":      [{"id", "width", "height", "file_name" (LVIS: "coco_url")}],
 "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "segmentation"?, "area"?, "iscrowd"?}],
 "categories":  [{"id", "name"}]}
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mfvis.data.jsonfile import read_object
from mfvis.data.records import RecordReader
from mfvis.errors import DataError, Problem
from mfvis.text import path_fault, printable, shortened, unique_names
from mfvis.types import Category, Track, Video, VideoDataset

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of LVIS images. LVIS counts false positives of a class only in images that were searched for the class."""


def load_coco(
    json_path: str | Path,
    images_dir: str | Path | None = None,
    *,
    with_masks: bool = True,
    boxes_from_masks: bool = False,
    lenient: bool = False,
) -> VideoDataset:
    """Read a COCO instances file: every image becomes a video of one frame, every annotation a track.

    Neither images nor masks are read. A box without area, of which the published files have a few, counts as absent.
    `VideoDataset.notes` gives their count.

    Args:
        json_path: the file; without ``annotations`` it is a list of images to predict.
        images_dir: the folder that ``file_name`` is relative to; default `default_images_dir`.
        with_masks: keep the masks. If false, they are freed: those of COCO take gigabytes.
        boxes_from_masks: give the annotations that have a mask but no ``bbox`` the box of their mask.
        lenient: as in `mfvis.data.ytvis.load_dataset`.

    Raises:
        DataError: with every problem of the file.
    """
    dataset, problems = parse_coco(
        json_path, images_dir, with_masks=with_masks, boxes_from_masks=boxes_from_masks, lenient=lenient
    )
    if problems:
        raise DataError(problems)
    return dataset


def parse_coco(
    json_path: str | Path,
    images_dir: str | Path | None = None,
    *,
    with_masks: bool = True,
    boxes_from_masks: bool = False,
    lenient: bool = False,
    root: dict[str, Any] | None = None,
) -> tuple[VideoDataset, list[Problem]]:
    """The valid part of a COCO instances file, and its problems. The arguments are those of `load_coco`.

    root: the content of the file, if already read.
    """
    path = Path(json_path)
    reader = _CocoReader(str(path), boxes_from_masks, lenient, with_masks=with_masks)
    root = read_object(path, reader.problems) if root is None else root
    if root is not None and "videos" in root:
        reader.report("file", "has videos, so that it is not COCO's", f"Write {path} without coco:")
    if root is None or reader.problems:
        return VideoDataset(path, (), (), of_images=True), reader.problems
    folder = default_images_dir(path, root) if images_dir is None else Path(images_dir)
    if not folder.is_dir():
        reader.report("images folder", f"{folder} is not a folder", "Name the folder that file_name starts from")
    categories = reader.categories(root)
    images = reader.images(root, folder)
    tracks = reader.tracks(root, images, categories)
    reader.finish()
    names = unique_names([image.name for image in images.values()], list(images))
    videos = tuple(
        replace(image, name=name, tracks=tuple(tracks.get(image.id, ())))
        for image, name in zip(images.values(), names, strict=True)
    )
    ordered = tuple(sorted(categories.values(), key=lambda category: category.id))
    return VideoDataset(path, ordered, videos, reader.notes(), of_images=True), reader.problems


def is_coco(root: Any) -> bool:
    """True if the content of a JSON file has the COCO layout: images that do not belong to videos."""
    return isinstance(root, dict) and "images" in root and "videos" not in root


def default_images_dir(json_path: Path, root: dict[str, Any]) -> Path:
    """Default folder of the file names of a COCO JSON: the first of the usual folders that contains the first image,
    else the JSON's folder."""
    entries = root.get("images")
    first = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    name = _file_name(first)
    here = json_path.parent
    split = json_path.stem.removeprefix("instances_")
    folders = [parent / part for parent in (here, here.parent) for part in ("images", "JPEGImages", split, "")]
    candidates = (folder for folder in folders if name and not path_fault(name) and (folder / name).is_file())
    return next(candidates, here)


def _file_name(entry: dict[str, Any]) -> str | None:
    """Path of the image below the images folder. LVIS only has a URL, which ends with the split and the file name."""
    name, address = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(address, str) and address:
        name = "/".join(PurePosixPath(address).parts[-2:])
    return name if isinstance(name, str) and name else None


@dataclass
class _CocoReader(RecordReader):
    """Reader of the images and annotations of a COCO JSON."""

    with_masks: bool = True

    def images(self, root: dict[str, Any], folder: Path) -> dict[int, Video]:
        images: dict[int, Video] = {}
        federated = False
        for record, entry in self.entries(root, "images", needed=True):
            fields = self.fields(record, entry, ("id", "width", "height"))
            if fields is None or not self.unique(fields["id"], images, record, "image"):
                continue
            federated = federated or any(key in entry for key in FEDERATED)
            record, name = f"image {fields['id']}", _file_name(entry)
            valid = self.sized(record, fields)
            if name is None:
                self.report(
                    record, f"file_name is {shortened(entry.get('file_name'))}, expected a text", "Name its file"
                )
            elif fault := path_fault(name):
                self.report(record, f"file_name {shortened(name)} {fault}", "Correct the name")
            elif valid:
                path = folder / name
                images[fields["id"]] = Video(
                    fields["id"], printable(path.stem), fields["width"], fields["height"], 1, (path,)
                )
        if federated:
            self.note("files of LVIS: evaluated as COCO, whose metrics are not LVIS' own")
        return images

    def tracks(
        self, root: dict[str, Any], images: dict[int, Video], categories: dict[int, Category]
    ) -> dict[int, list[Track]]:
        declared = [self.declared(root, name) for name in ("images", "categories")]
        tracks: dict[int, list[Track]] = {}
        seen: dict[int, None] = {}
        for record, entry in self.entries(root, "annotations", needed=False):
            fields = self.fields(record, entry, ("id", "image_id", "category_id"))
            if fields is None or not self.unique(fields["id"], seen, record, "annotation"):
                continue
            seen[fields["id"]] = None
            record = f"annotation {fields['id']}"
            known = self.known(record, fields, *declared, "image")
            image = images.get(fields["image_id"])
            if known and image is not None and fields["category_id"] in categories:
                tracks.setdefault(image.id, []).append(self.track(record, fields, entry, image))
        return tracks

    def track(self, record: str, fields: dict[str, int], entry: dict[str, Any], image: Video) -> Track:
        segmentation, box, area = (entry.get(name) for name in ("segmentation", "bbox", "area"))
        boxes_T4 = np.zeros((1, 4), np.float32)
        if box is not None:
            boxes_T4[0] = self.box(record, box, image, "images")
        elif segmentation is not None and self.boxes_from_masks:
            boxes_T4[0] = self.box_of_mask(record, segmentation, image)
        else:
            self.report(
                record, "has no bbox", "Write [x, y, width, height], or take the box of the mask: PATH@boxes=masks"
            )
        if area is not None and not (isinstance(area, (int, float)) and 0 <= area < math.inf):
            problem = f"area is {shortened(area)}, expected a number of pixels"
            self.report(record, problem, "Write the area of the mask, or leave it out")
        self.note_id(fields["id"])
        return Track(
            fields["id"],
            fields["category_id"],
            boxes_T4,
            (segmentation,) if self.with_masks and segmentation is not None else None,
            None if area is None else (area,),
            bool(self.crowd(record, entry)),
        )
