"""Numbers of classes and tracks in formats that store them in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mfvis.data.exporters.source import Export, ExportedVideo
from mfvis.data.importers.mots import CLASSES, IGNORED
from mfvis.errors import ConfigError
from mfvis.types import Category


def mots_classes(categories: Sequence[Category]) -> dict[str, int]:
    """Class numbers of MOTS: 1 for car, 2 for pedestrian, and 3, 4, ... without 10 for other names."""
    known = {name: number for number, name in CLASSES.items()}
    free = (number for number in range(3, 10**6) if number != IGNORED)
    classes = {}
    for category in categories:
        classes[category.name] = known[category.name] if category.name in known else next(free)
    return classes


def class_lines(classes: dict[str, int], first: int) -> list[str]:
    """Class names by number, from `first` on, with the format's own names for other numbers."""
    names = {0: "background", IGNORED: "ignored"} | CLASSES | {number: name for name, number in classes.items()}
    return [names[number] for number in range(first, max(classes.values(), default=0) + 1)]


def renumbered(export: Export, video: ExportedVideo, most: int, by_class: bool = False) -> dict[int, int]:
    """Track ids of a video from 1 to `most`, by the track's id: the ids themselves if all of them are.

    by_class: tracks of different classes may have the same number.

    Raises:
        ConfigError: the video has more tracks.
    """
    ids = [track.id for track in video.tracks]
    if min(ids, default=1) >= 1 and max(ids, default=0) <= most:
        return dict(zip(ids, ids, strict=True))
    export.note(f"videos have track ids that are not 1 to {most}, as this format requires, and were numbered from 1")
    counts: Counter[str] = Counter()
    numbers = {}
    for track in video.tracks:
        key = track.category.name if by_class else ""
        counts[key] += 1
        numbers[track.id] = counts[key]
    if max(counts.values()) > most:
        raise ConfigError(f"video {video.name} has {max(counts.values())} tracks; this format has at most {most}")
    return numbers
