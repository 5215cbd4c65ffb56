"""Tracks as written by YOLO's trackers: a text file for every frame."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mfvis.data.importers.boxes import Box, BoxVideo, number_in, whole_number_in
from mfvis.data.importers.class_names import name_classes, read_names_near
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.types import Video

NAME_FILES = ("classes.txt", "data.yaml", "dataset.yaml", "obj.names")
"""Files that name the classes, in the folder of the text files or up to two folders above."""
OTHER_TEXTS = frozenset({"classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt"})


class _Line(NamedTuple):
    record: str
    number: int
    """Class number."""
    track_id: str
    box: Box
    """Box in fractions of the image."""


def sniff_yolo(source: ImportedFile) -> bool:
    """True for a folder of text files, the first of which is empty or begins with a class and four fractions."""
    folder = _label_folder(source.file)
    if folder is None:
        return False
    lines = replace(source, file=_texts_in(folder)[0], problems=[]).lines
    fields = [number_in(word) for word in lines[0][1].split()] if lines else []
    shares = fields[1:5]
    return not lines or len(fields) > 4 and None not in shares and all(0 <= share <= 1 for share in shares)


def read_yolo(source: ImportedFile) -> list[BoxVideo]:
    """Read a folder with a text file per frame and a line per box: ``class x y width height[ conf] id``.

    Boxes are fractions of the image, and x, y are the center. A line may have the corners of an outline instead, which
    becomes its bounding box. Ultralytics' ``track`` writes this with ``save_txt``. Lines without an id are left out. A
    text file has the name of its image, or its name ends with the frame index, from 0 on if there is a frame 0, else
    from 1 on. Different names before that index are different videos. ``classes.txt``, ``data.yaml`` or --class-names
    name the classes. Without them, --categories names the only class.
    """
    folder = _label_folder(source.file)
    if folder is None:
        source.report("file", "is not a folder of YOLO's texts", "Give the folder of the texts, such as labels")
        return []
    texts = _texts_in(folder)
    words = {path: [(where, line.split()) for where, line in replace(source, file=path).lines] for path in texts}
    has_conf = _has_conf([fields for lines in words.values() for _, fields in lines])
    lines: dict[Path, list[_Line]] = defaultdict(list)
    for path, members in words.items():
        for where, fields in members:
            line = _line(source, f"{path.name}, {where}", fields, has_conf)
            lines[path] += [] if line is None else [line]
    name_files = [path / name for path in _near(folder, source) for name in NAME_FILES if (path / name).is_file()]
    numbers = {line.number for members in lines.values() for line in members}
    names = name_classes(source, numbers, read_names_near(source, name_files[0]) if name_files else {})
    videos = []
    for video, frames in _videos(source, texts):
        videos.append(BoxVideo(video))
        for t, path in frames:
            for record, number, track_id, (x1, y1, x2, y2) in lines[path] if names else ():
                box = (x1 * video.width, y1 * video.height, x2 * video.width, y2 * video.height)
                source.put(record, videos[-1], track_id, names[number], t, box, by_majority=True)
    return videos


def _label_folder(folder: Path) -> Path | None:
    """Folder of the text files: `folder`, its ``labels``, or their only subfolder with text files. None if there is
    none."""
    outer = folder / "labels" if (folder / "labels").is_dir() else folder
    if not outer.is_dir() or _texts_in(outer):
        return outer if outer.is_dir() else None
    inner = [path for path in sorted(outer.iterdir()) if path.is_dir() and _texts_in(path)]
    return inner[0] if len(inner) == 1 else None


def _near(folder: Path, source: ImportedFile) -> list[Path]:
    """Folders of a data set: that of the text files, and those up to the one that contains ``labels``."""
    above = [folder, *folder.parents[: 2 if folder.parent.name == "labels" else 1]]
    return [path for path in above if not source.unpacked_from or source.file in (path, *path.parents)]


def _texts_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if path.name not in OTHER_TEXTS and path.name[0] != ".")


def _has_conf(lines: Sequence[Sequence[str]]) -> bool:
    """True if a confidence precedes the id. In a line without an id it is then the last value."""
    last = [number_in(fields[-1]) for fields in lines if len(fields) == 6]
    if not all(value is not None and 0 <= value <= 1 for value in last):
        return False
    fractional = sum(value != int(value) for value in last)
    return any(len(fields) == 7 for fields in lines) or 2 * fractional > len(last)


def _line(source: ImportedFile, record: str, fields: list[str], has_conf: bool) -> _Line | None:
    """Class, track and box of a line. None if it has no track or, with a report, if it is invalid."""
    numbers = [number_in(field) for field in fields]
    is_box = len(fields) in (5, 6, 7)
    with_id = len(fields) == 7 or len(fields) == 6 and not has_conf if is_box else len(fields) % 2 == 0
    shares = numbers[1:5] if is_box else numbers[1 : len(fields) - with_id]
    text = " ".join(fields)[:60]
    if len(fields) < 5 or None in numbers[: len(fields) - with_id]:
        source.report(record, f"{text!r} is not class, x, y, width, height, id", "Give the texts of a tracker")
    elif not all(0 <= share <= 1 for share in shares):
        source.report(record, f"{text!r} has no shares of the image", "Divide pixels by its size")
    elif not with_id or (whole_number_in(fields[0]) or 0) < 0 or (whole_number_in(fields[-1]) or 0) < 0:
        source.leave_out("without a track")
    elif whole_number_in(fields[0]) is None or whole_number_in(fields[-1]) is None:
        problem = f"class {fields[0]} and id {fields[-1]} are not both 0, 1, 2, ..."
        source.report(record, problem, "Give tracks, not detections")
    else:
        x, y, width, height = shares[:4]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if not is_box:
            box = (min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2]))
        return _Line(record, whole_number_in(fields[0]), str(whole_number_in(fields[-1])), box)
    return None


def _videos(source: ImportedFile, texts: Sequence[Path]) -> list[tuple[Video, list[tuple[int, Path]]]]:
    """Videos of the text files, with the frame index of each file, from 0. Files without a frame are reported."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in texts:
        groups[_ending(path)[0]].append(path)
    first = source.first_frame
    if first is None:
        first = 0 if any(_ending(path)[1] == 0 for path in texts) else 1
    if not source.is_one_video():
        videos = {name: source.video(f"texts {name}_*", name, several=len(groups) > 1) for name in groups}
        return [(v, _frames(source, v, groups[name], first)) for name, v in videos.items() if v is not None]
    video = source.video("folder", None)
    if video is None:
        return []
    others = [path for path in texts if path.stem not in _images(video)]
    names = sorted({name for name, index in map(_ending, others) if index is not None})
    if len(names) > 1:
        problem = f"has texts of {len(names)} videos: {', '.join(names[:5])}"
        source.report("folder", problem, "Name the folder in which they lie by these names with --frames")
        return []
    return [(video, _frames(source, video, texts, first))]


