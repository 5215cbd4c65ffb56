"""Lines of numbers, one per box, that begin with a frame, a track id and a box: MOTChallenge and similar formats."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

from mfvis.data.importers.boxes import BoxVideo, number_in, whole_number_in
from mfvis.data.importers.source import ImportedFile
from mfvis.types import Video

NO_ID = frozenset({"", "nan", "none", "null", "<na>", "na", "n/a"})
"""Spellings, in any case, of the id of a detection without a track. Negative ids have the same meaning."""


class TrackLine(NamedTuple):
    """One box of one frame."""

    record: str
    frame: int
    track_id: str | None
    """Track id. None for a detection without a track."""
    box: tuple[float, float, float, float]
    """Box as ``left, top, width, height``."""
    rest: tuple[float, ...]
    """Remaining columns."""


def fields_of(line: str) -> list[str]:
    """Columns of a line, separated by commas, semicolons, or blanks. Empty columns at its end are ignored."""
    line = line.rstrip(",; \t")
    separator = next((mark for mark in ",;" if mark in line), None)
    return [field.strip() for field in line.split(separator)]


def track_id_of(text: str) -> str | None:
    """Normalized track id: integers consist of digits only. None for a detection without a track."""
    if text.lower() in NO_ID:
        return None
    number = whole_number_in(text)
    if number is None:
        return text
    return str(number) if number >= 0 else None


def is_number(track_id: str) -> bool:
    """True if a track id is an integer, as written by `track_id_of`."""
    return track_id.isascii() and track_id.isdecimal()


def track_lines(source: ImportedFile, most: int) -> list[TrackLine]:
    """Lines of 6 to `most` columns. Lines of other lengths and fields that are not numbers are reported."""
    lines = []
    for record, line in source.lines:
        fields = fields_of(line)
        frame = whole_number_in(fields[0])
        track_id = track_id_of(fields[1]) if len(fields) > 1 else None
        numbers = [number_in(field) for field in fields[2:]]
        if not 6 <= len(fields) <= most or None in numbers or number_in(fields[0]) is None:
            problem = f"{line[:60]!r} is not 6 to {most} numbers"
            source.report(record, problem, "Write frame, id, left, top, width, height")
        elif frame is None or track_id is not None and not is_number(track_id):
            source.report(record, f"frame {fields[0]} and id {fields[1]} are not whole", "Write whole numbers")
        else:
            lines.append(TrackLine(record, frame, track_id, tuple(numbers[:4]), tuple(numbers[4:])))
    return lines


def put_lines(
    source: ImportedFile,
    video: Video,
    lines: Sequence[TrackLine],
    category_of: Callable[[TrackLine], str | None],
    *,
    first_pixel: int,
    by_majority: bool = False,
) -> BoxVideo:
    """Add the tracks of the lines, with frames from 1 on. Boxes without a track are left out, invalid frames are
    reported."""
    result = BoxVideo(video)
    first = 1 if source.first_frame is None else source.first_frame
    for line in lines:
        left, top, width, height = line.box
        if not first <= line.frame < first + video.length:
            source.report_frame(line.record, line.frame, first, video.length)
        elif line.track_id is None:
            source.leave_out("without a track")
        elif (category := category_of(line)) is not None:
            x, y = left - first_pixel, top - first_pixel
            box = (x, y, x + width, y + height)
            frame = line.frame - first
            source.put(line.record, result, line.track_id, category, frame, box, by_majority=by_majority)
    return result


def sequence_video(source: ImportedFile) -> Video | None:
    """Video of a text, which has its name or lies in ``VIDEO/gt``, with the frame rate of ``seqinfo.ini``."""
    path = PurePath(source.unpacked_from or source.file.absolute())
    name = path.stem
    if path.stem in ("gt", "det"):
        folder = path.parent.parent if path.parent.name in ("gt", "det") else path.parent
        name = folder.name.removesuffix(".zip")
    video = source.video("file", re.sub("_gt(_whole)?$", "", name))
    candidates = [folder / "seqinfo.ini" for folder in (source.file.parent, source.file.parent.parent)]
    information = next((path for path in candidates if path.is_file()), None) if path.stem in ("gt", "det") else None
    return video if video is None or information is None else _checked(video, information, source)


def _checked(video: Video, information: Path, source: ImportedFile) -> Video | None:
    """The video with its frame rate. None, with a report, if its size or length differs from ``seqinfo.ini``."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(information, encoding="utf-8-sig")
        said = {key: number_in(value.strip()) for section in parser.values() for key, value in section.items()}
    except (configparser.Error, UnicodeDecodeError) as error:
        source.report("seqinfo.ini", f"cannot be read ({error})", "Correct it, or remove it")
        return None
    for key, value in (("imwidth", video.width), ("imheight", video.height), ("seqlength", video.length)):
        if said.get(key) is not None and said[key] != value:
            problem = f"{key} is {said[key]:g}, that of the frames {value}"
            source.report("seqinfo.ini", problem, "Give the frames that were annotated with --frames")
            return None
    rate = said.get("framerate")
    return replace(video, fps=rate) if rate and rate > 0 else video
