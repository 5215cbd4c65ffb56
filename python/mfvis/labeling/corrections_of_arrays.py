"""Corrections that are given as arrays and tuples, in the Python interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mfvis.data.marks import Place, point_of, scribble_of
from mfvis.data.rle import encode_mask
from mfvis.errors import DataError, Problem
from mfvis.labeling.corrections import Corrections
from mfvis.text import shortened
from mfvis.types import Video

SOURCE = "corrections"
"""Name of the arguments in messages."""


def corrections_of_arrays(
    video: Video,
    masks: Mapping[tuple[int, int], Any],
    points: Sequence[tuple[int, int, float, float, bool]],
    scribbles: Sequence[tuple[int, int, Sequence[tuple[float, float]], bool]],
) -> Corrections:
    """The arguments of `mfvis.api.label` as corrections of the video's tracks.

    Raises:
        DataError: with every mask, click and scribble that cannot be used.
    """
    problems: list[Problem] = []
    rles: dict[int, dict[int, dict[str, Any]]] = {}
    for key, mask in masks.items():
        place = Place(SOURCE, f"masks[{shortened(key)}]")
        pixels_HW = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
        n, t = key if isinstance(key, tuple) and len(key) == 2 else (-1, -1)
        if n not in range(len(video.tracks)) or t not in range(video.length):
            remedy = f"Use (track, frame), below ({len(video.tracks)}, {video.length})"
            place.report(problems, "is none of the tracks and frames", remedy)
        elif pixels_HW.shape != (video.height, video.width) or pixels_HW.dtype != bool:
            problem = f"is {pixels_HW.dtype} {list(pixels_HW.shape)}"
            place.report(problems, problem, f"Give bool [{video.height}, {video.width}]")
        else:
            rles.setdefault(int(n), {})[int(t)] = encode_mask(pixels_HW)
    clicks = [[*map(_plain, entry)] for entry in points]
    lines = [[*entry[:2], [_plain(v) for corner in entry[2] for v in corner], *entry[3:]] for entry in scribbles]
    marks = (
        _by_track(video, "points", clicks, point_of, problems),
        _by_track(video, "scribbles", [[*map(_plain, entry)] for entry in lines], scribble_of, problems),
    )
    if problems:
        raise DataError(problems)
    return Corrections(rles, *marks)


def _by_track(
    video: Video, name: str, entries: Iterable[list[Any]], read: Callable[..., Any], problems: list[Problem]
) -> dict[int, tuple[Any, ...]]:
    """Marks by the index of their track, which is the first value of each entry."""
    marks: dict[int, tuple[Any, ...]] = {}
    for i, (n, *entry) in enumerate(entries):
        place = Place(SOURCE, f"{name}[{i}]")
        if n not in range(len(video.tracks)):
            problem = f"is of track {n}; there are {len(video.tracks)}"
            place.report(problems, problem, "Give the index of the track, from 0")
        elif (mark := read(entry, video.tracks[n], video, place, problems)) is not None:
            marks[n] = (*marks.get(n, ()), mark)
    return marks


def _plain(value: Any) -> Any:
    """The value without a type of numpy or torch."""
    return value.item() if hasattr(value, "item") else value
