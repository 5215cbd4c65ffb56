"""Tracks of BDD100K: its eight classes, and its published folders as a data set.

bdd100k/images/seg_track_20/{train,val,test}/<video>/<video>-0000001.jpg
bdd100k/labels/seg_track_20/{rles,polygons}/{train,val}/<video>.json     Scalabel
bdd100k/labels/seg_track_20/bitmasks/{train,val}/<video>/<frame>.png
bdd100k/images/track/..., bdd100k/labels/box_track_20/{train,val}/<video>.json
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mfvis.data.bitmask import CROWD, IGNORED, read_bitmask
from mfvis.data.rle import encode_mask
from mfvis.data.scalabel import ScalabelFrame, ScalabelLabel, box_of, read_scalabel, videos_of
from mfvis.data.video import open_video
from mfvis.errors import DataError, Problem
from mfvis.text import counted
from mfvis.types import Category, Track, Video, VideoDataset

CATEGORIES = tuple(
    Category(category_id, name)
    for category_id, name in enumerate(
        ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"), start=1
    )
)
NAME_MAP = {"bike": "bicycle", "caravan": "car", "motor": "motorcycle", "person": "pedestrian", "van": "car"}
IGNORED_MAP = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
"""Category names that mark ignore regions of a class."""
SIZE = (720, 1280)
"""``(height, width)`` of every frame, unless a label file gives another size."""
FPS = 5.0

Labels = Literal["rles", "polygons", "bitmasks", "boxes"]
FOLDERS: dict[Labels, str] = {
    "rles": "labels/seg_track_20/rles",
    "polygons": "labels/seg_track_20/polygons",
    "bitmasks": "labels/seg_track_20/bitmasks",
    "boxes": "labels/box_track_20",
}

_IDS = {category.name: category.id for category in CATEGORIES}


def class_of(name: str) -> tuple[int, bool] | None:
    """Class 1 to 8 of a category name, and whether it marks an ignore region. None for an unknown name."""
    if name in IGNORED_MAP:
        return _IDS[IGNORED_MAP[name]], True
    category_id = _IDS.get(NAME_MAP.get(name, name))
    return None if category_id is None else (category_id, False)


def load_bdd100k(
    root: str | Path, split: str = "train", labels: Labels | None = None, *, with_masks: bool = False
) -> VideoDataset:
    """Load the published folders of one split. Ignore regions (crowd, ignored) are not objects and are left out.

    An object's box is its ``box2d``, else the extent of its mask. An object whose class changes becomes one track per
    class, as in the evaluation. Video ids follow the order of the names. Track ids are unique in the whole data set.

    Args:
        root: the folder that contains ``images`` and ``labels``, or ``bdd100k`` with both.
        split: "train", "val", or "test", whose videos have no tracks.
        labels: which labels to read; default the first existing ones in the order of `FOLDERS`. Bitmasks are slow:
            about 20 ms per image.
        with_masks: keep the masks too. If false, masks of objects with a box are not read.

    Raises:
        DataError: with every problem of the label files, or with the paths at which labels or images are missing.
    """
    root = _unpacked(Path(root))
    form = next((kind for kind in ([labels] if labels else FOLDERS) if label_path(root, kind, split)), None)
    if form is None and split != "test":
        expected = [FOLDERS[kind] for kind in ([labels] if labels else FOLDERS)]
        problem = f"has no labels of split {split!r} in {', '.join(expected)}"
        raise DataError([Problem(str(root), "folder", problem, "Unpack the labels there, or correct root and split")])
    images = root / ("images/track" if form == "boxes" else "images/seg_track_20") / split
    if form is None:
        return VideoDataset(root, CATEGORIES, tuple(_numbered(_unlabeled(images))))
    reader = _Reader(images, with_masks)
    path = label_path(root, form, split)
    videos = reader.bitmasks(path) if form == "bitmasks" else reader.scalabel(path)
    if reader.problems:
        raise DataError(reader.problems)
    notes = (f"{counted(reader.outside, 'box')} outside the image, left out",) if reader.outside else ()
    return VideoDataset(root, CATEGORIES, tuple(_numbered(videos)), notes)


def label_path(root: Path, kind: Labels, split: str) -> Path | None:
    """Folder of a split's labels, or the one file that contains them all. None if neither exists."""
    folder = _unpacked(root) / FOLDERS[kind]
    task = "box_track" if kind == "boxes" else "seg_track"
    names = (split, f"{task}_{split}.json", f"{split}.json")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _unpacked(root: Path) -> Path:
    """The folder that contains ``labels`` and ``images``: `root`, or ``bdd100k`` in it."""
    nested = root / "bdd100k"
    parts = ("images", "labels")
    return root if any((root / part).is_dir() for part in parts) or not nested.is_dir() else nested


