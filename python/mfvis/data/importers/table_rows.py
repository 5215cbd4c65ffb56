"""Rows with named columns of a CSV or JSON file, and the meaning of the columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mfvis.data.importers.source import ImportedFile

COLUMNS = {
    "frame": ("frame", "frameid", "frameindex", "frameidx", "framenumber", "framenum", "frameno", "framenr"),
    "image": ("image", "imagename", "imagefile", "imagepath", "filename", "file", "framename", "framefile", "path"),
    "id": ("trackid", "trackerid", "objectid", "instanceid", "targetid", "objid", "trackingid", "tid", "track", "id"),
    "left": ("x0", "x1", "xmin", "left", "xtl", "bbleft", "bboxleft", "boxleft", "bboxx", "xleft", "x"),
    "top": ("y0", "y1", "ymin", "top", "ytl", "bbtop", "bboxtop", "boxtop", "bboxy", "ytop", "y"),
    "right": ("x2", "xmax", "right", "xbr", "bbright", "bboxright", "boxright", "xright"),
    "bottom": ("y2", "ymax", "bottom", "ybr", "bbbottom", "bboxbottom", "boxbottom", "ybottom"),
    "width": ("w", "width", "bbwidth", "bboxwidth", "boxwidth", "bboxw", "bw"),
    "height": ("h", "height", "bbheight", "bboxheight", "boxheight", "bboxh", "bh"),
    "center x": ("cx", "xc", "xcenter", "centerx", "xcenter", "centerx"),
    "center y": ("cy", "yc", "ycenter", "centery", "ycenter", "centery"),
    "class name": ("classname", "categoryname", "labelname", "objectclass", "objecttype", "objectcategory"),
    "class": ("class", "category", "label", "species"),
    "name": ("name",),
    "class number": ("classid", "cls", "clsid", "categoryid", "labelid", "classindex", "classidx", "classnumber"),
    "video": ("video", "videoname", "videofile", "videofilename", "videopath", "videoid", "sequence", "sequencename")
    + ("sequenceid", "seq", "seqname", "seqid", "clip", "clipname", "clipid", "film", "camera", "cameraid", "cam"),
    "hidden": ("outside", "lost", "outofview", "deleted"),
    "visible": ("visible", "isvisible"),
    "rotation": ("angle", "rotation", "theta", "rot", "rotationangle", "x3", "y3"),
}
"""Column names in order of preference, without case, ``_``, ``-``, blanks and quotation marks."""
KINDS_OF_CLASS = frozenset({"class", "cls", "category", "label", "species", "type"})
KINDS_OF_VIDEO = frozenset({"video", "film", "clip", "sequence", "seq", "camera", "cam", "scene"})
OTHER_WORDS = frozenset({"score", "conf", "confidence", "prob", "probability", "color", "count", "time", "timestamp"})
SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Rows:
    """A table with a header and rows."""

    header: tuple[str, ...]
    indices: dict[str, int]
    """Index of the column for each of `COLUMNS` in the header."""
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Rows, each with its name for messages."""

    def values(self, column: str) -> set[str]:
        """Distinct values of a column. Empty if it does not exist."""
        return {value for value, _ in self.pairs(column, column)}

    def pairs(self, first: str, second: str) -> set[tuple[str, str]]:
        """Distinct pairs of non-empty values of two columns in a row. Empty if a column does not exist."""
        if not {first, second} <= self.indices.keys():
            return set()
        a, b = self.indices[first], self.indices[second]
        return {(fields[a], fields[b]) for _, fields in self.rows if fields[a] and fields[b]}


def table_text(source: ImportedFile) -> str:
    """Text of a table, without the line that sets the separator for Excel."""
    text = source.text or ""
    return "\n" + text.partition("\n")[2] if re.match(r"\s*\"?sep=", text) else text


def header_of(line: str) -> tuple[str | None, tuple[str, ...]]:
    """Separator of a table (None: any blanks) and its column names, from its first line."""
    line = line.strip().lstrip("#").strip()
    separator = max(SEPARATORS, key=line.count)
    if separator not in line:
        return None, tuple(line.split())
    return separator, tuple(name.strip().strip("'\"").strip() for name in line.split(separator))


def indices_of(header: Sequence[str]) -> dict[str, int]:
    """Index of the column for each of `COLUMNS` in a header."""
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    columns = {
        column: next(names.index(spelling) for spelling in spellings if spelling in names)
        for column, spellings in COLUMNS.items()
        if not set(spellings).isdisjoint(names)
    }
    if "x0" in names and "x1" in names:
        columns["right"] = names.index("x1")
    if "y0" in names and "y1" in names:
        columns["bottom"] = names.index("y1")
    return columns


def rows_of_csv(source: ImportedFile) -> Rows | None:
    """Table of a CSV file. None, with a report, if it is not a table."""
    text = table_text(source)
    skipped = len(text) - len(text.lstrip("\n"))
    separator, header = header_of(text.lstrip("\n").partition("\n")[0])
    options: dict[str, Any] = {"delimiter": separator} if separator else {"delimiter": " ", "skipinitialspace": True}
    reader = csv.reader(io.StringIO(text.lstrip("\n"), newline=""), **options)
    try:
        rows = [(f"line {reader.line_num + skipped}", [field.strip() for field in fields]) for fields in reader][1:]
    except csv.Error as error:
        source.report(f"line {reader.line_num + skipped}", f"cannot be read ({error})", "Close the quotation marks")
        return None
    padding = [""] * len(header)
    padded = tuple((record, tuple((fields + padding)[: len(header)])) for record, fields in rows if any(fields))
    return Rows(header, indices_of(header), padded)


def rows_of_records(records: Sequence[Any]) -> Rows:
    """Table of a JSON list of flat objects, as written by pandas and supervision."""
    header = tuple(dict.fromkeys(key for record in records if isinstance(record, dict) for key in record))
    rows = [
        (f"[{i}]", tuple(_text(record.get(key)) if isinstance(record, dict) else "" for key in header))
        for i, record in enumerate(records)
    ]
    return Rows(header, indices_of(header), tuple(rows))


def looks_like(table: Rows, kinds: frozenset[str]) -> list[str]:
    """Unknown columns with names like a class or a video, and with more than one value."""
    suspects = []
    for index, name in enumerate(table.header):
        words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
        if index not in table.indices.values() and words & kinds and not words & OTHER_WORDS:
            suspects += [name] if len({fields[index] for _, fields in table.rows}) > 1 else []
    return suspects


def _text(value: Any) -> str:
    return "" if value is None else str(value)
