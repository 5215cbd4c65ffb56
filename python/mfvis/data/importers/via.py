"""Regions with track ids of the VGG Image Annotator (VIA 1 and 2): a project, or its annotations as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from mfvis.data.importers.boxes import Box, BoxVideo
from mfvis.data.importers.source import ImportedFile, Importer, natural
from mfvis.data.importers.track_lines import track_id_of
from mfvis.data.jsonfile import is_finite
from mfvis.text import shortened

TRACK = ("trackid", "track", "objectid", "instanceid", "trackerid", "id")
CATEGORY = ("class", "classname", "category", "label", "type", "object", "objectname", "name", "species")
"""Names of region attributes, without case, ``_``, ``-`` and blanks."""
Record = dict[str, Any]


def sniff_via(source: ImportedFile) -> bool:
    """True if a JSON is a project of VIA 2, or an object of images with regions."""
    return next(iter(_images(source.root)), None) is not None


def read_via(source: ImportedFile) -> list[BoxVideo]:
    """Read the regions of each image, in the order of the image names: rectangles, or the boxes around other shapes.

    One attribute of a region is its track (track_id, object_id, id), another is its class (class, category, label,
    type). Without classes, --categories names the only class. Regions without a track, points and lines are left out.
    """
    entries = sorted(_images(source.root), key=lambda entry: natural(entry["filename"]))
    if not any(_attribute(region, TRACK) for entry in entries for region in _regions(entry)):
        problem = "is VIA, of images without tracks"
        source.report("file", problem, "Give the regions an attribute track_id, or export tracks from another tool")
        return []
    video = source.video("file", source.file.stem)
    files = [re.split(r"[/\\]", entry["filename"])[-1] for entry in entries]
    video = video and source.with_frames(video, files, [None] * len(files), set())
    if video is None:
        return []
    labeled = any(_attribute(region, CATEGORY) for entry in entries for region in _regions(entry))
    result = BoxVideo(video)
    for t, entry in enumerate(entries):
        for i, region in enumerate(_regions(entry)):
            record = f"{files[t]}, regions[{i}]"
            track, shape = _attribute(region, TRACK), region.get("shape_attributes")
            box = _box(shape if isinstance(shape, dict) else {})
            if not track or (track_id := track_id_of(track)) is None:
                source.leave_out("without a track", "region")
            elif isinstance(shape, dict) and shape.get("name") in ("point", "polyline", "line"):
                source.leave_out(f"of type {shape['name']}", "region")
            elif box is None:
                source.report(record, f"shape_attributes are {shortened(shape)}", "Draw the region again")
            else:
                category = _attribute(region, CATEGORY)
                if not category and labeled:
                    source.leave_out("without a class", "region")
                elif category := category or source.only_category(record):
                    source.put(record, result, track_id, category, t, box)
    return [result]


def _images(root: Any) -> Iterator[Record]:
    """Images of a project or of its annotations."""
    entries = root.get("_via_img_metadata", root) if isinstance(root, dict) else {}
    for entry in entries.values() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str) and "regions" in entry:
            yield entry


def _regions(entry: Record) -> list[Record]:
    """Regions of an image: a list, or in VIA 1 an object by index."""
    regions = list(entry["regions"].values()) if isinstance(entry["regions"], dict) else entry["regions"]
    return [region for region in regions if isinstance(region, dict)] if isinstance(regions, list) else []


def _attribute(region: Record, names: tuple[str, ...]) -> str:
    """Value of the first attribute with one of these names, or the checked option of a checkbox. Empty if there is
    none."""
    attributes = region.get("region_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    values = {re.sub(r"[^a-z0-9]", "", str(name).lower()): value for name, value in attributes.items()}
    for name in names:
        value = values.get(name)
        if isinstance(value, dict):
            checked = [option for option, is_checked in value.items() if is_checked]
            value = checked[0] if len(checked) == 1 else None
        if isinstance(value, (str, int, float)) and str(value).strip():
            return str(value).strip()
    return ""


def _box(shape: Record) -> Box | None:
    """Box around a shape. None if it has no area or is invalid."""
    kind = str(shape.get("name"))
    if kind in ("polygon", "freehand"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        valid = isinstance(xs, list) and isinstance(ys, list) and xs and all(map(is_finite, xs + ys))
        return (min(xs), min(ys), max(xs), max(ys)) if valid and len(xs) == len(ys) else None
    fields = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    numbers = [shape.get(name) for name in fields.get(kind, ("",))]
    if not all(map(is_finite, numbers)):
        return None
    x, y, *sides = numbers
    if kind == "rect":
        return x, y, x + sides[0], y + sides[1]
    angle = shape.get("theta", 0) if is_finite(shape.get("theta", 0)) else 0
    cosine, sine = math.cos(angle), math.sin(angle)
    width, height = math.hypot(sides[0] * cosine, sides[-1] * sine), math.hypot(sides[0] * sine, sides[-1] * cosine)
    return x - width, y - height, x + width, y + height


VIA = Importer("via", sniff_via, read_via)
