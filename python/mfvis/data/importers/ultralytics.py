"""Tracks of Ultralytics results in JSON (``to_json()``, ``summary()``), collected over the frames of a video."""

from __future__ import annotations

import json
from typing import Any

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.class_names import name_classes
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import track_id_of
from mfvis.data.jsonfile import is_finite, is_integer
from mfvis.text import counted, shortened

REMEDY = "Write json.dump([json.loads(r.to_json()) for r in results], file) for all results of a video"
Record = dict[str, Any]


def sniff_ultralytics(source: ImportedFile) -> bool:
    """True if a JSON is a list, or a list of lists, of objects with a box of corners and a confidence."""
    entries = _frames(source.root) or ([source.root] if isinstance(source.root, list) else [])
    first = next((entry for frame in entries for entry in frame if isinstance(entry, dict)), {})
    return isinstance(first.get("box"), dict) and "x1" in first["box"] and {"class", "name"} & first.keys() != set()


def read_ultralytics(source: ImportedFile) -> list[BoxVideo]:
    """Read a list per frame of ``{"name", "class", "confidence", "box": {"x1", "y1", "x2", "y2"}, "track_id"}``.

    A line of JSON per frame is accepted too. The frames are in order. Rotated boxes become the upright boxes around
    them. Boxes without a track are left out.
    """
    frames = _frames(source.root)
    if frames is None:
        source.report("top level", "is not a list of results for each frame", REMEDY)
        return []
    video = source.video("file", source.file.stem)
    if video is None:
        return []
    if len(frames) != video.length:
        problem = f"has results of {counted(len(frames), 'frame')}, the video {counted(video.length, 'frame')}"
        source.report("top level", problem, f"{REMEDY}, and give its frames")
        return []
    entries = [(f"[{t}][{i}]", t, entry) for t, frame in enumerate(frames) for i, entry in enumerate(frame)]
    unnamed = {entry["class"] for _, _, entry in entries if _is_unnamed(entry)}
    names = name_classes(source, unnamed, {}) if unnamed else {}
    result = BoxVideo(video)
    for record, t, entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        box = fields.get("box") if isinstance(fields.get("box"), dict) else {}
        xs, ys = ([box[f"{axis}{i}"] for i in range(1, 5) if f"{axis}{i}" in box] for axis in "xy")
        category = str(fields["name"]) if fields.get("name") not in (None, "") else names.get(fields.get("class"))
        if len(xs) not in (2, 4) or len(ys) != len(xs) or not all(map(is_finite, xs + ys)):
            source.report(record, f"box is {shortened(fields.get('box'))}", "Write x1, y1, x2, y2 in pixels")
        elif fields.get("track_id") is None or (track_id := track_id_of(str(fields["track_id"]))) is None:
            source.leave_out("without a track")
        elif category is None and not unnamed:
            source.report(record, "has neither name nor class", "Name its class")
        elif category is not None:
            corners = (xs[0], ys[0], xs[1], ys[1]) if len(xs) == 2 else (min(xs), min(ys), max(xs), max(ys))
            source.put(record, result, track_id, category, t, corners, by_majority=True)
    return [result]


def _is_unnamed(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("name") in (None, "") and is_integer(entry.get("class"))


def _frames(root: Any) -> list[list[Any]] | None:
    """List of each frame, which may be JSON in a string. None if the value is not a list of lists."""
    frames = []
    for frame in root if isinstance(root, list) else (None,):
        if isinstance(frame, str):
            try:
                frame = json.loads(frame)
            except (ValueError, RecursionError):
                return None
        if not isinstance(frame, list):
            return None
        frames.append(frame)
    return frames or None


ULTRALYTICS = Importer("ultralytics", sniff_ultralytics, read_ultralytics, options=frozenset({"class_names"}))