def _ending(path: Path) -> tuple[str, int | None]:
    """Name of a text file up to the frame index, and that index. None if there is none."""
    match = re.fullmatch(r"(|.*\D)(\d{1,8})", path.stem, re.ASCII)
    return (match[1].rstrip("_-"), int(match[2])) if match else (path.stem, None)


def _images(video: Video) -> dict[str, int]:
    """Frame index of each image, by its name without suffix. Empty for a video file."""
    return {} if isinstance(video.frames, Path) else {path.stem: t for t, path in enumerate(video.frames)}


def _frames(source: ImportedFile, video: Video, texts: Sequence[Path], first: int) -> list[tuple[int, Path]]:
    """Text files with their frame indices, from 0. Files without a frame are reported."""
    images = _images(video)
    frames = []
    for path in texts:
        index = _ending(path)[1]
        t = images.get(path.stem, None if index is None else index - first)
        if t is None:
            source.report(
                path.name, "is not named after an image and does not end in a number", "Name it after its image"
            )
        elif not 0 <= t < video.length:
            source.report_frame(path.name, t + first, first, video.length)
        else:
            frames.append((t, path))
    return frames


YOLO = Importer("yolo", sniff_yolo, read_yolo, reads_folders=True, options=frozenset({"first_frame", "class_names"}))
