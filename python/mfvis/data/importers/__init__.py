"""Import of box tracks from other tools and data sets as YouTube-VIS JSON: ``mfvis data import``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mfvis.data.importers.boxes import Box, BoxTrack, BoxVideo
from mfvis.data.importers.class_names import parse_class_names
from mfvis.data.importers.source import ImportedFile
from mfvis.data.importers.table import FORMATS, read_videos
from mfvis.data.importers.track_lines import is_number
from mfvis.data.jsonfile import write_json
from mfvis.data.marks import Point, Scribble, fields_of, touches
from mfvis.data.ytvis import file_name
from mfvis.errors import ConfigError, DataError
from mfvis.text import counted, name_fault, shortened

Format = Literal[FORMATS]
SLIVER = 0.01
"""Size in pixels below which the visible part of a box at the edge of the image is ignored."""
OUTSIDE = "outside the image"
MAX_SHARE_OUTSIDE = 0.25
"""Fraction of the boxes that may lie outside their image. Above it, the images belong to another video."""
LARGEST_ID = 2**53
"""Smallest id that may be inexact in programs that read JSON numbers as floating-point numbers."""


@dataclass(frozen=True)
class ImportConfig:
    """Import box tracks of other tools and data sets as a YouTube-VIS JSON."""

    file: Annotated[Path, tyro.conf.Positional]
    """File, ZIP archive, or folder, such as a sequence or a split of MOT17, or the labels of YOLO."""
    frames: Path
    """Folder of images, or video file. For several videos, the folder that contains them by name."""
    out: Path
    """YouTube-VIS JSON to write."""
    format: Format | None = None
    """Format of the file. Default: recognized from its content."""
    categories: tuple[str, ...] = ()
    """Categories to import, with ids 1, 2, ... in this order. Default: all, sorted by name. A single category is also
    the class of boxes in files without classes."""
    class_names: tuple[str, ...] = ()
    """Names of numbered classes: 0=person 2=car, or a file with one name per line, from 0 on, or YOLO's data.yaml."""
    first_frame: int | None = None
    """Index of the first frame in texts and tables. Default: 1 for motchallenge, 0 for kitti, otherwise inferred from
    the file."""
    first_pixel: Literal[0, 1] | None = None
    """Index of the first pixel of a row in texts. Default: 1 for ground truth of MOTChallenge and of single-object
    tracking, else 0."""


def run(config: ImportConfig) -> None:
    """Import, write, and print a summary of what was imported and left out."""
    if config.out.resolve() == config.file.resolve():
        raise ConfigError(f"--out is the file to import, {config.file}; name another")
    root, notes = import_tracks(
        config.file,
        config.frames,
        config.out,
        format=config.format,
        categories=config.categories,
        class_names=config.class_names,
        first_frame=config.first_frame,
        first_pixel=config.first_pixel,
    )
    write_json(config.out, root)
    names = {category["id"]: category["name"] for category in root["categories"]}
    counts = Counter(names[annotation["category_id"]] for annotation in root["annotations"])
    boxes = sum(box is not None for annotation in root["annotations"] for box in annotation["bboxes"])
    masks = sum(bool(mask) for annotation in root["annotations"] for mask in annotation.get("segmentations", ()))
    classes = ", ".join(f"{counts[name]} {name}" for name in names.values())
    tracks = f"{counted(len(root['annotations']), 'track')} ({classes})"
    marks = sum(len(annotation.get(key, ())) for annotation in root["annotations"] for key in ("points", "scribbles"))
    parts = [counted(len(root["videos"]), "video"), tracks, counted(boxes, "box")]
    parts += [counted(masks, "mask")] if masks else []
    parts += [f"{marks} clicks and scribbles"] if marks else []
    print(f"{config.out}: {', '.join(parts)}")
    for note in notes:
        print(f"note: {note}")


