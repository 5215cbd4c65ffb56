"""The YouTube-VIS layout: one JSON of videos, annotations (a track each) and categories, with pictures beside it.

    {"videos":      [{"id", "width", "height", "file_names": [T paths], "length"?: T, "fps"?, "name"?}],
     "annotations": [{"id", "video_id", "category_id", "bboxes": [T of [x, y, w, h] or null],
                      "segmentations"?: [T of mask or null], "areas"?, "iscrowd"?}],
     "categories":  [{"id", "name"}]}

Boxes are all that training needs: masks are carried along as they stand, and decoded by `decode_mask` when asked for.
``annotations`` may be missing or null. Beyond YouTube-VIS, ``file_names`` may hold the name of one video file; such a
video must say its ``length``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mfvis.data.jsonfile import LARGEST, is_finite, is_integer, kind_of, read_object
from mfvis.data.rle import decode_mask, mask_box
from mfvis.data.video import VIDEO_SUFFIXES
from mfvis.errors import DataError, Problem
from mfvis.text import name_fault, path_fault, printable, shortened, unique_names
from mfvis.types import Category, Track, Video, VideoDataset

ROUNDING = 1.0
"""Pixels by which a box may reach outside its picture (inclusive corners, rounding); it is clipped."""


def load_dataset(
    json_path: str | Path,
    frames_dir: str | Path | None = None,
    *,
    boxes_from_masks: bool = False,
    forgiving: bool = False,
) -> VideoDataset:
    """Read a YouTube-VIS JSON file; neither a picture nor a mask is touched.

    Args:
        json_path: the file.
        frames_dir: the folder that ``file_names`` start from; default ``JPEGImages`` beside the JSON, else its folder.
        boxes_from_masks: give the annotations that have masks but no ``bboxes`` the boxes of their masks.
        forgiving: take a box without size for an absent one, and clip one that reaches outside its picture, instead of
            objecting; `VideoDataset.notes` says how many. For published files, which nobody can mend.

    Raises:
        DataError: with every problem of the file, not only the first.
    """
    dataset, problems = parse_ytvis(json_path, frames_dir, boxes_from_masks=boxes_from_masks, forgiving=forgiving)
    if problems:
        raise DataError(problems)
    return dataset


def parse_ytvis(
    json_path: str | Path,
    frames_dir: str | Path | None = None,
    *,
    boxes_from_masks: bool = False,
    forgiving: bool = False,
) -> tuple[VideoDataset, list[Problem]]:
    """As `load_dataset`, but returns what is sound in the file together with what is not."""
    path = Path(json_path)
    reader = JsonReader(str(path), boxes_from_masks, forgiving)
    root = read_object(path, reader.problems)
    if root is not None and _is_coco_video(root):
        reader.report("file", "is COCO-VID, whose images name their videos", "Make it YouTube-VIS: mfvis data import")
        root = None
    elif root is not None and "images" in root and "videos" not in root:
        reader.report("file", "is COCO, with images and no videos", f"Write coco:{path} if its classes are COCO's")
        root = None
    if root is None:
        return VideoDataset(path, (), ()), reader.problems
    if frames_dir is None:
        frames_dir = frames_beside(path)
    elif not Path(frames_dir).is_dir():
        reader.report("frames folder", f"{frames_dir} is not a folder", "Name the folder that file_names start from")
    categories = reader.categories(root)
    videos = reader.videos(root, Path(frames_dir))
    tracks = reader.tracks(root, categories, videos)
    names = unique_names([video.name for video in videos.values()], list(videos))
    return VideoDataset(
        path,
        tuple(sorted(categories.values(), key=lambda category: category.id)),
        tuple(
            Video(
                video.id,
                name,
                video.width,
                video.height,
                video.length,
                video.frames,
                tuple(tracks.get(video.id, ())),
                video.fps,
            )
            for video, name in zip(videos.values(), names, strict=True)
        ),
        reader.notes(),
    ), reader.problems


def _is_coco_video(root: dict[str, Any]) -> bool:
    videos = root.get("videos")
    return (
        "images" in root
        and isinstance(videos, list)
        and not any(isinstance(video, dict) and "file_names" in video for video in videos)
    )


def frames_beside(json_path: Path) -> Path:
    """The folder that the file names of a YouTube-VIS JSON start from, unless another is named."""
    nested = json_path.parent / "JPEGImages"
    return nested if nested.is_dir() else json_path.parent


@dataclass
class JsonReader:
    """Reads the parts of one JSON file and gathers what is wrong with them; COCO's pictures too."""

    file: str
    boxes_from_masks: bool
    forgiving: bool = False
    problems: list[Problem] = field(default_factory=list)
    forgiven: Counter[str] = field(default_factory=Counter)

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, record, problem, remedy))

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{self.file}: {count} {what}" for what, count in self.forgiven.items())

    def categories(self, root: dict[str, Any]) -> dict[int, Category]:
        categories: dict[int, Category] = {}
        for record, entry in self.entries(root, "categories", needed=bool(root.get("annotations"))):
            fields = self.fields(record, entry, ("id",))
            if fields is None or not self.unique(fields["id"], categories, record, "category"):
                continue
            name = entry.get("name")
            if not isinstance(name, str) or not name:
                self.report(record, f"name is {shortened(name)}, expected a text", "Name the category")
                name = str(entry["id"])
            elif fault := name_fault(name):
                self.report(record, f"name {shortened(name)} {fault}", "Give it a shorter, plain name")
            categories[entry["id"]] = Category(entry["id"], name)
        return categories

    def videos(self, root: dict[str, Any], frames_dir: Path) -> dict[int, Video]:
        videos: dict[int, Video] = {}
        for record, entry in self.entries(root, "videos", needed=True):
            fields = self.fields(record, entry, ("id", "width", "height"))
            if fields is None or not self.unique(fields["id"], videos, record, "video"):
                continue
            video = self.video(f"video {entry['id']}", entry, frames_dir)
            if video is not None:
                videos[video.id] = video
        return videos

    def video(self, record: str, entry: dict[str, Any], frames_dir: Path) -> Video | None:
        sound = True
        for name in ("width", "height"):
            if not 0 < entry[name] <= LARGEST:
                self.report(record, f"{name} is {shortened(entry[name])}", "Write the size of the pictures")
                sound = False
        names, length, fps = entry.get("file_names"), entry.get("length"), entry.get("fps")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            self.report(
                record, "file_names is not a list of file names", "Name every frame's file in order, or one video file"
            )
            return None
        for place, file in enumerate(names):
            if fault := path_fault(file):
                self.report(f"{record}, file_names[{place}]", f"{shortened(file)} {fault}", "Correct the name")
                sound = False
        if length is not None and (not is_integer(length) or not 0 < length <= LARGEST):
            self.report(
                record, f"length is {shortened(length)}, expected a positive integer", "Write the number of frames"
            )
            return None
        if fps is not None and (not is_finite(fps) or fps <= 0):
            self.report(
                record,
                f"fps is {shortened(fps)}, expected a positive number",
                "Write frames per second, or leave it out",
            )
            fps = None
        is_file = len(names) == 1 and Path(names[0]).suffix.lower() in VIDEO_SUFFIXES
        if is_file and length is None:
            self.report(record, f"has the video file {names[0]} but no length", "Write the number of its frames")
            return None
        if not is_file and length not in (None, len(names)):
            self.report(record, f"length is {length} but file_names has {len(names)}", "Make them agree")
            return None
        if not sound:
            return None
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            name = printable(Path(names[0]).stem if is_file else Path(names[0]).parent.name)
        elif fault := name_fault(name):
            self.report(record, f"name {shortened(name)} {fault}", "Give it a shorter, plain name")
            return None
        return Video(
            entry["id"],
            name.replace("/", "-") or str(entry["id"]),
            entry["width"],
            entry["height"],
            length or len(names),
            frames_dir / names[0] if is_file else tuple(frames_dir / name for name in names),
            fps=fps,
        )

    def tracks(
        self, root: dict[str, Any], categories: dict[int, Category], videos: dict[int, Video]
    ) -> dict[int, list[Track]]:
        # One fault, one problem: references to a broken record are fine, and all are (None) where an id is unreadable.
        declared: dict[str, dict[int, None] | None] = {}
        for name in ("videos", "categories"):
            entries = root.get(name)
            ids = (
                [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
                if isinstance(entries, list)
                else [None]
            )
            declared[name] = dict.fromkeys(ids) if all(map(is_integer, ids)) else None
        tracks: dict[int, list[Track]] = {}
        seen: dict[int, None] = {}
        for place, entry in self.entries(root, "annotations", needed=False):
            fields = self.fields(place, entry, ("id", "video_id", "category_id"))
            if fields is None or not self.unique(fields["id"], seen, place, "annotation"):
                continue
            seen[entry["id"]] = None
            record = f"annotation {entry['id']}"
            known = self.known(record, fields, declared["videos"], declared["categories"])
            video = videos.get(entry["video_id"])
            if video is None:
                continue
            segmentations = self.per_frame(record, "segmentations", entry, video.length)
            areas = self.per_frame(record, "areas", entry, video.length)
            occlusion = self.per_frame(record, "occlusion", entry, video.length)
            boxes_T4 = self.boxes(record, entry, video, segmentations)
            for name in ("width", "height", "length"):
                if entry.get(name) not in (None, getattr(video, name)):
                    self.report(
                        record,
                        f"{name} is {shortened(entry[name])}, but video {video.id} has {getattr(video, name)}",
                        "Make them agree, or leave it out of the annotation",
                    )
            if entry.get("iscrowd", 0) not in (0, 1):
                self.report(record, f"iscrowd is {shortened(entry['iscrowd'])}, expected 0 or 1", "Write 0 or 1")
            if known and entry["category_id"] in categories:
                track = Track(
                    entry["id"],
                    entry["category_id"],
                    boxes_T4,
                    None if segmentations is None else tuple(segmentations),
                    None if areas is None else tuple(areas),
                    bool(entry["iscrowd"]) if "iscrowd" in entry else None,
                    None if occlusion is None else tuple(occlusion),
                )
                tracks.setdefault(video.id, []).append(track)
        return tracks

    def boxes(self, record: str, entry: dict[str, Any], video: Video, segmentations: list[Any] | None) -> np.ndarray:
        """float32 ``[T, 4]`` xyxy of an annotation's or a result's ``bboxes``; zeros where there is no sound box."""
        boxes_T4 = np.zeros((video.length, 4), np.float32)
        if entry.get("bboxes") is None:
            if segmentations is None:
                self.report(record, "has no bboxes", "Write [x, y, width, height] or null per frame")
            elif not self.boxes_from_masks:
                self.report(
                    record, "has masks but no bboxes", "Write bboxes, or take the boxes of the masks: FILE@boxes=masks"
                )
            else:
                for t, segmentation in enumerate(segmentations):
                    boxes_T4[t] = self.box_of_mask(f"{record}, frame {t}", segmentation, video)
            return boxes_T4
        for t, box in enumerate(self.per_frame(record, "bboxes", entry, video.length) or ()):
            if box is not None:
                boxes_T4[t] = self.box(f"{record}, frame {t}", box, video)
        return boxes_T4

    def box_of_mask(self, record: str, segmentation: Any, video: Video) -> np.ndarray:
        try:
            return mask_box(decode_mask(segmentation, video.height, video.width, file=self.file, record=record))
        except DataError as error:
            self.problems += error.problems
            return np.zeros(4, np.float32)

    def box(self, record: str, box: Any, video: Video) -> tuple[float, float, float, float]:
        absent = (0.0, 0.0, 0.0, 0.0)
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            self.report(record, f"the box is {shortened(box)}", "Write [x, y, width, height] in pixels, or null")
            return absent
        x, y, w, h = box
        if not all(map(is_finite, box)):
            self.report(
                record, f"the box {shortened(box)} is not finite", "Write numbers, or null where the object is absent"
            )
            return absent
        if self.forgiving and (w <= 0 or h <= 0):
            self.forgiven["boxes without size, taken as absent"] += 1
            return absent
        if w <= 0 or h <= 0:
            self.report(record, f"the box {shortened(box)} has no size", "Write null where the object is absent")
            return absent
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, video.width), min(y + h, video.height)
        outside = max(x1 - x, y1 - y, x + w - x2, y + h - y2) > ROUNDING or x2 <= x1 or y2 <= y1
        if outside and self.forgiving:
            self.forgiven["boxes that reached outside their picture, clipped to it"] += 1
        elif outside:
            self.report(
                record,
                f"the box {shortened(box)} reaches outside the picture, {video.width} x {video.height}",
                "Clip it to the picture (boxes are [x, y, width, height])",
            )
        return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else absent

    def entries(self, root: dict[str, Any], name: str, needed: bool) -> Iterator[tuple[str, Any]]:
        entries = root.get(name)
        if entries is None:
            if needed:
                self.report("top level", f"has no {name!r}", f"Add the list {name!r}")
            return
        if not isinstance(entries, list):
            self.report(
                "top level", f"{name!r} is {kind_of(entries)}, expected a list", f"Make {name!r} a list of objects"
            )
            return
        for place, entry in enumerate(entries):
            yield f"{name}[{place}]", entry

    def fields(self, record: str, entry: Any, names: Sequence[str]) -> dict[str, int] | None:
        """The integers that a record must have; None, reported, unless it has them all."""
        if not isinstance(entry, dict):
            self.report(record, f"is {kind_of(entry)}, expected an object", "Write an object with its keys")
            return None
        sound = True
        for name in names:
            if name not in entry:
                self.report(record, f"has no {name!r}", "Add it")
                sound = False
            elif not is_integer(entry[name]):
                self.report(record, f"{name} is {shortened(entry[name])}, expected an integer", "Write an integer")
                sound = False
        return {name: entry[name] for name in names} if sound else None

    def unique(self, number: int, seen: dict[int, Any], record: str, noun: str) -> bool:
        if number in seen:
            self.report(record, f"{noun} id {number} is a duplicate", "Give each one an id of its own")
        return number not in seen

    def known(
        self,
        record: str,
        fields: dict[str, int],
        videos: Collection[int] | None,
        categories: Collection[int] | None,
        owner: Literal["video", "image"] = "video",
    ) -> bool:
        number = fields[f"{owner}_id"]
        known_video = videos is None or number in videos
        known_category = categories is None or fields["category_id"] in categories
        if not known_video:
            self.report(record, f"{owner} {number} is unknown", f"Add it to '{owner}s', or correct {owner}_id")
        if not known_category:
            shown = ", ".join(str(number) for number in list(categories)[:10]) or "none"
            self.report(
                record,
                f"category {fields['category_id']} is unknown, known are {shown}",
                "Add it to 'categories', or correct category_id",
            )
        return known_video and known_category

    def per_frame(self, record: str, name: str, entry: dict[str, Any], length: int) -> list[Any] | None:
        values = entry.get(name)
        if values is None:
            return None
        if not isinstance(values, list):
            self.report(record, f"{name} is {kind_of(values)}, expected a list", "Write one entry or null per frame")
            return None
        if len(values) != length:
            self.report(
                record,
                f"{name} has {len(values)} entries, the video {length} frames",
                "Write one entry or null per frame",
            )
            return None
        return values
