"""Tracks as a table with named columns: CSV and JSON rows from trackers and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mfvis.data.importers.boxes import Box, BoxVideo, number_in, whole_number_in
from mfvis.data.importers.class_names import name_classes
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.table_rows import (
    KINDS_OF_CLASS,
    KINDS_OF_VIDEO,
    Rows,
    header_of,
    indices_of,
    looks_like,
    rows_of_csv,
    rows_of_records,
    table_text,
)
from mfvis.data.importers.track_lines import track_id_of

YES, NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})
ENDS = (("right", "bottom"), ("width", "height"))
CLASS_COLUMNS = ("class name", "class", "class number")
STARTS = (("left", "top"), ("center x", "center y"))


class _Row(NamedTuple):
    record: str
    fields: dict[str, str]
    frame: int | str
    """Frame index, or name of the image."""
    box: Box


def sniff_csv(source: ImportedFile) -> bool:
    """True if the first line, or the first of a list of objects, names columns for a frame and a box."""
    if source.is_text:
        columns = indices_of(header_of(table_text(source).lstrip().partition("\n")[0])[1])
        return "frame" in columns and len(columns) > 2 or {"image", "left", "top"} <= columns.keys()
    records = source.root if isinstance(source.root, list) else []
    first = records[0] if records and isinstance(records[0], dict) else {}
    columns = indices_of(tuple(first))
    return columns.keys() >= {"id", "left", "top"} and bool({"frame", "image"} & columns.keys())


def read_csv(source: ImportedFile) -> list[BoxVideo]:
    """Read a table with a header row, then a row per box: ``frame,id,x,y,w,h,class`` or ``x1,y1,x2,y2``, in any order.

    x, y are the top left corner, in pixels from 0 on (cx, cy the center). A frame is given by its index or by the name
    of its image. Indices count from 0 if there is a frame 0, from 1 if the largest equals the video's length, else
    --first-frame is required. A column video distinguishes several videos. Numbered classes (class_id) need
    --class-names. Without classes, --categories names the only class. Boxes without a track, or marked as hidden, are
    left out.
    """
    table = rows_of_records(source.root) if isinstance(source.root, list) else rows_of_csv(source)
    if table is None or not _is_unambiguous(source, table):
        return []
    names = _category_names(source, table)
    rows = [row for record, fields in table.rows if (row := _row(source, table, record, fields)) is not None]
    videos = _videos(source, table)
    if not videos:
        return []
    first = _first_frame(source, rows, videos)
    if first is None:
        return []
    column = _category_column(table)
    images = {id(video): _images(video) for video in videos.values()}
    for row in rows:
        video = videos.get(_video_name(row.fields)) if len(videos) > 1 else next(iter(videos.values()))
        if video is None:
            source.report(row.record, "names no video", "Name the video of each row, or of none")
            continue
        value = row.fields.get(column, "") if column else ""
        if not value and column:
            source.leave_out("without a class")
            continue
        category = names.get(value) if column else source.only_category(row.record)
        frame = _frame_index(source, row, video, first, images[id(video)])
        if frame is not None and category is not None:
            source.put(row.record, video, row.fields["id"], category, frame, row.box, by_majority=True)
    return list(videos.values())


def _is_unambiguous(source: ImportedFile, table: Rows) -> bool:
    """True if the columns are complete and consistent. Missing and ambiguous columns are reported."""
    have = table.indices.keys()
    start = next((pair for pair in STARTS if set(pair) <= have), None)
    missing = [name for name in ("frame", "id") if name not in have and not (name == "frame" and "image" in have)]
    missing += [] if start else [name for name in STARTS[0] if name not in have]
    if not any(set(pair) <= have for pair in ENDS[1 if start == STARTS[1] else 0 :]):
        missing += [name for name in ENDS[1] if name not in have]
    if missing:
        header = ",".join(table.header)
        source.report("line 1", f"{header[:60]!r} names no {missing[0]}", "Name the columns frame,id,x,y,w,h,class")
        return False
    turned = any(number_in(value) != 0 for value in table.values("rotation"))
    if turned:
        problem = f"has turned boxes (column {table.header[table.indices['rotation']]})"
        source.report("line 1", problem, "Write the upright boxes around them, and remove the column")
    suspects = [] if "video" in have else looks_like(table, KINDS_OF_VIDEO)
    if suspects:
        problem = f"the column {suspects[0]} may distinguish several videos"
        source.report("line 1", problem, "Call it video if it does, else remove it")
    named = [table.header[table.indices["name"]]] if len(table.values("name")) > 1 else []
    suspects = [] if _category_column(table) else named + looks_like(table, KINDS_OF_CLASS)
    if suspects:
        problem = f"the column {suspects[0]} may be the class"
        source.report("line 1", problem, "Call it class if it is, else remove it")
    contradiction = _contradicting_class(table)
    if contradiction:
        problem = f"the columns {contradiction} are different classes"
        source.report("line 1", problem, "Keep the one that is the class, and rename or remove the other")
    return not (turned or suspects or contradiction or source.problems)


def _contradicting_class(table: Rows) -> str | None:
    """Names of two class columns, if the second distinguishes objects that the first does not."""
    class_column = _category_column(table)
    for column in CLASS_COLUMNS if class_column else ():
        pairs = table.pairs(class_column, column)
        if column != class_column and len(pairs) > len({value for value, _ in pairs}):
            return f"{table.header[table.indices[class_column]]} and {table.header[table.indices[column]]}"
    return None


def _category_column(table: Rows) -> str | None:
    """Column of the class, if it has values: a column of names is preferred to one of numbers."""
    columns = [column for column in CLASS_COLUMNS if table.values(column)]
    columns += ["name"] if columns and table.values("name") else []  # Ultralytics calls the class "name"
    return next((column for column in columns if not _all_whole(table.values(column))), next(iter(columns), None))


def _category_names(source: ImportedFile, table: Rows) -> dict[str, str]:
    """Category of each value in the class column."""
    column = _category_column(table)
    values = table.values(column) if column else set()
    if not values or not _all_whole(values):
        return {value: value for value in values}
    numbers = {value: whole_number_in(value) for value in values}
    if column == "class number":
        names = name_classes(source, set(numbers.values()), {})
    else:
        names = {number: str(number) for number in numbers.values()} | dict(source.class_names)
        source.note("classes are named by their numbers; --class-names names them")
    return {value: names[number] for value, number in numbers.items() if number in names}


def _all_whole(values: Iterable[str]) -> bool:
    return all(whole_number_in(value) is not None for value in values)


def _row(source: ImportedFile, table: Rows, record: str, fields: Sequence[str]) -> _Row | None:
    """A row as a box. None if it has no box to import."""
    values = {column: fields[index] for column, index in table.indices.items()}
    track_id = track_id_of(values["id"])
    if values.get("hidden", "").lower() in YES or values.get("visible", "").lower() in NO:
        return source.leave_out("that the file marks as hidden")
    if track_id is None:
        return source.leave_out("without a track")
    starts = STARTS[0] if {*STARTS[0]} <= values.keys() else STARTS[1]
    ends = ENDS[0] if starts == STARTS[0] and {*ENDS[0]} <= values.keys() else ENDS[1]
    x, y, *end = (number_in(values[name]) for name in (*starts, *ends))
    frame = values["frame"] if "frame" in values else values["image"]
    if None in (x, y, *end) or not frame:
        problem = f"{','.join(fields)[:60]!r} lacks a number"
        return source.report(record, problem, "Give each box its frame and its corner and size")
    if number_in(frame) is not None and whole_number_in(frame) is None:
        return source.report(record, f"frame {frame} is not whole", "Write whole numbers")
    width, height = end if ends == ENDS[1] else (end[0] - x, end[1] - y)
    if starts == STARTS[1]:
        x, y = x - width / 2, y - height / 2
    box = (x, y, *end) if ends == ENDS[0] else (x, y, x + width, y + height)
    number = whole_number_in(frame)
    frame = re.split(r"[/\\]", frame)[-1] if number is None else number
    return _Row(record, values | {"id": track_id}, frame, box)


def _video_name(fields: dict[str, str]) -> str:
    return re.split(r"[/\\]", fields.get("video", ""))[-1]


def _videos(source: ImportedFile, table: Rows) -> dict[str, BoxVideo]:
    """Videos of the table by name. Empty, with a report, if frames are missing."""
    names = sorted({re.split(r"[/\\]", value)[-1] for value in table.values("video")})
    if len(names) < 2:
        name = names[0] if names and not source.is_one_video() else Path(source.display_path).stem
        video = source.video("file", name)
        return {} if video is None else {name: BoxVideo(video)}
    if source.is_one_video():
        column = table.header[table.indices["video"]]
        problem = f"has rows of {len(names)} videos (column {column}: {', '.join(names[:5])})"
        source.report("file", problem, "Name the folder in which they lie by these names with --frames")
        return {}
    videos = {name: source.video(f"video {name!r}", name, several=True) for name in names}
    return {name: BoxVideo(video) for name, video in videos.items() if video is not None}


def _first_frame(source: ImportedFile, rows: Sequence[_Row], videos: dict[str, BoxVideo]) -> int | None:
    """Index of the first frame in all videos. None, with a report, if the rows do not determine it."""
    frames = [(_video_name(row.fields), row.frame) for row in rows if isinstance(row.frame, int)]
    longest = max(video.video.length for video in videos.values())
    if len(videos) > 1 and any(name in videos and frame == videos[name].video.length for name, frame in frames):
        frames.append(("", longest))
    return source.first_index([frame for _, frame in frames], longest)


def _images(video: BoxVideo) -> dict[str, int]:
    """Frame index of each image, by its name with and without suffix. Empty for a video file."""
    frames = () if isinstance(video.video.frames, Path) else video.video.frames
    return {path.stem: t for t, path in enumerate(frames)} | {path.name: t for t, path in enumerate(frames)}


def _frame_index(source: ImportedFile, row: _Row, video: BoxVideo, first: int, images: dict[str, int]) -> int | None:
    """Frame index of a row, from 0. None, with a report, if the video does not have that frame."""
    length = video.video.length
    if isinstance(row.frame, int):
        if first <= row.frame < first + length:
            return row.frame - first
        return source.report_frame(row.record, row.frame, first, length)
    index = images.get(row.frame, images.get(Path(row.frame).stem))
    if index is None:
        source.report(row.record, f"no image is called {row.frame!r}", "Name the right frames with --frames")
    return index


CSV = Importer("csv", sniff_csv, read_csv, options=frozenset({"first_frame", "class_names"}))