def import_tracks(
    file: str | Path,
    frames: str | Path,
    out: str | Path,
    *,
    format: Format | None = None,
    categories: Sequence[str] = (),
    class_names: Sequence[str] = (),
    first_frame: int | None = None,
    first_pixel: Literal[0, 1] | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Content of a YouTube-VIS JSON at `out` with the tracks of `file`, and notes on decisions and on what was left
    out.

    Boxes are clipped to the image. ``track_id`` of an annotation is the original id. ``id`` is also the original id if
    all of them are unique positive integers. The arguments are those of `ImportConfig`. No file is written.

    Raises:
        ConfigError: for malformed `class_names`.
        DataError: with every problem of the file.
    """
    names = parse_class_names(class_names)
    source = ImportedFile(Path(file), Path(frames), tuple(categories), first_frame, first_pixel, names)
    videos = read_videos(source, format)
    if not source.problems:
        _check_content(source, videos)
    if source.problems:
        raise DataError(source.problems)
    present = sorted({track.category for video in videos for track in video.tracks.values()})
    category_ids = {name: i for i, name in enumerate(dict.fromkeys(categories or present), 1)}
    root: dict[str, Any] = {
        "videos": [_video_record(video, i, Path(out)) for i, video in enumerate(videos, 1)],
        "annotations": [],
        "categories": [{"id": i, "name": name} for name, i in category_ids.items()],
    }
    for record, video in zip(root["videos"], videos, strict=True):
        for track_id, track in video.tracks.items():
            bboxes = [_clipped(track.boxes.get(t), record["width"], record["height"]) for t in range(record["length"])]
            source.leave_out(OUTSIDE, count=len(track.boxes) - sum(map(bool, bboxes)))
            if track.category in category_ids and any(bboxes):
                ids = {"id": 0, "track_id": int(track_id) if is_number(track_id) else track_id}
                fields = {"video_id": record["id"], "category_id": category_ids[track.category], "iscrowd": 0}
                shape = {key: record[key] for key in ("width", "height", "length")}
                marks = fields_of(_marks(track, bboxes, record, source))
                root["annotations"].append(ids | fields | {"bboxes": bboxes} | _masks(track, bboxes) | marks | shape)
    outside, boxes = (
        source.left_out["box", OUTSIDE],
        sum(len(t.boxes) for video in videos for t in video.tracks.values()),
    )
    if outside > MAX_SHARE_OUTSIDE * boxes:
        problem = f"{outside} of {boxes} boxes lie outside the images"
        source.report("file", problem, "Give the frames that were annotated, in their size")
        raise DataError(source.problems)
    _assign_ids(root["annotations"])
    return root, _notes(source)


def _note_outvoted(source: ImportedFile, tracks: Sequence[BoxTrack]) -> None:
    """Add a note with the number of boxes that were assigned to the majority category of their track."""
    outvoted = sum(track.votes.total() - track.votes[track.category] for track in tracks)
    if outvoted:
        source.note(f"boxes with another class than most boxes of their track took that ({outvoted})")


def _check_content(source: ImportedFile, videos: Sequence[BoxVideo]) -> None:
    """Report a file without tracks, requested categories without tracks, and boxes in fractions of the image."""
    tracks = [track for video in videos for track in video.tracks.values() if track.boxes]
    present = sorted({track.category for track in tracks})
    for what, name in [("category", name) for name in present] + [("video", entry.video.name) for entry in videos]:
        if fault := name_fault(name):
            source.report(f"{what} {shortened(name)}", fault, "Give it a shorter, plain name")
    if not present:
        remedy = "Give a file with tracks, and the right --format and --categories"
        source.report("file", f"has no box track{_in_brackets(source)}", remedy)
    elif source.categories and not set(present) & set(source.categories):
        problem = f"has none of {', '.join(source.categories)}, but {', '.join(present)}"
        source.report("file", problem, "Name categories of it")
    elif max(map(_longest_side, tracks)) <= 1:
        problem = "no box is as large as a pixel: are these shares of the image?"
        source.report("file", problem, "Multiply by its size")
    _note_outvoted(source, tracks)


def _longest_side(track: BoxTrack) -> float:
    return max(max(box[2] - box[0], box[3] - box[1]) for box in track.boxes.values())


def _video_record(video: BoxVideo, video_id: int, out: Path) -> dict[str, Any]:
    """JSON record of a video, with file names relative to the folder in which mfvis looks for them."""
    frames = video.video.frames
    files = [frames] if isinstance(frames, Path) else frames
    names = [file_name(out, path) for path in files]
    shape = {"width": video.video.width, "height": video.video.height, "length": video.video.length}
    rate = {} if video.video.fps is None else {"fps": video.video.fps}
    return {"id": video_id, "name": video.video.name, "file_names": names} | shape | rate


def _clipped(box: Box | None, width: int, height: int) -> list[float] | None:
    """The part of a box inside the image, ``[x, y, w, h]``."""
    if box is None:
        return None
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    return [x1, y1, x2 - x1, y2 - y1] if x2 - x1 >= SLIVER and y2 - y1 >= SLIVER else None


def _masks(track: BoxTrack, bboxes: Sequence[list[float] | None]) -> dict[str, Any]:
    """``segmentations`` of a track with masks: null in frames whose mask is unknown."""
    masks = [None if bbox is None else track.masks.get(t) for t, bbox in enumerate(bboxes)]
    return {"segmentations": masks} if any(mask is not None for mask in masks) else {}


def _marks(
    track: BoxTrack, bboxes: Sequence[list[float] | None], video: dict[str, Any], source: ImportedFile
) -> list[Point | Scribble]:
    """Clicks and scribbles of a track, moved into the image. Those that label mode cannot use are left out."""
    marks = []
    for mark in track.marks:
        noun = "click" if isinstance(mark, Point) else "scribble"
        bbox = bboxes[mark.frame]
        xy = [_inside(x, y, video["width"], video["height"]) for x, y in mark.xy]
        moved = Point(mark.frame, *xy[0], mark.positive) if isinstance(mark, Point) else replace(mark, xy=tuple(xy))
        if bbox is None:
            source.leave_out("in a frame without a box of its track", noun)
        elif mark.positive and not touches(moved, (bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3])):
            source.leave_out("on the object but outside its box", noun)
        else:
            marks.append(moved)
    return marks


def _inside(x: float, y: float, width: int, height: int) -> tuple[float, float]:
    """The nearest position in the image, to a hundredth of a pixel."""
    return min(max(x, 0.0), width - 0.01), min(max(y, 0.0), height - 0.01)


def _assign_ids(annotations: Sequence[dict[str, Any]]) -> None:
    """Set the annotation ids: the original track ids if they are unique positive integers, else 1, 2, ..."""
    originals = {annotation["track_id"] for annotation in annotations}
    usable = len(originals) == len(annotations) and all(isinstance(i, int) and 0 < i < LARGEST_ID for i in originals)
    for i, annotation in enumerate(annotations, 1):
        annotation["id"] = annotation["track_id"] if usable else i


def _notes(source: ImportedFile) -> tuple[str, ...]:
    counts = []
    for (noun, why), count in source.left_out.items():
        counts += [f"{counted(count, noun)} {why} {'was' if count == 1 else 'were'} left out"] if count else []
    return (*source.notes, *counts)


def _in_brackets(source: ImportedFile) -> str:
    notes = "; ".join(_notes(source))
    return f" ({notes})" if notes else ""
