"""Tracks in the KITTI tracking format: a line of blank-separated columns per box."""

from __future__ import annotations

from mfvis.data.importers.boxes import BoxVideo, number_in, whole_number_in
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import is_number, sequence_video, track_id_of
from mfvis.text import counted


def sniff_kitti(source: ImportedFile) -> bool:
    """True if the first line has the columns of a KITTI label, with a word as the third."""
    words = source.lines[0][1].split() if source.is_text and source.lines else []
    return len(words) in (17, 18) and number_in(words[2]) is None


def read_kitti(source: ImportedFile) -> list[BoxVideo]:
    """Read ``frame id type truncated occluded alpha x1 y1 x2 y2 h w l X Y Z yaw[ score]`` per line; frames from 0 on.

    Regions of type DontCare and boxes without a track are left out.
    """
    video = sequence_video(source)
    if video is None:
        return []
    first = source.first_frame or 0
    result = BoxVideo(video)
    for record, line in source.lines:
        fields = line.split()
        if len(fields) not in (17, 18):
            source.report(
                record, f"has {counted(len(fields), 'column')}, expected 17 or 18", "Give KITTI tracking labels"
            )
            continue
        category = fields.pop(2)
        values = [number_in(field) for field in fields]
        values[1] = values[1] if track_id_of(fields[1]) is None else 0  # ids may have any size
        frame, track_id, box = whole_number_in(fields[0]), track_id_of(fields[1]), tuple(values[5:9])
        if None in values:
            wrong = fields[values.index(None)]
            source.report(record, f"{wrong[:60]!r} is not a number", "Correct that column")
        elif frame is None or track_id is not None and not is_number(track_id):
            source.report(record, f"frame {fields[0]} and id {fields[1]} are not whole", "Write whole numbers")
        elif not first <= frame < first + video.length:
            source.report_frame(record, frame, first, video.length)
        elif category == "DontCare":
            source.leave_out("of type DontCare", "region")
        elif track_id is None:
            source.leave_out("without a track")
        else:
            source.put(record, result, track_id, category, frame - first, box)
    return [result]


KITTI = Importer("kitti", sniff_kitti, read_kitti, options=frozenset({"first_frame"}))
