"""YouTube-VIS layout: one JSON of videos, annotations (a track each) and categories, with images next to it.

    {"videos":      [{"id", "width", "height", "file_names": [T paths], "length"?: T, "fps"?, "name"?}],
     "annotations": [{"id", "video_id", "category_id", "bboxes": [T of [x, y, w, h] or null],
                      "segmentations"?: [T of mask or null], "areas"?, "iscrowd"?, "occlusion"?}],
     "categories":  [{"id", "name"}]}

Training only needs boxes. Masks are kept as they are, and decoded by `decode_mask` when needed. ``annotations`` may be
missing or null. Beyond YouTube-VIS, ``file_names`` may contain the name of one video file. Such a video must have a
``length``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from mfvis.data.images import is_image
from mfvis.data.jsonfile import LARGEST, as_integer, is_finite, read_object
from mfvis.data.records import RecordReader
from mfvis.errors import DataError, Problem
from mfvis.text import name_fault, path_fault, printable, shortened, unique_names
from mfvis.types import Category, Track, Video, VideoDataset


def load_dataset(
    json_path: str | Path,
    frames_dir: str | Path | None = None,
    *,
    boxes_from_masks: bool = False,
    lenient: bool = False,
) -> VideoDataset:
    """Read a YouTube-VIS JSON file without reading images or masks.

    Repairs are made where possible, and `VideoDataset.notes` counts them: boxes without area count as absent, boxes
    that exceed the image are clipped, and copies of a video's fields in its annotations are ignored.

    Args:
        json_path: the file.
        frames_dir: the folder that ``file_names`` are relative to; default `default_frames_dir`.
        boxes_from_masks: give the annotations that have masks but no ``bboxes`` the boxes of their masks.
        lenient: also repair probable mistakes, such as a file in which most boxes exceed the image. For published
            files, which users cannot fix.

    Raises:
        DataError: with every problem of the file, not only the first.
    """
    dataset, problems = parse_ytvis(json_path, frames_dir, boxes_from_masks=boxes_from_masks, lenient=lenient)
    if problems:
        raise DataError(problems)
    return dataset


def parse_ytvis(
    json_path: str | Path,
    frames_dir: str | Path | None = None,
    *,
    boxes_from_masks: bool = False,
    lenient: bool = False,
    root: dict[str, Any] | None = None,
) -> tuple[VideoDataset, list[Problem]]:
    """The valid part of a YouTube-VIS file, and its problems. The arguments are those of `load_dataset`.

    root: the content of the file, if already read.
    """
    path = Path(json_path)
    reader = _YtvisReader(str(path), boxes_from_masks, lenient)
    root = read_object(path, reader.problems) if root is None else root
    if root is not None and _is_coco_video(root):
        reader.report("file", "is COCO-VID, whose images name their videos", "Make it YouTube-VIS: mfvis data import")
        root = None
    elif root is not None and "images" in root and "videos" not in root:
        reader.report("file", "is COCO, with images and no videos", "Give a YouTube-VIS JSON")
        root = None
    if root is None:
        return VideoDataset(path, (), ()), reader.problems
    if frames_dir is None:
        frames_dir = default_frames_dir(path)
    elif not Path(frames_dir).is_dir():
        reader.report("frames folder", f"{frames_dir} is not a folder", "Name the folder that file_names start from")
    categories = reader.categories(root)
    videos = reader.videos(root, Path(frames_dir))
    tracks = reader.tracks(root, categories, videos)
    reader.finish()
    names = unique_names([video.name for video in videos.values()], list(videos))
    return VideoDataset(
        path,
        tuple(sorted(categories.values(), key=lambda category: category.id)),
        tuple(
            replace(video, name=name, tracks=tuple(tracks.get(video.id, ())))
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


def file_name(json_path: str | Path, frame: Path) -> str:
    """Name of a frame or video file in a YouTube-VIS JSON: its path relative to the folder of file names.

    Symbolic links among the folders are resolved, since ".." after one would lead elsewhere.
    """
    folder = os.path.relpath(frame.parent.resolve(), default_frames_dir(Path(json_path)).resolve())
    return (Path(folder) / frame.name).as_posix()


def moved_record(entry: dict[str, Any], video: Video, json_path: str | Path) -> dict[str, Any]:
    """Record of a video for the YouTube-VIS JSON at `json_path`, with file names relative to that JSON's frame folder.

    Absolute names stay unchanged. A video without a name gets the name derived from its file names.
    """
    frames = (video.frames,) if isinstance(video.frames, Path) else video.frames
    names = [
        name if Path(name).is_absolute() else file_name(json_path, frame)
        for name, frame in zip(entry["file_names"], frames, strict=True)
    ]
    return entry | {"file_names": names, "name": entry.get("name") or video_name(entry, entry["file_names"])}


def default_frames_dir(json_path: Path) -> Path:
    """Default folder of the file names of a YouTube-VIS JSON.

    ``JPEGImages`` next to it, or that of the split in YouTube-VIS 2019 (``train/JPEGImages`` next to ``train.json``),
    or else the folder of the JSON.
    """
    folders = (json_path.parent / "JPEGImages", json_path.parent / json_path.stem / "JPEGImages")
    return next(filter(Path.is_dir, folders), json_path.parent)


@dataclass
class _YtvisReader(RecordReader):
    """Reader of the videos and tracks of a YouTube-VIS JSON."""

    def videos(self, root: dict[str, Any], frames_dir: Path) -> dict[int, Video]:
        videos: dict[int, Video] = {}
        for record, entry in self.entries(root, "videos", needed=True):
            fields = self.fields(record, entry, ("id", "width", "height"))
            if fields is None or not self.unique(fields["id"], videos, record, "video"):
                continue
            video = self.video(f"video {fields['id']}", fields, entry, frames_dir)
            if video is not None:
                videos[video.id] = video
        return videos

    def video(self, record: str, fields: dict[str, int], entry: dict[str, Any], frames_dir: Path) -> Video | None:
        """A video with known ``id``, ``width`` and ``height``."""
        valid = self.sized(record, fields)
        names, length, fps = entry.get("file_names"), as_integer(entry.get("length")), entry.get("fps")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            self.report(
                record, "file_names is not a list of file names", "Name every frame's file in order, or one video file"
            )
            return None
        for index, file in enumerate(names):
            if fault := path_fault(file):
                self.report(f"{record}, file_names[{index}]", f"{shortened(file)} {fault}", "Correct the name")
                valid = False
        if entry.get("length") is not None and (length is None or not 0 < length <= LARGEST):
            problem = f"length is {shortened(entry['length'])}, expected a positive integer"
            self.report(record, problem, "Write the number of frames")
            return None
        if fps is not None and (not is_finite(fps) or fps <= 0):
            self.note("videos whose fps is not a positive number, which is not used")
            fps = None
        names = self.file_names(names, frames_dir) if valid else names
        is_film = len(names) == 1 and not is_image(names[0])
        if is_film and length is None:
            self.report(record, f"has the video file {names[0]} but no length", "Write the number of its frames")
            return None
        if not is_film and length not in (None, len(names)):
            self.report(record, f"length is {length} but file_names has {len(names)}", "Make them agree")
            return None
        name = video_name(entry, names)
        if fault := name_fault(name):
            self.report(record, f"name {shortened(name)} {fault}", "Give it a shorter, plain name")
            valid = False
        if not valid:
            return None
        return Video(
            fields["id"],
            name.replace("/", "-") or str(fields["id"]),
            fields["width"],
            fields["height"],
            length or len(names),
            frames_dir / names[0] if is_film else tuple(frames_dir / name for name in names),
            fps=fps,
        )

    def file_names(self, names: list[str], frames_dir: Path) -> list[str]:
        """File names of a video. Windows separators are replaced by slashes."""
        if not any("\\" in name for name in names) or (frames_dir / names[0]).exists():
            return names
        self.note("videos whose file names have backslashes, read as folders")
        return [PureWindowsPath(name).as_posix() for name in names]

    def tracks(
        self, root: dict[str, Any], categories: dict[int, Category], videos: dict[int, Video]
    ) -> dict[int, list[Track]]:
        declared = [self.declared(root, name) for name in ("videos", "categories")]
        tracks: dict[int, list[Track]] = {}
        seen: dict[int, None] = {}
        for record, entry in self.entries(root, "annotations", needed=False):
            fields = self.fields(record, entry, ("id", "video_id", "category_id"))
            if fields is None or not self.unique(fields["id"], seen, record, "annotation"):
                continue
            seen[fields["id"]] = None
            record = f"annotation {fields['id']}"
            known = self.known(record, fields, *declared)
            video = videos.get(fields["video_id"])
            if video is None:
                continue
            track = self.track(record, fields, entry, video)
            if known and fields["category_id"] in categories:
                tracks.setdefault(video.id, []).append(track)
        return tracks

    def track(self, record: str, fields: dict[str, int], entry: dict[str, Any], video: Video) -> Track:
        """Track of an annotation of this video."""
        segmentations, areas, occlusion = (
            self.per_frame(record, name, entry, video.length) for name in ("segmentations", "areas", "occlusion")
        )
        boxes_T4 = self.boxes(record, entry, video, segmentations)
        for name in ("width", "height", "length"):
            # the annotations of YouTube-VIS 2019 all have length 1, whatever their video
            if entry.get(name) is not None and as_integer(entry[name]) != getattr(video, name):
                self.note(f"annotations whose {name} is not that of their video, which counts")
        self.note_id(fields["id"])
        return Track(
            fields["id"],
            fields["category_id"],
            boxes_T4,
            None if segmentations is None else tuple(segmentations),
            None if areas is None else tuple(areas),
            self.crowd(record, entry),
            None if occlusion is None else tuple(occlusion),
        )


def video_name(entry: dict[str, Any], file_names: list[str]) -> str:
    """Name of a video: from its record, else from its video file or the folder of its frames."""
    name = entry.get("name")
    if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
        return str(name)
    path = Path(file_names[0])
    return printable(path.parent.name if len(file_names) > 1 or is_image(path) else path.stem)
