"""Box tracks of other tools and data sets, imported as YouTube-VIS JSON: ``mfvis data import``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from mfvis.data.importers.boxes import Box, BoxVideo, ImportedFile
from mfvis.data.importers.coco_video import read_coco_video
from mfvis.data.importers.csv_table import header_of, read_csv
from mfvis.data.importers.cvat import read_cvat
from mfvis.data.importers.label_studio import read_label_studio
from mfvis.data.importers.scalabel import read_scalabel_boxes
from mfvis.data.importers.text import read_kitti, read_motchallenge
from mfvis.data.importers.yolo import read_yolo
from mfvis.data.jsonfile import read_json, write_json
from mfvis.errors import ConfigError, DataError, Problem

Format = Literal["motchallenge", "csv", "kitti", "yolo", "cvat", "coco-vid", "label-studio", "scalabel"]
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
    videos = _read(source, format)
    found = sorted({track.category for video in videos for track in video.tracks.values()})
    if not source.problems and not found:
        source.report("file", "has no box track", "Give a file with tracks, and the right --format and --categories")
    elif not source.problems and categories and not set(found) & set(categories):
        source.report("file", f"has none of {', '.join(categories)}, but {', '.join(found)}", "Name categories of it")
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


def _read(source: ImportedFile, format: Format | None) -> list[BoxVideo]:
    """The videos of the file by the reader of its format."""
    file = source.file
    if file.is_dir():
        return _read_folder(source, format)
    if format == "yolo":
        source.report("file", "is no folder", "Give the folder of the texts, such as labels")
        return []
    if format == "scalabel":
        return [] if _counts_itself(format, source) else read_scalabel_boxes(source)
    try:
        data = file.read_bytes()
    except OSError as error:
        source.report("file", f"cannot be read ({error.strerror})", "Check the path")
        return []
    if data.startswith(b"PK"):
        source.report("file", "is a ZIP archive", "Unpack it, and give the file with the annotations")
        return []
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if format is None and start == b"<" or format == "cvat":
        return [] if _counts_itself("cvat", source) else read_cvat(data, source)
    if format is None and start in (b"[", b"{") or format in ("label-studio", "coco-vid"):
        return _read_json(source, format)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        source.report("file", "is not a text file in UTF-8", f"Give one of {', '.join(get_args(Format))}")
        return []
    first = next((line for line in text.split("\n") if line.strip()), "")
    if format == "csv" or format is None and "frame" in header_of(text)[1]:
        return read_csv(text, source)
    if format == "motchallenge" or format is None and "," in first:
        return read_motchallenge(text, source)
    if format == "kitti" or format is None and len(first.split()) in (17, 18):
        return read_kitti(text, source)
    source.report("file", "is of no format that can be guessed", f"Say --format {'|'.join(get_args(Format))}")
    return []


def _read_folder(source: ImportedFile, format: Format | None) -> list[BoxVideo]:
    if format is None:
        texts, others = any(source.file.glob("*.txt")), any(source.file.glob("*.json"))
        format = "yolo" if texts and not others else "scalabel"
    if format == "yolo":
        return read_yolo(source)
    if format != "scalabel":
        source.report("file", f"is a folder, {format} is a file", "Name the file")
        return []
    return [] if _counts_itself(format, source) else read_scalabel_boxes(source)


def _read_json(source: ImportedFile, format: Format | None) -> list[BoxVideo]:
    problems: list[Problem] = []
    root = read_json(source.file, problems)
    source.problems += problems
    if problems:
        return []
    with_videos = isinstance(root, dict) and "videos" in root
    if with_videos and "images" not in root:
        source.report("file", "is a YouTube-VIS JSON", "Use it as it is")
        return []
    if format is None:
        format = "coco-vid" if with_videos else "label-studio" if _is_label_studio(root) else "scalabel"
    if _counts_itself(format, source):
        return []
    if format == "coco-vid":
        if with_videos:
            return read_coco_video(root, source)
        source.report("top level", "has no videos", "Give COCO's JSON with videos, images, annotations and categories")
        return []
    return read_label_studio(root, source) if format == "label-studio" else read_scalabel_boxes(source)


def _counts_itself(format: Format, source: ImportedFile) -> bool:
    """Whether --first-frame was given, reported, for a format in which the first frame has but one number."""
    if source.first_frame is None:
        return False
    source.report("file", f"is {format}, whose first frame has one number", "Leave --first-frame out")
    return True


def _is_label_studio(root: Any) -> bool:
    """Whether a JSON holds Label Studio's tasks, not Scalabel's frames."""
    tasks = root if isinstance(root, list) else [root]
    task = tasks[0] if tasks and isinstance(tasks[0], dict) else {}
    return "annotations" in task or any(
        isinstance(value, dict) and "sequence" in value
        for values in task.values()
        for value in (values if isinstance(values, list) else ())
    )
