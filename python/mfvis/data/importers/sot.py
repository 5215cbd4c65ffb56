"""The only track of a single-object tracking sequence: ``groundtruth.txt`` of LaSOT, GOT-10k, OTB, VOT."""

from __future__ import annotations

import re
from pathlib import PurePath

from mfvis.data.importers.boxes import Box, BoxVideo, number_in
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import fields_of
from mfvis.text import counted

ABSENT = ("full_occlusion.txt", "out_of_view.txt", "absence.label")
"""Files of LaSOT and GOT-10k next to the text, with a flag per frame in which the object is not visible."""
NO_NUMBER = frozenset({"nan", "-nan", "inf"})
"""Values for an absent object in UAV123 and others."""


def sniff_sot(source: ImportedFile) -> bool:
    """True if the first line is a box of four numbers, or, in a ``groundtruth.txt``, a polygon of eight."""
    if not source.is_text or not source.lines:
        return False
    fields = fields_of(source.lines[0][1])
    valid = all(field.lower() in NO_NUMBER or number_in(field) is not None for field in fields)
    return valid and (len(fields) == 4 or len(fields) == 8 and source.file.stem.startswith("groundtruth"))


def read_sot(source: ImportedFile) -> list[BoxVideo]:
    """Read ``left,top,width,height`` per line and frame, or the corners of a polygon, which becomes its bounding box.

    The object is absent in a frame if its box has no area or contains nan, or if a file next to the text marks it as
    absent or fully hidden. Pixels count from 1, as in LaSOT and GOT-10k, unless a box begins at 0. The class is read
    from GOT-10k's ``meta_info.ini`` or LaSOT's folder name, else --categories names it.
    """
    path = PurePath(source.unpacked_from or source.file.absolute())
    in_folder = path.stem.startswith("groundtruth")
    name = path.parent.name.removesuffix(".zip") if in_folder else path.stem
    video = source.video("file", name)
    if video is None:
        return []
    if len(source.lines) != video.length:
        problem = f"has {counted(len(source.lines), 'line')}, the video {counted(video.length, 'frame')}"
        source.report("file", problem, "Give the frames of this sequence with --frames")
        return []
    boxes = [_box(source, record, line) for record, line in source.lines]
    absent = _absent_frames(source, video.length) if in_folder else frozenset()
    category = _category(source, name) or source.only_category("line 1")
    corner = min((min(box[:2]) for box in boxes if box is not None), default=1.0)
    origin = source.pixel_origin(0 if 0 <= corner < 1 else 1)
    result = BoxVideo(video)
    for t, box in enumerate(boxes):
        if box is not None and t not in absent and category is not None:
            shifted = tuple(corner - origin for corner in box)
            source.put(source.lines[t][0], result, "1", category, t, shifted)
    return [result]


def _box(source: ImportedFile, record: str, line: str) -> Box | None:
    """Box of a line. None if the object is absent or, with a report, if the line is invalid."""
    fields = fields_of(line)
    if any(field.lower() in NO_NUMBER for field in fields):
        return None
    numbers = [number_in(field) for field in fields]
    if len(fields) not in (4, 8) or None in numbers:
        return source.report(record, f"{line[:60]!r} is not left, top, width, height", "Write four numbers")
    if len(fields) == 8:
        xs, ys = numbers[::2], numbers[1::2]
        box = (min(xs), min(ys), max(xs), max(ys))
    else:
        left, top, width, height = numbers
        box = (left, top, left + width, top + height)
    return box if box[2] > box[0] and box[3] > box[1] else None


def _absent_frames(source: ImportedFile, length: int) -> frozenset[int]:
    """Frames marked by the files next to the text."""
    frames: set[int] = set()
    for path in (source.file.with_name(name) for name in ABSENT):
        if not path.is_file():
            continue
        flags = re.split(r"[,\s]+", path.read_text(encoding="utf-8-sig", errors="replace").strip())
        if len(flags) != length or not {*flags} <= {"0", "1"}:
            source.report(
                path.name,
                f"has {counted(len(flags), 'value')} for {counted(length, 'frame')}",
                "Write 0 or 1 for each frame",
            )
        frames |= {t for t, flag in enumerate(flags) if flag == "1"}
    return frozenset(frames)


def _category(source: ImportedFile, name: str) -> str | None:
    """Class of the object: from a file in GOT-10k, from the folder's name in LaSOT, else None."""
    information = source.file.with_name("meta_info.ini")
    if information.is_file():
        text = information.read_text(encoding="utf-8-sig", errors="replace")
        match = re.search(r"^object_class\s*[:=]\s*(.+?)\s*$", text, re.MULTILINE)
        return match[1] if match else None
    if source.file.with_name("full_occlusion.txt").is_file():
        match = re.fullmatch(r"(.+)-\d+", name)
        return match[1] if match else None
    return None


SOT = Importer("sot", sniff_sot, read_sot, options=frozenset({"first_pixel"}))
