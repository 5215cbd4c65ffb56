"""Box tracks of other tools and data sets, imported as YouTube-VIS JSON: ``mfvis data import``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mfvis.data.importers.boxes import Box
from mfvis.data.importers.source import ImportedFile
from mfvis.data.importers.table import FORMATS, read_videos
from mfvis.data.jsonfile import write_json
from mfvis.errors import ConfigError, DataError
from mfvis.text import name_fault, shortened

Format = Literal[FORMATS]
SLIVER = 0.01
"""Pixels below which what the picture's edge leaves of a box is nothing."""


@dataclass(frozen=True)
class ImportConfig:
    """Import box tracks of MOTChallenge, CSV, KITTI, YOLO, CVAT for video, COCO-VID, Label Studio or Scalabel."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file, or a folder of Scalabel files or of YOLO texts."""
    frames: Path
    """The pictures: a folder of them or a video file; for several videos the folder that has them by name."""
    out: Path
    """The YouTube-VIS JSON to write."""
    format: Format | None = None
    """What the file is; guessed from its content if not given."""
    categories: tuple[str, ...] = ()
    """Import these only, with ids 1, 2, ... in this order; default all, in the order of their names."""
    first_frame: int | None = None
    """The number of the first frame in motchallenge and yolo (default 1), kitti (0) and csv (as its rows show)."""


def run(config: ImportConfig) -> None:
    """Import, write, and say what became of it."""
    if config.out.resolve() == config.file.resolve():
        raise ConfigError(f"--out is the file to import, {config.file}; name another")
    root, left_out = import_tracks(
        config.file,
        config.frames,
        config.out,
        format=config.format,
        categories=config.categories,
        first_frame=config.first_frame,
    )
    write_json(config.out, root)
    names = {category["id"]: category["name"] for category in root["categories"]}
    counts = Counter(names[annotation["category_id"]] for annotation in root["annotations"])
    boxes = sum(box is not None for annotation in root["annotations"] for box in annotation["bboxes"])
    shown = ", ".join(f"{counts[name]} {name}" for name in names.values())
    print(f"{config.out}: {len(root['videos'])} videos, {len(root['annotations'])} tracks ({shown}), {boxes} boxes")
    if left_out:
        print(f"{left_out} boxes outside their picture were left out")


def import_tracks(
    file: str | Path,
    frames: str | Path,
    out: str | Path,
    *,
    format: Format | None = None,
    categories: Sequence[str] = (),
    first_frame: int | None = None,
) -> tuple[dict[str, Any], int]:
    """The content of a YouTube-VIS JSON at `out` with the tracks of `file`; how many boxes were outside their picture.

    Boxes are clipped to the picture; the arguments are `ImportConfig`'s. Nothing is written.

    Raises:
        DataError: with every problem of the file.
    """
    source = ImportedFile(Path(file), Path(frames), tuple(categories), first_frame)
    videos = read_videos(source, format)
    found = sorted({track.category for video in videos for track in video.tracks.values()})
    if not source.problems and not found:
        source.report("file", "has no box track", "Give a file with tracks, and the right --format and --categories")
    elif not source.problems and categories and not set(found) & set(categories):
        source.report("file", f"has none of {', '.join(categories)}, but {', '.join(found)}", "Name categories of it")
    for what, name in [("category", name) for name in found] + [("video", entry.video.name) for entry in videos]:
        if fault := name_fault(name):
            source.report(f"{what} {shortened(name)}", fault, "Give it a shorter, plain name")
    if source.problems:
        raise DataError(source.problems)
    names = list(dict.fromkeys(categories or found))
    base = Path(out).parent / "JPEGImages"
    base = base if base.is_dir() else base.parent
    root: dict[str, Any] = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    left_out = 0
    for number, entry in enumerate(videos, 1):
        video = entry.video
        shape = {"width": video.width, "height": video.height, "length": video.length}
        files = [video.frames] if isinstance(video.frames, Path) else video.frames
        rate = {} if video.fps is None else {"fps": video.fps}
        names_of_files = [Path(os.path.relpath(path, base)).as_posix() for path in files]
        root["videos"].append({"id": number, "name": video.name, "file_names": names_of_files} | shape | rate)
        for track in entry.tracks.values():
            if track.category not in names:
                continue
            bboxes = [_clipped(track.boxes.get(t), video.width, video.height) for t in range(video.length)]
            left_out += len(track.boxes) - sum(box is not None for box in bboxes)
            if any(bboxes):
                ids = {"id": len(root["annotations"]) + 1, "video_id": number}
                category = {"category_id": names.index(track.category) + 1, "iscrowd": 0}
                root["annotations"].append(ids | category | {"bboxes": bboxes} | shape)
    return root, left_out


def _clipped(box: Box | None, width: int, height: int) -> list[float] | None:
    """``[x, y, w, h]`` of what the picture shows of a box."""
    if box is None:
        return None
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    return [x1, y1, x2 - x1, y2 - y1] if x2 - x1 >= SLIVER and y2 - y1 >= SLIVER else None
