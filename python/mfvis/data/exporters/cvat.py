"""Writer of "CVAT for video 1.1" (XML)."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.exporters.classes import renumbered
from mfvis.data.exporters.source import Export, ExportedTrack, ExportedVideo, Rle, mask_box
from mfvis.data.importers.cvat_marks import NEGATIVE
from mfvis.data.marks import Point, Scribble
from mfvis.data.outlines import connected, mask_polygons
from mfvis.data.rle import decode_mask, uncompress
from mfvis.errors import ConfigError
from mfvis.types import present
from mfvis.writing import atomic_write

LARGEST_GROUP = 2**31 - 1
"""Largest group id of CVAT; 0 means no group."""


def write_cvat(export: Export, path: Path) -> None:
    """An XML for the task of a video. For several videos, `path` is a folder with the XML of each.

    CVAT has no mask tracks: it imports only the first mask of a track. Every mask is therefore a track of its own, as
    CVAT exports masks, and its ``group_id`` names the object. With ``--masks polygons``, an object is one track of
    polygons. Frames with a box and no mask get the box. Clicks are points and scribbles are polylines of the object's
    group; the attribute ``negative`` says which of them are next to the object.

    Raises:
        ConfigError: The form of the masks is unknown to CVAT, or `path` is a file and there are several videos.
    """
    if export.masks == "list":
        raise ConfigError("masks is list; expected rle or polygons for cvat")
    if path.suffix == ".xml" and len(export.videos) > 1:
        raise ConfigError(f"out is {path}, but there are {len(export.videos)} videos, one task each; name a folder")
    masks = sum(rle is not None for video in export.videos for track in video.tracks for rle in track.rles)
    if masks and export.masks != "polygons":
        export.note("masks are shapes of one frame in CVAT, grouped by object; --masks polygons writes tracks", masks)
    for video in export.videos:
        file = path if path.suffix == ".xml" else path / f"{video.name}.xml"
        _write_task(export, video, file)


def _write_task(export: Export, video: ExportedVideo, path: Path) -> None:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>", _meta(export, video)]
    groups, count = renumbered(export, video, most=LARGEST_GROUP), 0
    for track in video.tracks:
        for shapes in _tracks(track, export.masks or "rle"):
            label = quoteattr(track.category.name)
            lines.append(f'<track id="{count}" label={label} source="file" group_id="{groups[track.id]}">')
            lines += [*_shapes(shapes, video.video.length), "</track>"]
            count += 1
        for mark in track.marks:
            label = quoteattr(track.category.name)
            lines.append(f'<track id="{count}" label={label} source="manual" group_id="{groups[track.id]}">')
            lines += [*_mark(mark, video.video.length), "</track>"]
            count += 1
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*lines, "</annotations>", ""]), encoding="utf-8")


def _tracks(track: ExportedTrack, form: str) -> list[dict[int, tuple[str, str]]]:
    """Shapes (element, attributes) by frame, for each track of CVAT that an object needs."""
    boxes: dict[int, tuple[str, str]] = {}
    outlines: dict[int, tuple[str, str]] = {}
    for t, rle in enumerate(track.rles):
        if rle is not None:
            outlines[t] = ("polygon", _polygon(rle)) if form == "polygons" else ("mask", _mask(rle))
        elif present(track.boxes_T4[t]):
            corners = zip(("xtl", "ytl", "xbr", "ybr"), track.boxes_T4[t].tolist(), strict=True)
            boxes[t] = ("box", " ".join(f'{name}="{value:.2f}"' for name, value in corners))
    parts = [outlines] if form == "polygons" else [{t: shape} for t, shape in outlines.items()]
    return [part for part in (boxes, *parts) if part]


def _shapes(shapes: dict[int, tuple[str, str]], length: int) -> list[str]:
    """Key frames of a track, with an end after each frame that no shape follows."""
    lines = []
    for t, (kind, attributes) in sorted(shapes.items()):
        lines.append(_shape(kind, attributes, t, outside=False))
        if t + 1 not in shapes and t + 1 < length:
            lines.append(_shape(kind, attributes, t + 1, outside=True))
    return lines


def _shape(kind: str, attributes: str, frame: int, outside: bool) -> str:
    head = f'<{kind} frame="{frame}" keyframe="1" outside="{int(outside)}" occluded="0" {attributes}'
    return f'{head} z_order="0"></{kind}>'


def _mark(mark: Point | Scribble, length: int) -> list[str]:
    """A click or scribble in one frame, with its end."""
    kind = "points" if isinstance(mark, Point) else "polyline"
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in mark.xy)
    negative = f'<attribute name="{NEGATIVE}">{"false" if mark.positive else "true"}</attribute>'
    frames = [(mark.frame, 0), (mark.frame + 1, 1)][: length - mark.frame]
    return [
        f'<{kind} frame="{t}" keyframe="1" outside="{outside}" occluded="0" points="{points}" z_order="0">'
        f"{negative}</{kind}>"
        for t, outside in frames
    ]


def _mask(rle: Rle) -> str:
    """Runs of the pixels in the mask's box, row by row, the first run background."""
    left, top, width, height = (int(value) for value in mask_box(rle))
    crop_HW = decode_mask(rle, *rle["size"])[top : top + height, left : left + width]
    row_by_row = coco_mask.encode(np.asfortranarray(crop_HW.T, dtype=np.uint8))  # COCO's runs go column by column
    runs = ", ".join(map(str, uncompress(row_by_row["counts"]) or ()))
    return f'rle="{runs}" left="{left}" top="{top}" width="{width}" height="{height}"'


def _polygon(rle: Rle) -> str:
    points = np.reshape(connected(mask_polygons(decode_mask(rle, *rle["size"]))), (-1, 2))
    return 'points="' + ";".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist()) + '"'


def _meta(export: Export, video: ExportedVideo) -> str:
    checkbox = (
        f"<attribute><name>{NEGATIVE}</name><mutable>True</mutable><input_type>checkbox</input_type>"
        "<default_value>false</default_value><values>false</values></attribute>"
    )
    attributes = checkbox if any(track.marks for track in video.tracks) else ""
    labels = "".join(
        f"<label><name>{escape(c.name)}</name><attributes>{attributes}</attributes></label>" for c in export.categories
    )
    size = f"<width>{video.video.width}</width><height>{video.video.height}</height>"
    return (
        f"<meta><task><name>{escape(video.name)}</name><size>{video.video.length}</size><mode>interpolation</mode>"
        f"<start_frame>0</start_frame><stop_frame>{video.video.length - 1}</stop_frame><frame_filter></frame_filter>"
        f"<labels>{labels}</labels><original_size>{size}</original_size></task></meta>"
    )
