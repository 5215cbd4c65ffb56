"""Boxes and masks of MOTS: 16-bit PNG, also from CVAT and Datumaro, and text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfvis.data.images import open_image
from mfvis.data.importers.boxes import Box, BoxVideo, whole_number_in
from mfvis.data.importers.class_names import name_classes, read_names_near
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.track_lines import sequence_video
from mfvis.data.rle import encode_mask, mask_box, rle_box
from mfvis.errors import DataError, VideoError
from mfvis.types import Video

CLASSES = {1: "car", 2: "pedestrian"}
IGNORED = 10
PER_CLASS = 1000
"""Factor of the class: a pixel, or the id of a line, is the class times this plus the index of the object."""
DEEP = frozenset({"I", "I;16", "I;16B", "I;16L"})
"""Pillow modes with 16 bits per pixel."""
OPTIONS = frozenset({"first_frame", "class_names"})


def sniff_mots_text(source: ImportedFile) -> bool:
    """True if the first line has six columns, of which only the last is not a number."""
    words = source.lines[0][1].split() if source.is_text and source.lines else []
    return len(words) == 6 and None not in map(whole_number_in, words[:5]) and whole_number_in(words[5]) is None


def read_mots_text(source: ImportedFile) -> list[BoxVideo]:
    """Read ``frame id class height width rle`` per line. Objects of class 10 are ignore regions and left out.

    Frames count from 0 if there is a frame 0, from 1 if the largest equals the video's length, else from --first-frame.
    """
    video = sequence_video(source)
    if video is None:
        return []
    lines = []
    for record, line in source.lines:
        words = line.split()
        numbers = [whole_number_in(word) for word in words[:5]]
        if len(words) != 6 or None in numbers or numbers[1] < 0:
            source.report(record, f"{line[:60]!r} is not frame, id, class, height, width, rle", "Write these six")
        elif numbers[2] == IGNORED:
            source.leave_out("that the file marks as ignored", "region")
        elif (numbers[3], numbers[4]) != (video.height, video.width):
            problem = f"the mask is {numbers[4]} x {numbers[3]}, the video {video.width} x {video.height}"
            source.report(record, problem, "Give the frames that were annotated")
        else:
            lines.append((record, *numbers[:3], {"size": numbers[3:], "counts": words[5]}))
    first = source.first_index([line[1] for line in lines], video.length)
    names = name_classes(source, {line[3] for line in lines}, CLASSES)
    result = BoxVideo(video)
    for record, frame, object_id, number, rle in lines if names and first is not None else ():
        if not first <= frame < first + video.length:
            source.report_frame(record, frame, first, video.length)
            continue
        try:
            box = rle_box(rle, video.height, video.width, file=source.display_path, record=record).tolist()
        except DataError as error:
            source.problems += error.problems
            continue
        source.put(record, result, str(object_id), names[number], frame - first, tuple(box), mask=rle)
    return [result]


def sniff_mots(source: ImportedFile) -> bool:
    """True for a folder that contains folders of PNG with 16 bits per pixel."""
    return source.file.is_dir() and bool(_mask_folders(source.file))


def read_mots(source: ImportedFile) -> list[BoxVideo]:
    """Read a folder of PNG for each video, with a PNG for each frame: class times 1000 plus object index, or 0.

    A PNG has the name of its image, or its name ends with the frame index. ``labels.txt`` next to them (as written by
    CVAT and Datumaro, from 1 on) names classes other than car and pedestrian. 10000 is an ignore region.
    """
    folders = _mask_folders(source.file)
    if not folders:
        source.report("folder", "has no PNG with 16 bits a pixel", "Give the folder instances")
    videos = []
    for folder in folders:
        name = folder.parent.name if folder.name == "instances" else folder.name
        video = source.video(f"folder {name}", name, several=len(folders) > 1)
        if video is not None:
            videos.append(_box_video(source, folder, video))
    return videos


def _box_video(source: ImportedFile, folder: Path, video: Video) -> BoxVideo:
    result = BoxVideo(video)
    labels = folder / "labels.txt"
    names = read_names_near(source, labels, first=1) if labels.is_file() else CLASSES
    frames = _frames(source, video, _pngs(folder))
    objects = [(path.name, t, *entry) for path, t in frames for entry in _boxes(source, path, video)]
    if IGNORED not in names:
        kept = [entry for entry in objects if entry[2] // PER_CLASS != IGNORED]
        source.leave_out("that the file marks as ignored", "region", len(objects) - len(kept))
        objects = kept
    names = name_classes(source, {entry[2] // PER_CLASS for entry in objects}, names)
    for record, t, object_id, box, mask in objects if names else ():
        source.put(record, result, str(object_id), names[object_id // PER_CLASS], t, box, mask=mask)
    return result


def _mask_folders(folder: Path) -> list[Path]:
    """Folders, down to the third level, whose first PNG has 16 bits per pixel."""
    folders = [folder, *(path for pattern in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(f"{pattern}/")))]
    return [path for path in folders if (pngs := _pngs(path)) and _is_deep(pngs[0])]


def _pngs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.png") if path.name[0] != ".")


def _is_deep(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return image.mode in DEEP
    except VideoError:
        return False


def _frames(source: ImportedFile, video: Video, paths: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """PNG files with their frame indices, from 0."""
    images = {} if isinstance(video.frames, Path) else {path.stem: t for t, path in enumerate(video.frames)}
    if all(path.stem in images for path in paths):
        yield from ((path, images[path.stem]) for path in paths)
        return
    endings = [re.search(r"(\d{1,8})$", path.stem, re.ASCII) for path in paths]
    first = source.first_index([int(ending[1]) for ending in endings if ending], video.length)
    for path, ending in zip(paths, endings, strict=True) if first is not None else ():
        if ending is None:
            source.report(
                path.name, "is not named after an image and does not end in a number", "Name it after its image"
            )
        elif not first <= int(ending[1]) < first + video.length:
            source.report_frame(path.name, int(ending[1]), first, video.length)
        else:
            yield path, int(ending[1]) - first


def _boxes(source: ImportedFile, path: Path, video: Video) -> Iterator[tuple[int, Box, dict[str, Any]]]:
    """Objects of a PNG with the box around their pixels and their mask."""
    try:
        with open_image(path) as image:
            if image.size != (video.width, video.height) or image.mode not in DEEP:
                problem = (
                    f"is {image.size[0]} x {image.size[1]} ({image.mode}), the video {video.width} x {video.height}"
                )
                source.report(path.name, problem, "Give PNG with 16 bits a pixel, of the frames that were annotated")
                return
            ids_HW = np.asarray(image).astype(np.int64)
    except VideoError as error:
        source.report(path.name, f"cannot be decoded ({error})", "Export or copy it again")
        return
    for object_id in np.unique(ids_HW[ids_HW >= PER_CLASS]).tolist():
        mask_HW = ids_HW == object_id
        yield object_id, tuple(mask_box(mask_HW).tolist()), encode_mask(mask_HW)


MOTS_TEXT = Importer("mots-text", sniff_mots_text, read_mots_text, options=OPTIONS)
MOTS = Importer("mots", sniff_mots, read_mots, reads_folders=True, options=OPTIONS)