def _unlabeled(images: Path) -> list[Video]:
    folders = sorted(path for path in images.glob("[!.]*") if path.is_dir())
    if not folders:
        problem = Problem(str(images), "folder", "has no folder of frames in it", "Unpack the images there")
        raise DataError([problem])
    return [replace(open_video(folder), fps=FPS) for folder in folders]


def _numbered(videos: Sequence[Video]) -> Iterator[Video]:
    """The videos with ids 1, 2, ..., and with track ids that are unique over all of them."""
    first = 1
    for video_id, video in enumerate(videos, start=1):
        tracks = tuple(replace(track, id=first + i) for i, track in enumerate(video.tracks))
        first += len(tracks)
        yield replace(video, id=video_id, tracks=tracks)


@dataclass
class _Reader:
    """Reader of the videos of one split, which collects the problems of their labels."""

    images: Path
    with_masks: bool
    problems: list[Problem] = field(default_factory=list)
    outside: int = 0

    def scalabel(self, path: Path) -> list[Video]:
        """Videos of a folder of Scalabel files, each with whole videos in it, or of one file."""
        videos: dict[str, Video] = {}
        # Read one file at a time: all labels of the training split together take gigabytes.
        for file in sorted(path.glob("[!.]*.json")) or [path]:
            try:
                frames = read_scalabel(file, with_masks=self.with_masks)
            except DataError as error:
                self.problems += error.problems
                continue
            for frame in frames:
                if frame.video is None:
                    self.report(file, f"frame {frame.name}", "has no videoName", "Name its video")
            for name, members in videos_of(frames).items():
                if name in videos:
                    self.report(file, f"video {name}", "is in another file, too", "Keep a video's frames in one file")
                videos[name] = self.video(file, name, members)
        return [videos[name] for name in sorted(videos)]

    def video(self, file: Path, name: str, members: Sequence[ScalabelFrame]) -> Video:
        sizes = {frame.size or SIZE for frame in members}
        if len(sizes) > 1:
            problem = f"has frames of {len(sizes)} sizes, {sorted(sizes)} (height, width)"
            self.report(file, f"video {name}", problem, "Make all frames one size")
        if len({frame.name for frame in members}) < len(members):
            self.report(file, f"video {name}", "has two frames of one name", "Name each frame once")
        objects = _Objects(self, file, *next(iter(sizes)), len(members))
        for t, frame in enumerate(members):
            for label in frame.labels:
                objects.add(t, frame, label)
        return objects.video(name, [Path(frame.name).name for frame in members])

    def bitmasks(self, path: Path) -> list[Video]:
        """Videos of a folder with a folder of bitmasks for each."""
        videos = []
        for folder in sorted(path for path in path.glob("[!.]*") if path.is_dir()):
            files = sorted(folder.glob("[!.]*.png"))
            objects: _Objects | None = None
            for t, file in enumerate(files):
                try:
                    category_HW, attributes_HW, id_HW = read_bitmask(file)
                except DataError as error:
                    self.problems += error.problems
                    continue
                objects = objects or _Objects(self, folder, *id_HW.shape, len(files))
                if (objects.height, objects.width) != id_HW.shape:
                    problem = f"is {id_HW.shape} (height, width), the first one {(objects.height, objects.width)}"
                    self.report(file, "image", problem, "Make all bitmasks of a video one size")
                    continue
                objects.add_bitmask(t, file.name, category_HW, attributes_HW, id_HW)
            if objects is not None:
                videos.append(objects.video(folder.name, [f"{file.stem}.jpg" for file in files]))
        return videos

    def report(self, file: Path, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(str(file), record, problem, remedy))


