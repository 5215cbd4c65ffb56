"""Tracks as KITTI tracking has them: a line of blank-separated columns per box."""

from __future__ import annotations

from mfvis.data.importers.boxes import BoxVideo, number_in
from mfvis.data.importers.source import ImportedFile, Importer


def sniff_kitti(source: ImportedFile) -> bool:
    """Whether the first line has the columns of a KITTI label, a word as the third."""
    words = source.lines[0][1].split() if source.is_text and source.lines else []
    return len(words) in (17, 18) and number_in(words[2]) is None


def read_kitti(source: ImportedFile) -> list[BoxVideo]:
    """``frame id type truncated occluded alpha x1 y1 x2 y2 h w l X Y Z yaw[ score]`` per line; frames from 0 on.

    Regions of type DontCare are left out.
    """
    video = source.video("file", source.file.stem)
    if video is None:
        return []
    first = source.first_frame or 0
    result = BoxVideo(video)
    for record, line in source.lines:
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


KITTI = Importer("kitti", sniff_kitti, read_kitti, frozenset({"first_frame"}))
