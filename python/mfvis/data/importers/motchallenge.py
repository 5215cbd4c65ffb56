"""Tracks in the MOTChallenge format: its ground truth, results of trackers, exports of CVAT and Datumaro."""

from __future__ import annotations

from collections.abc import Sequence, Set

from mfvis.data.importers.boxes import BoxVideo, number_in
from mfvis.data.importers.class_names import name_classes, read_names_near
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import TrackLine, fields_of, put_lines, sequence_video, track_lines

MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd"),
)
"""Classes of MOT16, MOT17 and MOT20, numbered from 1."""
COLUMNS = 11
"""Maximum number of columns. PathTrack and some trackers append one to the ten of MOT15."""


def sniff_motchallenge(source: ImportedFile) -> bool:
    """True if the first line consists of at least five numbers."""
    if not source.is_text or not source.lines:
        return False
    fields = fields_of(source.lines[0][1])
    return 5 <= len(fields) <= COLUMNS and None not in map(number_in, fields[:1] + fields[2:])


def read_motchallenge(source: ImportedFile) -> list[BoxVideo]:
    """Read ``frame, id, left, top, width, height[, conf[, class[, visibility]]]`` per line; frames from 1 on.

    If conf is a flag, 0 or 1, lines with 0 are left out. Classes are named by ``labels.txt`` next to the file (which
    CVAT and Datumaro write), by --class-names, or, in the ground truth of MOTChallenge, by the list of its classes.
    That ground truth counts pixels from 1, all other files from 0. --first-frame 0 is for trackers that count frames
    from 0.
    """
    lines = track_lines(source, COLUMNS)
    labels = source.file.with_name("labels.txt")
    video = sequence_video(source)
    if video is None:
        return []
    is_flag = _conf_is_flag(lines)
    classes = _class_numbers(lines)
    numbers = set(classes.values())
    is_ground_truth = is_flag and not labels.is_file() and _is_ground_truth(source, lines, numbers)
    if any(number != int(number) for number in numbers):
        source.report("file", "has classes that are not whole", "Leave the eighth column out, or write -1")
        return []
    names = read_names_near(source, labels, first=1) if labels.is_file() else {}
    if is_ground_truth and numbers:
        names = dict(enumerate(MOT_CLASSES, 1))
        source.note("classes are named after MOTChallenge's list; --class-names overrides it")
    names = name_classes(source, {int(number) for number in numbers}, names)
    first_pixel = source.pixel_origin(1 if is_ground_truth and source.first_frame != 0 else 0)

    def category_of(line: TrackLine) -> str | None:
        if is_flag and line.rest[0] == 0:
            return source.leave_out("that the file marks as ignored")
        if line not in classes:
            return source.leave_out("without a class") if numbers else source.only_category(line.record)
        return names.get(int(classes[line]))

    return [put_lines(source, video, lines, category_of, first_pixel=first_pixel, by_majority=not is_flag)]


def _class_numbers(lines: Sequence[TrackLine]) -> dict[TrackLine, float]:
    """Class of each line that has one: the eighth column, unless it is -1.

    In ten columns, it is the first world coordinate (MOT15), unless all values are integers, as class numbers are.
    """
    tens = [line for line in lines if len(line.rest) > 3]
    are_positions = any(line.rest[1] < -1 or line.rest[1] != int(line.rest[1]) for line in tens)
    with_class = (line for line in lines if len(line.rest) > 1 and not (are_positions and len(line.rest) > 3))
    return {line: line.rest[1] for line in with_class if line.rest[1] != -1}


def _conf_is_flag(lines: Sequence[TrackLine]) -> bool:
    """True if the seventh column is the flag of ground truth, False if it is a score."""
    return {line.rest[0] if line.rest else None for line in lines} in ({1}, {0, 1})


def _is_ground_truth(source: ImportedFile, lines: Sequence[TrackLine], numbers: Set[float]) -> bool:
    """True if lines with flags are those of MOTChallenge: a ``gt.txt``, or classes from its list with visibilities."""
    visibilities = {line.rest[2] for line in lines if len(line.rest) == 3}
    if not numbers <= {*range(1, len(MOT_CLASSES) + 1)} or not all(0 <= value <= 1 for value in visibilities):
        return False
    return source.file.stem == "gt" or not visibilities <= {0, 1}


MOTCHALLENGE = Importer(
    "motchallenge",
    sniff_motchallenge,
    read_motchallenge,
    options=frozenset({"first_frame", "first_pixel", "class_names"}),
)
