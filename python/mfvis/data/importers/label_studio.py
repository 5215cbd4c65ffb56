"""Tracks of Label Studio: VideoRectangle regions, exported as JSON or JSON-MIN."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from mfvis.data.importers.boxes import Box, BoxTrack, BoxVideo, angle_between, between, hull
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.jsonfile import is_finite, is_integer, kind_of
from mfvis.data.video import VIDEO_SUFFIXES
from mfvis.text import shortened

COUNT_SLACK = 1
"""Label Studio computes framesCount from duration and frame rate, and rounds; more than this is a wrong frame rate."""


def sniff_label_studio(source: ImportedFile) -> bool:
    """Whether a JSON holds tasks with annotations, or with regions of key frames."""
    tasks = source.root if isinstance(source.root, list) else [source.root]
    task = tasks[0] if tasks and isinstance(tasks[0], dict) else {}
    return (
        "annotations" in task
        and not {"images", "videos"} & task.keys()
        or any(
            isinstance(value, dict) and "sequence" in value
            for values in task.values()
            for value in (values if isinstance(values, list) else ())
        )
    )


def read_label_studio(source: ImportedFile) -> list[BoxVideo]:
    """The regions of each task: key frames, between them straight lines, as Label Studio shows and exports them.

    Frames count from 1; x, y, width, height are percent of the picture. A key frame that is not "enabled" is the last
    of a span: it is seen itself, and nothing from there to the next key frame. An enabled one with none after it holds
    to the end. Turned boxes (about their upper left corner) become the upright boxes around them.
    """
    tasks = source.root if isinstance(source.root, list) else [source.root]
    videos = []
    for place, task in enumerate(tasks):
        record = f"task {task.get('id', f'at place {place}')}" if isinstance(task, dict) else f"tasks[{place}]"
        if not isinstance(task, dict):
            source.report(record, f"is {kind_of(task)}, expected an object", "Export as JSON again")
            continue
        regions = list(_regions(record, task, source))
        video = source.video(record, _video_name(task), several=len(tasks) > 1)
        if video is None:
            continue
        result = BoxVideo(video)
        for where, region in regions:
            label, sequence = _label(where, region, source), region.get("sequence")
            if label is None or source.unwanted(label):
                continue
            counted = region.get("framesCount")
            if counted is not None and not (is_finite(counted) and abs(counted - video.length) <= COUNT_SLACK):
                problem = f"framesCount is {shortened(counted)}, the video has {video.length} frames"
                source.report(where, problem, "Set the video's own frame rate in Label Studio, or give its frames")
                continue
            result.tracks[where] = BoxTrack(label, _boxes(where, sequence, result, source))
        videos.append(result)
    return videos


def _regions(record: str, task: dict[str, Any], source: ImportedFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of a task's video regions, of the full JSON or of JSON-MIN, with words for where they are."""
    if "annotations" not in task:
        for key, values in task.items():
            for place, value in enumerate(values if isinstance(values, list) else ()):
                if isinstance(value, dict) and "sequence" in value:
                    yield f"{record}, {key}[{place}]", value
        return
    annotations = task["annotations"]
    if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
        source.report(record, f"annotations is {shortened(annotations)}", "Export as JSON again")
        return
    finished = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if len(finished) > 1:
        source.report(record, f"has {len(finished)} annotations of one video", "Keep one of them")
        return
    for annotation in finished:
        results = annotation.get("result")
        if not isinstance(results, list):
            source.report(record, f"result is {kind_of(results)}, expected a list", "Export as JSON again")
            continue
        for place, result in enumerate(results):
            where = f"{record}, result[{place}]"
            value = result.get("value") if isinstance(result, dict) else None
            if not isinstance(value, dict):
                source.report(where, f"is {shortened(result)}", "Export as JSON again")
            elif result.get("type") == "videorectangle":
                yield where, value
            elif "sequence" in value:
                source.report(where, f"is a {shortened(result.get('type'))}, not a box", "Leave other regions out")


def _video_name(task: dict[str, Any]) -> str | None:
    """The file name of a task's video, without the hash that an upload puts before it; None if it has no one video."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = [data["video"]] if isinstance(data.get("video"), str) else [v for v in data.values() if isinstance(v, str)]
    paths = [PurePosixPath(unquote(text)) for text in texts]
    names = [path.name for path in paths if len(texts) == 1 or path.suffix.lower() in VIDEO_SUFFIXES]
    return re.sub(r"^[0-9a-f]{8}-", "", names[0]) if len(names) == 1 else None


def _label(where: str, region: dict[str, Any], source: ImportedFile) -> str | None:
    labels = region.get("labels")
    if isinstance(labels, list) and len(labels) == 1 and isinstance(labels[0], str) and labels[0]:
        return labels[0]
    source.report(where, f"labels are {shortened(labels)}", "Give each region one label")
    return None


def _boxes(where: str, sequence: Any, video: BoxVideo, source: ImportedFile) -> dict[int, Box]:
    """The boxes of one region by frame, counted from 0."""
    length = video.video.length
    keys: dict[int, tuple[list[float], float, bool]] = {}
    before = len(source.problems)
    if not isinstance(sequence, list) or not sequence:
        source.report(where, f"sequence is {shortened(sequence)}", "Give a list of key frames")
        return {}
    for place, key in enumerate(sequence):
        record = f"{where}, sequence[{place}]"
        fields = key if isinstance(key, dict) else {}
        frame, enabled, angle = fields.get("frame"), fields.get("enabled"), fields.get("rotation", 0)
        sides = [fields.get(name) for name in ("x", "y", "width", "height")]
        if not is_integer(frame) or not isinstance(enabled, bool) or not all(map(is_finite, [*sides, angle])):
            source.report(record, f"is {shortened(key)}", "Write frame, enabled, x, y, width, height")
        elif not 1 <= frame <= length + COUNT_SLACK:
            source.report(record, f"frame {frame} is not 1 to {length}", "Give the frames of this video")
        elif sides[2] <= 0 or sides[3] <= 0:
            source.report(record, f"the box is {sides[2]} x {sides[3]} percent", "Give it a size")
        elif frame - 1 in keys:
            source.report(record, f"frame {frame} occurs twice", "Keep one of the two")
        else:
            keys[frame - 1] = sides, angle, enabled
    if len(source.problems) > before:
        return {}
    shown = {place: (sides, angle) for place, (sides, angle, _) in keys.items()}
    places = sorted(keys)
    for left, right in pairwise(places):
        (start, start_angle, enabled), (end, end_angle, _) = keys[left], keys[right]
        for place in range(left + 1, right) if enabled else ():
            share = (place - left) / (right - left)
            shown[place] = between(start, end, share), angle_between(start_angle, end_angle, share)
    last = places[-1]
    if keys[last][2]:
        shown |= dict.fromkeys(range(last + 1, length), shown[last])
    unit_x, unit_y = video.video.width / 100, video.video.height / 100
    boxes = {}
    for place, ((x, y, width, height), angle) in sorted(shown.items()):
        x1, y1 = x * unit_x, y * unit_y
        boxes[place] = hull((x1, y1, x1 + width * unit_x, y1 + height * unit_y), angle, (x1, y1))
    return {place: box for place, box in boxes.items() if place < length}


LABEL_STUDIO = Importer("label-studio", sniff_label_studio, read_label_studio)
