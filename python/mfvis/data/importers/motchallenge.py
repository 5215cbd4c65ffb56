"""Tracks as MOTChallenge has them: a line of comma-separated numbers per box."""

from __future__ import annotations

from mfvis.data.importers.boxes import BoxVideo, number_in
from mfvis.data.importers.class_names import class_names
from mfvis.data.importers.source import ImportedFile, Importer

MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd"),
)
"""Of MOT16, MOT17 and MOT20, by their numbers from 1 on."""


def sniff_motchallenge(source: ImportedFile) -> bool:
    """Whether the first line is at least five numbers, separated by commas."""
    if not source.is_text or not source.lines:
        return False
    fields = source.lines[0][1].split(",")
    return len(fields) >= 5 and None not in map(number_in, map(str.strip, fields))


def read_motchallenge(source: ImportedFile) -> list[BoxVideo]:
    """``frame, id, left, top, width, height[, conf[, class[, visibility]]]`` per line; frames, left and top from 1 on.

    Lines with conf 0 are to be ignored. With ten columns (MOT15, output of trackers) the last three are a place in the
    world and there is no class; --categories then names the one class. ``labels.txt`` beside the file (as CVAT writes
    it) names other classes than MOTChallenge's. --first-frame 0 is for trackers that count frames and pixels from 0.
    """
    # The official place is <video>/gt/gt.txt.
    name = source.file.parent.parent.name if source.file.stem == "gt" else source.file.stem
    video = source.video("file", name)
    if video is None:
        return []
    labels = source.file.with_name("labels.txt")
    classes = class_names(labels, source) if labels.is_file() else MOT_CLASSES
    first = 1 if source.first_frame is None else source.first_frame
    origin = min(first, 1)
    result = BoxVideo(video)
    for record, line in source.lines:
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


def _class_of(record: str, fields: list[float], classes: tuple[str, ...], source: ImportedFile) -> str | None:
    """The name of a line's class; None, reported, where it has none."""
    if len(fields) in (8, 9) and fields[7] != -1:
        if fields[7] in range(1, len(classes) + 1):
            return classes[int(fields[7]) - 1]
        source.report(record, f"class {fields[7]:g} is not 1 to {len(classes)}", "Name the classes in labels.txt")
        return None
    return source.only_category(record)


MOTCHALLENGE = Importer("motchallenge", sniff_motchallenge, read_motchallenge, frozenset({"first_frame"}))
