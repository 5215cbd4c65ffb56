"""Tracks of the drone benchmarks VisDrone and UAVDT."""

from __future__ import annotations

from collections.abc import Callable

from mfvis.data.importers.boxes import BoxVideo, number_in
from mfvis.data.importers.class_names import name_classes
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import TrackLine, fields_of, put_lines, sequence_video, track_lines
from mfvis.text import counted

VISDRONE_CLASSES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle"),
    *("bus", "motor", "others"),
)
"""Classes of VisDrone, numbered from 0."""
UAVDT_CLASSES = ("car", "truck", "bus")
"""Classes of UAVDT, numbered from 1."""
OPTIONS = frozenset({"first_frame", "first_pixel", "class_names"})


def sniff_visdrone(source: ImportedFile) -> bool:
    """True if all lines have ten numbers, the last four of which are a flag, a class, a truncation and an occlusion."""
    if not source.is_text or not source.lines:
        return False
    for _, line in source.lines:
        fields = [number_in(field) for field in fields_of(line)]
        if len(fields) != 10 or None in fields:
            return False
        score, category, truncation, occlusion = fields[6:]
        if score not in (0, 1) or category not in range(12) or truncation not in (0, 1) or occlusion not in (0, 1, 2):
            return False
    return True


def read_visdrone(source: ImportedFile) -> list[BoxVideo]:
    """Read VisDrone tracks; frames count from 1, pixels from 0.

    Each line is ``frame,id,left,top,width,height,score,category,truncation,occlusion``.

    Boxes of score 0 and ignored regions (category 0) are left out.
    """
    return _read(source, 7, dict(enumerate(VISDRONE_CLASSES)), lambda line: 0 in line.rest[:2])


def sniff_uavdt(source: ImportedFile) -> bool:
    """True if the file has the name of UAVDT's ground truth with classes."""
    return source.is_text and source.file.stem.endswith("_gt_whole")


def read_uavdt(source: ImportedFile) -> list[BoxVideo]:
    """Read ``frame,id,left,top,width,height,out-of-view,occlusion,category`` per line, as in ``M0101_gt_whole.txt``."""
    return _read(source, 8, dict(enumerate(UAVDT_CLASSES, 1)), lambda line: False)


def _read(
    source: ImportedFile, column: int, classes: dict[int, str], is_ignored: Callable[[TrackLine], bool]
) -> list[BoxVideo]:
    """Tracks of lines with a class column, whose index counts from 0."""
    lines = track_lines(source, 10)
    video = sequence_video(source)
    if video is None:
        return []
    for line in [line for line in lines if len(line.rest) <= column - 6]:
        source.report(line.record, f"has {counted(len(line.rest) + 6, 'column')}, no class", "Give the ground truth")
    lines = [line for line in lines if len(line.rest) > column - 6]
    numbers = {line.rest[column - 6] for line in lines if not is_ignored(line)}
    names = name_classes(source, {int(number) for number in numbers}, classes)

    def category_of(line: TrackLine) -> str | None:
        if is_ignored(line):
            return source.leave_out("that the file marks as ignored")
        return names.get(int(line.rest[column - 6]))

    return [put_lines(source, video, lines, category_of, first_pixel=source.pixel_origin(0))]


VISDRONE = Importer("visdrone", sniff_visdrone, read_visdrone, options=OPTIONS)
UAVDT = Importer("uavdt", sniff_uavdt, read_uavdt, options=OPTIONS)
