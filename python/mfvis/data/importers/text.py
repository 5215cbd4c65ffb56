"""Tracks as lines of text: MOTChallenge (commas) and KITTI tracking (spaces)."""

from __future__ import annotations

from pathlib import Path

from mfvis.data.importers.boxes import BoxVideo, ImportedFile, number_in

MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd"),
)
"""Of MOT16, MOT17 and MOT20, by their numbers from 1 on."""


def read_motchallenge(text: str, source: ImportedFile) -> list[BoxVideo]:
    """``frame, id, left, top, width, height[, conf[, class[, visibility]]]`` per line; frames, left and top from 1 on.

    Lines with conf 0 are to be ignored. With ten columns (MOT15, output of trackers) the last three are a place in the
    world and there is no class; --categories then names the one class. ``labels.txt`` beside the file (as CVAT writes
    it) names other classes than MOTChallenge's. --first-frame 0 is for trackers that count frames and pixels from 0.
    """
    # The official place is <video>/gt/gt.txt.
    name = source.file.parent.parent.name if source.file.stem == "gt" else source.file.stem
    video = source.video("file", name, alone=True)
    if video is None:
        return []
    labels = source.file.with_name("labels.txt")
    classes = class_names(labels, source) if labels.is_file() else MOT_CLASSES
    first = 1 if source.first_frame is None else source.first_frame
    origin = min(first, 1)
    result = BoxVideo(video)
    for record, line in lines_of(text):
        fields = [number_in(field.strip()) for field in line.split(",")]
        if not 6 <= len(fields) <= 10 or None in fields:
            source.report(record, f"{line[:60]!r} is not 6 to 10 numbers", "Write frame, id, left, top, width, height")
            continue
        frame, number, left, top, width, height = fields[:6]
        if frame != int(frame) or number != int(number):
            source.report(record, f"frame {frame:g} and id {number:g} are not whole", "Write whole numbers")
        elif not first <= frame < first + video.length:
            source.report_frame(record, frame, first, video.length)
        elif len(fields) > 6 and fields[6] == 0:
            continue
        elif number < 0:
            source.report(record, f"id {number:g} stands for no object", "Give tracks, not detections")
        elif width <= 0 or height <= 0:
            source.report(record, f"the box is {width:g} x {height:g}", "Leave out lines without a box")
        else:
            category = _class_of(record, fields, classes, source)
            if category is not None:
                box = (left - origin, top - origin, left - origin + width, top - origin + height)
                source.put(record, result, str(int(number)), category, int(frame) - first, box)
    return [result]


def read_kitti(text: str, source: ImportedFile) -> list[BoxVideo]:
    """``frame id type truncated occluded alpha x1 y1 x2 y2 h w l X Y Z yaw[ score]`` per line; frames from 0 on.

    Regions of type DontCare are left out.
    """
    video = source.video("file", source.file.stem, alone=True)
    if video is None:
        return []
    first = source.first_frame or 0
    result = BoxVideo(video)
    for record, line in lines_of(text):
        fields = line.split()
        if len(fields) not in (17, 18):
            source.report(record, f"has {len(fields)} columns, expected 17 or 18", "Give KITTI tracking labels")
            continue
        category = fields.pop(2)
        values = [number_in(field) for field in fields]
        if None in values:
            wrong = fields[values.index(None)]
            source.report(record, f"{wrong[:60]!r} is not a number", "Correct that column")
            continue
        frame, number, box = values[0], values[1], tuple(values[5:9])
        if frame != int(frame) or number != int(number):
            source.report(record, f"frame {frame:g} and id {number:g} are not whole", "Write whole numbers")
        elif not first <= frame < first + video.length:
            source.report_frame(record, frame, first, video.length)
        elif category == "DontCare":
            continue
        elif number < 0:
            source.report(record, f"id {number:g} stands for no object", "Give tracks, not detections")
        elif box[2] <= box[0] or box[3] <= box[1]:
            source.report(record, f"the box {list(box)} has no size", "Write x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        else:
            source.put(record, result, str(int(number)), category, int(frame) - first, box)
    return [result]


def lines_of(text: str) -> list[tuple[str, str]]:
    """The lines with something in them, each with its number as it is told to the user."""
    return [(f"line {number}", line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def class_names(path: Path, source: ImportedFile) -> tuple[str, ...]:
    """The names in a text, one per line."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        source.report(path.name, f"cannot be read ({error})", "Write one class per line, or remove it")
        return ()


def _class_of(record: str, fields: list[float], classes: tuple[str, ...], source: ImportedFile) -> str | None:
    """The name of a line's class; None, reported, where it has none."""
    if len(fields) in (8, 9) and fields[7] != -1:
        if fields[7] in range(1, len(classes) + 1):
            return classes[int(fields[7]) - 1]
        source.report(record, f"class {fields[7]:g} is not 1 to {len(classes)}", "Name the classes in labels.txt")
        return None
    return source.only_category(record)
