"""Tracks as YOLO's trackers write them: a text for every frame."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mfvis.data.importers.boxes import Box, BoxVideo, number_in
from mfvis.data.importers.class_names import class_names
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.types import Video

CLASS_FILE = "classes.txt"


def sniff_yolo(source: ImportedFile) -> bool:
    """Whether it is a folder of texts."""
    return source.file.is_dir() and any(source.file.glob("[!.]*.txt")) and not any(source.file.glob("[!.]*.json"))


def read_yolo(source: ImportedFile) -> list[BoxVideo]:
    """A folder with a text per frame, a line per box: ``class x y width height[ conf] id``, as shares of the picture.

    x, y are the centre. Ultralytics' ``track`` writes this with ``save_txt``. A text is called as its picture, or its
    name ends in ``_`` and the number of the frame, from 1 on. ``classes.txt`` there names the classes, one per line;
    without it --categories names the one class.
    """
    if not source.file.is_dir():
        source.report("file", "is no folder", "Give the folder of the texts, such as labels")
        return []
    video = source.video("folder", None)
    if video is None:
        return []
    names = class_names(source.file / CLASS_FILE, source) if (source.file / CLASS_FILE).is_file() else ()
    result, numbers = BoxVideo(video), set()
    for t, path in _texts(video, source):
        text = replace(source, file=path)
        for where, line in text.lines:
            record = f"{path.name}, {where}"
            told = _told(record, line, source)
            if told is None:
                continue
            number, track, (x1, y1, x2, y2) = told
            numbers.add(number)
            if names and number >= len(names):
                source.report(record, f"class {number} is not 0 to {len(names) - 1}", f"Name it in {CLASS_FILE}")
                continue
            category = names[number] if names else source.only_category(record)
            if category is not None:
                box = (x1 * video.width, y1 * video.height, x2 * video.width, y2 * video.height)
                source.put(record, result, str(track), category, t, box)
    if not names and len(numbers) > 1:
        problem = f"has classes {', '.join(map(str, sorted(numbers)))} without names"
        source.report("folder", problem, f"Name all classes from 0 on in {CLASS_FILE}, one per line")
    return [result]


def _texts(video: Video, source: ImportedFile) -> list[tuple[int, Path]]:
    """The texts with the frame of each, counted from 0; those of no frame are reported."""
    pictures = {} if isinstance(video.frames, Path) else {path.stem: t for t, path in enumerate(video.frames)}
    first = 1 if source.first_frame is None else source.first_frame
    texts = []
    for path in sorted(source.file.glob("[!.]*.txt")):
        ending = re.search(r"_(\d{1,8})$", path.stem, re.ASCII)
        t = pictures.get(path.stem, int(ending[1]) - first if ending else None)
        if path.name == CLASS_FILE:
            continue
        if t is None:
            source.report(path.name, "is called as no picture, and ends in no number", "Name it after its picture")
        elif not 0 <= t < video.length:
            source.report_frame(path.name, t + first, first, video.length)
        else:
            texts.append((t, path))
    return texts


def _told(record: str, line: str, source: ImportedFile) -> tuple[int, int, Box] | None:
    """Class, track and box (in shares of the picture) of a line; None, reported, where it is not sound."""
    fields = [number_in(field) for field in line.split()]
    if len(fields) not in (6, 7) or None in fields:
        problem = f"{line[:60]!r} is not class, x, y, width, height, id"
        source.report(record, problem, "Give boxes with the ids of their tracks, not detections or outlines")
        return None
    kind, x, y, width, height, *_, track = fields
    if kind != int(kind) or kind < 0 or track != int(track) or track < 0:
        problem = f"class {kind:g} and id {track:g} are not both 0, 1, 2, ..."
        source.report(record, problem, "Give tracks, not detections")
        return None
    if not all(0 <= share <= 1 for share in (x, y, width, height)) or 0 in (width, height):
        source.report(record, f"{line[:60]!r} has no shares of the picture", "Divide pixels by its size")
        return None
    return int(kind), int(track), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


YOLO = Importer("yolo", sniff_yolo, read_yolo, frozenset({"first_frame"}))
