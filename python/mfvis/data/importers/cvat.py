"""Tracks of CVAT, exported as "CVAT for video 1.1" (XML)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from xml.etree.ElementTree import Element

from mfvis.data.importers.boxes import BoxTrack, BoxVideo
from mfvis.data.importers.cvat_marks import attach_marks, is_marks, label_of_marks, read_marks
from mfvis.data.importers.cvat_meta import Task, parse_xml, read_tasks, whole
from mfvis.data.importers.cvat_objects import CvatObject, join_masks
from mfvis.data.importers.cvat_shapes import READABLE, Shape, shape_of, visible_shapes
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.types import Video

Shapes = dict[int, Shape]
_REMEDIES = {
    "mask": "Write runs that add up to width x height, whole numbers, and 0 or 1 for the flags",
    "polygon": "Write points as x,y;x,y;x,y and 0 or 1 for the flags",
    "ellipse": "Write numbers with radii of 0 or more, and 0 or 1 for the flags",
}


def sniff_cvat(source: ImportedFile) -> bool:
    """True for XML with annotations."""
    return source.head.lstrip().startswith(b"<") and b"<annotations" in source.head


def read_cvat(source: ImportedFile) -> list[BoxVideo]:
    """Read the tracks of a task, of a job, or of each task of a project, as CVAT shows and imports them.

    Boxes and ellipses are interpolated linearly between key frames. An "outside" key frame hides an object until the
    next key frame. The last key frame holds to the end, except in frames that CVAT wrote for other tracks. Shapes
    between key frames (keyframe="0") are CVAT's interpolation. They are compared with ours, or used if ours is unknown.
    Rotated shapes, ellipses, polygons and masks become their bounding boxes, and polygons and masks are kept as masks.
    Points and polylines become clicks and scribbles of the tracks below them; tracks of other shapes are left out.
    """
    root = parse_xml(source)
    if root is None:
        return []
    if root.tag != "annotations":
        source.report("top level", f"is <{root.tag[:40]}>, expected <annotations>", "Export as CVAT for video 1.1")
        return []
    if root.find("image") is not None:
        source.report("top level", "has images, not tracks", "Export as CVAT for video 1.1, not for images")
        return []
    tasks = read_tasks(root, source)
    tracks = _tracks_by_task(root, tasks, source)
    videos = []
    for task in tasks:
        if len(tasks) > 1 and not tracks[task.id]:
            source.leave_out("without a track to import", "task")
            continue
        video = source.video(task.record, task.name or PurePath(source.display_path).stem, several=len(tasks) > 1)
        if video is not None and task.fits(video, source):
            videos.append(_box_video(video, task, tracks[task.id], source))
    return videos


def _tracks_by_task(root: Element, tasks: list[Task], source: ImportedFile) -> dict[str, list[tuple[str, Element]]]:
    """Tracks of each task, each with its name for messages. Tracks without a box are left out."""
    ids = {task.id for task in tasks}
    tracks = defaultdict(list)
    labels = {element.get("label") for element in root.findall("track") if not is_marks(element)}
    for i, element in enumerate(root.findall("track")):
        label = element.get("label")
        record = f"track {element.get('id', f'at index {i}')}"
        task_id = element.get("task_id", "") if len(tasks) > 1 else tasks[0].id if tasks else ""
        name = label_of_marks(label or "")[0] if is_marks(element) else label
        others = set() if is_marks(element) else {child.tag for child in element} - READABLE
        if not label:
            source.report(record, "has no label", "Give it one")
        elif name in labels and source.unwanted(name):
            continue
        elif tasks and task_id not in ids:
            source.report(record, f"task_id {task_id[:40]!r} is not a task of the project", "Export the project again")
        elif others:
            source.leave_out(f"of type {sorted(others)[0][:40]}", "track")
        elif len(element) == 0:
            source.leave_out("without a shape", "track")
        else:
            tracks[task_id].append((record, element))
    return tracks


def _box_video(video: Video, task: Task, tracks: list[tuple[str, Element]], source: ImportedFile) -> BoxVideo:
    result = BoxVideo(video)
    written, marks = {}, []
    for i, (record, element) in enumerate(tracks):
        if is_marks(element):
            marks += read_marks(element, record, task, video.length, source)
            continue
        before = len(source.problems)
        shapes = _shapes(element, record, task, video.length, source)
        track_id = element.get("id", "")
        if len(source.problems) == before:
            written[track_id if track_id and track_id not in written else f"track {i}"] = (record, element, shapes)
    all_shapes = [shapes for *_, shapes in written.values()]
    # A file with CVAT's interpolation has a shape for every frame in which an object is visible.
    every_frame = any(not shape.is_key for shapes in all_shapes for shape in shapes.values())
    known = frozenset(t for shapes in all_shapes for t in shapes) if every_frame else frozenset()
    objects = []
    for track_id, (record, element, shapes) in written.items():
        visible, wrong, unknown = visible_shapes(shapes, video.length, known)
        source.leave_out("between key frames of an outline", "frame", unknown)
        for t in wrong:
            where = f"{record}, frame {task.number(t)}"
            source.report(where, "is not what its key frames make of it", 'Write keyframe="1" if it is meant')
        group = element.get("group_id", "")
        objects.append(CvatObject(track_id, element.get("label", ""), "" if group == "0" else group, visible))
    objects = join_masks(objects, source)
    attached = attach_marks(marks, objects, source)
    for entry in objects:
        boxes = {t: shape.box() for t, shape in entry.shapes.items()}
        sized = {t: box for t, box in boxes.items() if box[2] > box[0] and box[3] > box[1]}
        source.leave_out("without a size", count=len(boxes) - len(sized))
        masks = {t: entry.shapes[t].mask(video.height, video.width) for t in sized}
        known_masks = {t: mask for t, mask in masks.items() if mask is not None}
        result.tracks[entry.id] = BoxTrack(entry.label, sized, known_masks, attached.get(entry.id, []))
    return result


def _shapes(element: Element, record: str, task: Task, length: int, source: ImportedFile) -> Shapes:
    """Shapes of a track by frame index, from 0."""
    shapes: Shapes = {}
    for where, child in _children(element, record):
        shape = shape_of(child)
        number = whole(child.get("frame", ""))
        t = task.frame(number) if number is not None else None
        if shape is None:
            problem = f"has no valid shape: {_as_text(child.attrib)}"
            source.report(
                where,
                problem,
                _REMEDIES.get(child.tag, "Write numbers with xtl < xbr and ytl < ybr, and 0 or 1 for the flags"),
            )
        elif t is None or t < 0 or t >= length and not shape.outside:  # an end may lie after the last frame
            source.report(where, f"is none of the video's {length} frames", "Give the frames of the task")
        elif t in shapes:
            source.report(where, "the frame occurs twice", "Keep one of the two")
        else:
            shapes[t] = shape
    if shapes.keys() == {length - 2} and shapes[length - 2].kind == "mask":
        # CVAT writes no end of a mask in the last frame but one.
        shapes[length - 1] = shapes[length - 2]._replace(outside=True)
    return shapes


def _children(element: Element, record: str) -> Iterator[tuple[str, Element]]:
    for child in element:
        yield f"{record}, frame {child.get('frame', '?')[:20]}", child


def _as_text(attributes: Mapping[str, str]) -> str:
    return " ".join(f'{name}="{value[:20]}"' for name, value in attributes.items() if name != "frame")[:120]


CVAT = Importer("cvat", sniff_cvat, read_cvat)
