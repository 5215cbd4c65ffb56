"""Tracks of Label Studio: VideoRectangle regions, exported as JSON or JSON-MIN."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from mfvis.data.importers.boxes import Box, BoxTrack, BoxVideo, between, hull
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.jsonfile import is_finite, is_integer, kind_of
from mfvis.data.video import VIDEO_SUFFIXES
from mfvis.text import counted, shortened

COUNT_SLACK = 1
"""Tolerance in frames. Label Studio computes framesCount from duration and frame rate and rounds it. A larger
difference indicates a wrong frame rate."""
Record = dict[str, Any]


class _Region(NamedTuple):
    record: str
    track_id: str
    labels: list[Any]
    value: Record


class _Key(NamedTuple):
    sides: list[float]
    """x, y, width, height in percent of the image."""
    angle: float
    enabled: bool


def sniff_label_studio(source: ImportedFile) -> bool:
    """True if a JSON contains tasks, predictions or regions with key frames, or tasks with annotations."""
    tasks = source.root if isinstance(source.root, list) else [source.root]
    task = tasks[0] if tasks and isinstance(tasks[0], dict) else {}
    if "data" in task and {"annotations", "predictions"} & task.keys():
        return True
    return bool(_sequences(task)) or any(_sequences(region) for region in _results(task))


def read_label_studio(source: ImportedFile) -> list[BoxVideo]:
    """Read the regions of each task: key frames with linear interpolation, as Label Studio shows and exports them.

    Frames count from 1. x, y, width, height are percentages of the image. A key frame that is not "enabled" ends a
    span: the object is visible in it, but not from there to the next key frame. If the last key frame is enabled, it
    holds to the end. Boxes that are rotated about their top left corner become the upright boxes around them. Angles
    are interpolated linearly, even through 180 degrees. For tasks without annotations, predictions are used.
    """
    root = source.root
    if isinstance(root, list) and root and isinstance(root[0], dict) and root[0].get("type") == "videorectangle":
        root = {"result": root}
    tasks = root if isinstance(root, list) else [root]
    videos = []
    for i, task in enumerate(tasks):
        record = f"task {task.get('id', f'at index {i}')}" if isinstance(task, dict) else f"tasks[{i}]"
        if not isinstance(task, dict):
            source.report(record, f"is {kind_of(task)}, expected an object", "Export as JSON again")
            continue
        regions = list(_regions(record, task, source))
        video = source.video(record, _video_name(task), several=len(tasks) > 1)
        if video is None:
            continue
        videos.append(BoxVideo(video))
        for region in regions:
            label = _label(region, source, any(other.labels for other in regions))
            if label is not None and not source.unwanted(label) and _counts(region, video.length, source):
                track = BoxTrack(label, _boxes(region, videos[-1], source))
                track_id = region.track_id if region.track_id not in videos[-1].tracks else region.record
                videos[-1].tracks[track_id] = track
    return videos


def _results(task: Record) -> Iterator[Record]:
    """All regions of a task, an annotation or a prediction, of any kind."""
    holders = [task]
    for key in ("annotations", "predictions"):
        holders += task[key] if isinstance(task.get(key), list) else []
    for holder in holders:
        results = holder.get("result") if isinstance(holder, dict) else None
        yield from (result for result in results or () if isinstance(result, dict)) if isinstance(results, list) else ()


def _sequences(holder: Record) -> list[Record]:
    """Values in an object that have key frames."""
    values = [value for item in holder.values() for value in (item if isinstance(item, list) else [item])]
    return [value for value in values if isinstance(value, dict) and "sequence" in value]


def _regions(record: str, task: Record, source: ImportedFile) -> Iterator[_Region]:
    """Video regions of a task in the full JSON or JSON-MIN."""
    if not {"annotations", "predictions", "result"} & task.keys():
        for key, values in task.items():
            for i, value in enumerate(values if isinstance(values, list) else ()):
                if isinstance(value, dict) and "sequence" in value:
                    where = f"{record}, {key}[{i}]"
                    yield _Region(where, str(value.get("id", f"{key}-{i}")), _labels_of(value), value)
        return
    results = []
    for i, result in enumerate(_annotation(record, task, source)):
        if isinstance(result, dict) and isinstance(result.get("value"), dict):
            results.append((f"{record}, result[{i}]", str(result.get("id") or i), result.get("type"), result["value"]))
        else:
            source.report(f"{record}, result[{i}]", f"is {shortened(result)}", "Export as JSON again")
    # Attributes of a region are additional results with the same id, which repeat its key frames.
    boxes = {track_id for _, track_id, kind, _ in results if kind == "videorectangle"}
    for where, track_id, kind, value in results:
        if kind == "videorectangle":
            labels = [label for _, other, _, said in results if other == track_id for label in _labels_of(said)]
            labels = [label for k, label in enumerate(labels) if label not in labels[:k]]
            yield _Region(where, track_id, labels, value)
        elif "sequence" in value and track_id not in boxes:
            source.leave_out(f"of type {shortened(kind)}", "region")


def _annotation(record: str, task: Record, source: ImportedFile) -> list[Any]:
    """Results of the only annotation of a task, else of its only prediction. Empty, with a report, if there are
    several."""
    holders = [task] if "result" in task else []
    for key in ("annotations", "predictions"):
        entries = task.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            source.report(record, f"{key} is {shortened(entries)}", "Export as JSON again")
            return []
        if entries and not holders:
            holders = [entry for entry in entries if not entry.get("was_cancelled")]
            if len(holders) > 1:
                source.report(record, f"has {len(holders)} {key} of one video", "Keep one of them")
                return []
            if key == "predictions":
                source.note(f"{record} has no annotation: its prediction was imported")
            break
    results = holders[0].get("result") if holders else []
    if not isinstance(results, list):
        source.report(record, f"result is {kind_of(results)}, expected a list", "Export as JSON again")
        return []
    return results


def _labels_of(value: Record) -> list[Any]:
    """Labels of a region. Numbers are converted to text."""
    labels = value.get("labels", value.get("rectanglelabels"))
    labels = labels if isinstance(labels, list) else [] if labels is None else [labels]
    return [str(label) if is_integer(label) else label for label in labels]


def _video_name(task: Record) -> str | None:
    """File name of a task's video, without the hash that uploads prepend. None if there is not exactly one."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    if isinstance(data.get("video"), str):
        names = [_file_name(data["video"])]
    else:
        names = [_file_name(value) for value in data.values() if isinstance(value, str)]
        names = [name for name in names if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
    return re.sub(r"^[0-9a-f]{8}-", "", names[0]) if len(names) == 1 else None


def _file_name(address: str) -> str:
    """Last part of a path or URL: for local storage that of ``?d=``, for cloud storage that of the ``fileuri`` in
    base64."""
    try:
        parts = urlsplit(address)
        query = parse_qs(parts.query)
        if "fileuri" in query:
            path = base64.b64decode(query["fileuri"][0] + "==", altchars=b"-_").decode()
        else:
            path = query["d"][0] if "d" in query else unquote(parts.path)
    except (ValueError, binascii.Error):  # not a URL
        path = address
    return re.split(r"[/\\]", path)[-1]


def _label(region: _Region, source: ImportedFile, labeled: bool) -> str | None:
    """Class of a region. labeled: other regions have labels, so that a region without a label has no class."""
    if not region.labels:
        return source.leave_out("without a label", "region") if labeled else source.only_category(region.record)
    if all(isinstance(label, str) and label for label in region.labels):
        requested = [label for label in region.labels if not source.unwanted(label)]
        if len(region.labels) == 1 or len(requested) == 1:
            return requested[0] if requested else region.labels[0]
    source.report(region.record, f"labels are {shortened(region.labels)}", "Give each region one label")
    return None


def _counts(region: _Region, length: int, source: ImportedFile) -> bool:
    """True if a region was drawn on a video of this length. Others are reported."""
    declared = region.value.get("framesCount")
    if declared is None or is_finite(declared) and abs(declared - length) <= COUNT_SLACK:
        return True
    problem = f"framesCount is {shortened(declared)}, the video has {counted(length, 'frame')}"
    source.report(region.record, problem, "Set the video's own frame rate in Label Studio, or give its frames")
    return False


def _boxes(region: _Region, video: BoxVideo, source: ImportedFile) -> dict[int, Box]:
    """Boxes of one region by frame index, from 0."""
    keys = _keys(region, video.video.length, source)
    visible = {t: (key.sides, key.angle) for t, key in keys.items() if min(key.sides[2:]) > 0}
    frames = sorted(keys)
    for left, right in pairwise(frames):
        start, end = keys[left], keys[right]
        for t in range(left + 1, right) if start.enabled else ():
            share = (t - left) / (right - left)
            *sides, angle = between([*start.sides, start.angle], [*end.sides, end.angle], share)
            visible[t] = sides, angle
    if frames and keys[frames[-1]].enabled:
        visible |= dict.fromkeys(range(frames[-1] + 1, video.video.length), visible[frames[-1]])
    unit_x, unit_y = video.video.width / 100, video.video.height / 100
    boxes = {}
    for t, ((x, y, width, height), angle) in sorted(visible.items()):
        x1, y1 = x * unit_x, y * unit_y
        boxes[t] = hull((x1, y1, x1 + width * unit_x, y1 + height * unit_y), angle, (x1, y1))
    return {t: box for t, box in boxes.items() if t < video.video.length}


def _keys(region: _Region, length: int, source: ImportedFile) -> dict[int, _Key]:
    """Key frames of a region by frame index, from 0. Empty, with a report, if one is invalid."""
    sequence = region.value.get("sequence")
    keys: dict[int, _Key] = {}
    before = len(source.problems)
    if sequence == []:
        source.leave_out("without a key frame", "region")
    elif not isinstance(sequence, list):
        source.report(region.record, f"sequence is {shortened(sequence)}", "Give a list of key frames")
    for i, key in enumerate(sequence if isinstance(sequence, list) else ()):
        record = f"{region.record}, sequence[{i}]"
        fields = key if isinstance(key, dict) else {}
        frame, enabled, angle = fields.get("frame"), fields.get("enabled"), fields.get("rotation", 0)
        sides = [fields.get(name) for name in ("x", "y", "width", "height")]
        if not isinstance(enabled, bool) or not all(map(is_finite, [frame, *sides, angle])) or frame != int(frame):
            source.report(record, f"is {shortened(key)}", "Write frame, enabled, x, y, width, height")
        elif not 1 <= frame <= length + COUNT_SLACK:
            source.report(record, f"frame {frame} is not 1 to {length}", "Give the frames of this video")
        elif min(sides[2:]) < 0 or enabled and min(sides[2:]) == 0:
            source.report(record, f"the box is {sides[2]} x {sides[3]} percent", "Give it a size")
        elif frame - 1 in keys:
            source.report(record, f"frame {frame} occurs twice", "Keep one of the two")
        else:
            keys[int(frame) - 1] = _Key(sides, angle, enabled)
    return keys if len(source.problems) == before else {}


LABEL_STUDIO = Importer("label-studio", sniff_label_studio, read_label_studio)
