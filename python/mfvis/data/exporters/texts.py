"""Writers of texts with a line per object: MOTChallenge, MOTS, and YOLO segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from mfvis.data.exporters.classes import class_lines, mots_classes, renumbered
from mfvis.data.exporters.source import Export, ExportedVideo
from mfvis.data.importers.mots import PER_CLASS
from mfvis.data.outlines import connected, mask_polygons
from mfvis.data.rle import decode_mask, mask_box
from mfvis.types import present
from mfvis.writing import atomic_write


def write_motchallenge(export: Export, folder: Path) -> None:
    """MOTChallenge boxes: ``VIDEO/gt/gt.txt`` with ``frame,id,left,top,width,height,1,class,1``, frames from 1 on.

    As in the exports of CVAT and datumaro, pixels count from 0, and ``labels.txt`` next to the text names the classes
    from 1 on. ``seqinfo.ini`` describes the video.
    """
    numbers = {category.name: i for i, category in enumerate(export.categories, 1)}
    for video in export.videos:
        lines = []
        for t in range(video.video.length):
            for track in video.tracks:
                box_4 = track.boxes_T4[t]
                if not present(box_4) and track.rles[t] is not None:
                    box_4 = mask_box(decode_mask(track.rles[t], video.video.height, video.video.width))
                if present(box_4):
                    x1, y1, x2, y2 = box_4.tolist()
                    box = ",".join(f"{round(value, 3):.10g}" for value in (x1, y1, x2 - x1, y2 - y1))
                    lines.append(f"{t + 1},{track.id},{box},1,{numbers[track.category.name]},1")
        write_lines(folder / video.name / "gt" / "gt.txt", lines)
        write_lines(folder / video.name / "gt" / "labels.txt", [category.name for category in export.categories])
        write_lines(folder / video.name / "seqinfo.ini", _seqinfo(video))


def write_mots_text(export: Export, folder: Path) -> None:
    """MOTS: ``VIDEO/gt/gt.txt`` with ``frame id class height width rle`` per line, frames from 1 on.

    The id is the class times 1000 plus the object's index. ``classes.txt`` names the classes, from 0 on, for
    --class-names; car is 1 and pedestrian 2, as in the format's own data sets.
    """
    classes = mots_classes(export.categories)
    for video in export.videos:
        own = renumbered(export, video, most=PER_CLASS - 1, by_class=True)
        lines = [
            f"{t + 1} {classes[track.category.name] * PER_CLASS + own[track.id]} {classes[track.category.name]} "
            f"{video.video.height} {video.video.width} {rle['counts']}"
            for t in range(video.video.length)
            for track in video.tracks
            if (rle := track.rles[t]) is not None
        ]
        write_lines(folder / video.name / "gt" / "gt.txt", lines)
        write_lines(folder / video.name / "seqinfo.ini", _seqinfo(video))
    write_lines(folder / "classes.txt", class_lines(classes, first=0))


def write_yolo(export: Export, folder: Path) -> None:
    """YOLO segmentation: ``labels/train/VIDEO/FRAME.txt`` with ``class x1 y1 x2 y2 ...`` in shares of the image, and
    ``data.yaml``. Images belong in ``images/train/VIDEO``, where ``--images`` writes them.

    The format has no track ids. A mask of several parts is one polygon, whose parts are connected by lines.
    """
    numbers = {category.name: i for i, category in enumerate(export.categories)}
    for video in export.videos:
        size_2 = np.array([video.video.width, video.video.height])
        for t, stem in enumerate(video.stems):
            lines = []
            for track in video.tracks:
                if (rle := track.rles[t]) is None:
                    continue
                polygons = mask_polygons(decode_mask(rle, video.video.height, video.video.width))
                if len(polygons) > 1:
                    export.note("masks of several parts or with holes were written as one polygon")
                points_P2 = np.reshape(connected(polygons), (-1, 2)) / size_2
                shares = " ".join(f"{value:.6f}" for value in points_P2.ravel().tolist())
                lines.append(f"{numbers[track.category.name]} {shares}")
            parent = Path(video.file_names[t]).parent
            write_lines(folder / "labels" / "train" / parent / f"{stem}.txt", lines)
    names = {i: name for name, i in numbers.items()}
    content = yaml.safe_dump({"train": "images/train", "val": "images/train", "names": names}, sort_keys=False)
    with atomic_write(folder / "data.yaml") as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a text with these lines, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _seqinfo(video: ExportedVideo) -> list[str]:
    suffix = Path(video.file_names[0]).suffix
    return [
        "[Sequence]",
        f"name={video.name}",
        "imDir=img1",
        f"frameRate={video.video.fps or 30:g}",
        f"seqLength={video.video.length}",
        f"imWidth={video.video.width}",
        f"imHeight={video.video.height}",
        f"imExt={suffix}",
    ]
