"""Tracks as a table with named columns: the CSV that trackers and people's own scripts write."""

from __future__ import annotations

import csv
import io

from mfvis.data.importers.boxes import BoxVideo, number_in
from mfvis.data.importers.source import ImportedFile, Importer

COLUMNS = {
    "frame": ("frame", "frameid", "frameindex", "frameidx", "framenumber"),
    "id": ("id", "trackid", "trackerid", "objectid", "instanceid"),
    "left": ("x", "x1", "xmin", "left", "xtl", "bbleft"),
    "top": ("y", "y1", "ymin", "top", "ytl", "bbtop"),
    "right": ("x2", "xmax", "right", "xbr"),
    "bottom": ("y2", "ymax", "bottom", "ybr"),
    "width": ("w", "width", "bbwidth"),
    "height": ("h", "height", "bbheight"),
    "category": ("class", "classname", "category", "label"),
}
"""What a column may be called, in any case and with any ``_``, ``-``, blank or quotation mark about it."""
NO_ID = ("", "-1", "-1.0", "nan", "None")
"""What trackers and pandas write for a detection that belongs to no track."""
SEPARATORS = ",;\t"


def header_of(text: str) -> tuple[str, dict[str, int]]:
    """The separator of a table, and at which place each of `COLUMNS` stands; without "frame" it is no such table."""
    first = text.partition("\n")[0].strip()
    separator = max(SEPARATORS, key=first.count)
    names = [_plain(name) for name in first.split(separator)]
    places = {}
    for column, spellings in COLUMNS.items():
        found = [names.index(spelling) for spelling in spellings if spelling in names]
        if found:
            places[column] = found[0]
    return separator, places


def sniff_csv(source: ImportedFile) -> bool:
    """Whether the first line names columns, one of them the frame."""
    return source.is_text and "frame" in header_of(source.text or "")[1]


def read_csv(source: ImportedFile) -> list[BoxVideo]:
    """A row of column names, then a row per box: ``frame,id,x,y,w,h,class`` or ``x1,y1,x2,y2``, in any order.

    x, y are the left upper corner, in pixels from 0 on; other columns are passed over. Frames count from 0 if there is
    a frame 0, from 1 if there is one of the video's length, else --first-frame must say. Without a class --categories
    names the one class.
    """
    text = source.text
    if text is None:
        return []
    separator, places = header_of(text)
    ends = ("right", "bottom") if {"right", "bottom"} <= places.keys() else ("width", "height")
    missing = [name for name in ("frame", "id", "left", "top", *ends) if name not in places]
    if missing:
        header = text.partition("\n")[0].strip()
        source.report("line 1", f"{header[:60]!r} names no {missing[0]}", "Name the columns frame,id,x,y,w,h,class")
        return []
    video = source.video("file", source.file.stem)
    if video is None:
        return []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(f"line {reader.line_num}", fields) for fields in reader][1:]
    except csv.Error as error:
        source.report(f"line {reader.line_num}", f"cannot be read ({error})", "Close the quotation marks")
        return []
    rows = []
    for record, fields in lines:
        if not any(field.strip() for field in fields):
            continue
        told = {column: fields[place].strip() for column, place in places.items() if place < len(fields)}
        numbers = [number_in(told.get(name, "")) for name in ("frame", "left", "top", *ends)]
        if None in numbers:
            source.report(record, f"{separator.join(fields)[:60]!r} lacks a number", "Give each box its numbers")
        elif numbers[0] != int(numbers[0]):
            source.report(record, f"frame {numbers[0]:g} is not whole", "Write whole numbers")
        elif told.get("id", "") in NO_ID:
            source.report(record, f"id {told.get('id', '')!r} stands for no object", "Give tracks, not detections")
        else:
            rows.append((record, told, numbers))
    first = _first_frame([int(numbers[0]) for _, _, numbers in rows], video.length, source)
    result = BoxVideo(video)
    for record, told, (frame, left, top, *end) in rows if first is not None else ():
        right, bottom = end if ends[0] == "right" else (left + end[0], top + end[1])
        category = told.get("category") or source.only_category(record)
        if not first <= frame < first + video.length:
            source.report_frame(record, frame, first, video.length)
        elif right <= left or bottom <= top:
            source.report(record, f"the box is {right - left:g} x {bottom - top:g}", "Leave out rows without a box")
        elif category is not None:
            source.put(record, result, told["id"], category, int(frame) - first, (left, top, right, bottom))
    return [result]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "_- '\"")


def _first_frame(frames: list[int], length: int, source: ImportedFile) -> int | None:
    """The number of the first frame, as said or as the rows show it; None, reported, where they do not."""
    if source.first_frame is not None or not frames:
        return source.first_frame or 0
    if 0 in frames or length in frames:
        return 0 if 0 in frames else 1
    problem = f"has frames {min(frames)} to {max(frames)} of {length}, which may count from 0 or from 1"
    source.report("file", problem, "Say --first-frame 0 or --first-frame 1")
    return None


CSV = Importer("csv", sniff_csv, read_csv, frozenset({"first_frame"}))