@dataclass
class _Objects:
    """Collector of the objects of one video, frame by frame."""

    reader: _Reader
    file: Path
    height: int
    width: int
    length: int
    boxes: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    """Boxes of each id and class, float32 ``[T, 4]``, in the order in which they first appear."""
    masks: dict[tuple[str, int], list[Any]] = field(default_factory=dict)

    def add(self, t: int, frame: ScalabelFrame, label: ScalabelLabel) -> None:
        """Add one label of frame `t`, unless it is an ignore region."""
        record = f"{frame.name}, label {label.id}"
        known = class_of(label.category)
        if known is None:
            names = ", ".join(category.name for category in CATEGORIES)
            self.reader.report(self.file, record, f"category is {label.category!r}", f"Expected one of {names}")
            return
        category, ignored = known
        if ignored or label.crowd or label.ignored or label.id == "-1":  # the toolkit uses this id for a region
            return
        try:
            box = box_of(label, self.height, self.width, file=str(self.file), record=record)
        except DataError as error:
            self.reader.problems += error.problems
            return
        if box is not None:
            self.put(t, record, label.id, category, box, label.segmentation)

    def add_bitmask(
        self, t: int, name: str, category_HW: np.ndarray, attributes_HW: np.ndarray, id_HW: np.ndarray
    ) -> None:
        """Add the objects of a bitmask, without its ignore regions."""
        from scipy import ndimage  # imported here, since it would delay help texts by a fifth of a second

        for object_id, bounds in enumerate(ndimage.find_objects(id_HW), start=1):
            if bounds is None:
                continue
            inside = id_HW[bounds] == object_id
            if attributes_HW[bounds][inside][0] & (CROWD | IGNORED):
                continue
            rows, columns = bounds
            box = (columns.start, rows.start, columns.stop, rows.stop)
            mask = encode_mask(id_HW == object_id) if self.reader.with_masks else None
            self.put(t, name, str(object_id), int(category_HW[bounds][inside][0]), box, mask)

    def put(
        self, t: int, record: str, object_id: str, category: int, box: Sequence[float], mask: dict | list | None
    ) -> None:
        """Add one object in frame `t`, with a half-open box."""
        x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], self.width), min(box[3], self.height)
        if x2 <= x1 or y2 <= y1:
            self.reader.outside += 1
            return
        boxes_T4 = self.boxes.setdefault((object_id, category), np.zeros((self.length, 4), np.float32))
        if boxes_T4[t].any():
            problem = f"the frame has two objects with id {object_id}"
            self.reader.report(self.file, record, problem, "Give each object an id of its own")
        boxes_T4[t] = x1, y1, x2, y2
        if self.reader.with_masks:
            self.masks.setdefault((object_id, category), [None] * self.length)[t] = mask

    def video(self, name: str, images: Sequence[str]) -> Video:
        """The video with these images. Its ids are assigned later."""
        tracks = tuple(
            Track(0, key[1], boxes_T4, tuple(self.masks[key]) if self.reader.with_masks else None)
            for key, boxes_T4 in self.boxes.items()
        )
        frames = tuple(self.reader.images / name / image for image in images)
        return Video(0, name, self.width, self.height, self.length, frames, tracks, FPS)
