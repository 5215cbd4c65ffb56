"""Results: predicted tracks as YouTube-VIS' ``results.json``, and annotation files completed with masks."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.categories import category_map
from mfvis.data.jsonfile import as_integer, kind_of, read_json, write_json
from mfvis.data.masks import compress_masks
from mfvis.data.records import RecordReader
from mfvis.data.ytvis import moved_record
from mfvis.errors import DataError, Problem
from mfvis.text import shortened
from mfvis.types import Category, TrackResult, Video, VideoDataset
from mfvis.writing import atomic_write

CATEGORIES_FILE = "categories.json"
"""File next to results.json with the names of its categories, ``[{"id", "name"}]``. YouTube-VIS' results have none."""
NO_CATEGORY = -1


def write_categories(path: str | Path, categories: Sequence[Category]) -> None:
    """Write the names of the categories of a results file."""
    write_json(path, [{"id": category.id, "name": category.name} for category in categories])


def write_results(path: str | Path, results: Sequence[TrackResult]) -> None:
    """Write predicted tracks as a YouTube-VIS ``results.json`` for evaluation servers and `read_results`.

    In addition to YouTube-VIS, every entry has ``bboxes``, and ``track_id`` if the track was an input.
    """
    write_json(
        path,
        [
            {
                "video_id": result.video_id,
                "category_id": result.category_id,
                "score": float(result.score),
                "segmentations": list(result.segmentations),
                "bboxes": _bboxes(result.boxes_T4),
            }
            | ({} if result.track_id is None else {"track_id": result.track_id})
            for result in results
        ],
    )


def zip_results(path: str | Path, results: str | Path) -> None:
    """Write the zip for evaluation servers: the file `results` as ``results.json``, without a folder.

    The same results give the same bytes, since the entry has no date.
    """
    entry = zipfile.ZipInfo("results.json")
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    entry.file_size = Path(results).stat().st_size  # needed to decide about ZIP64
    with (
        atomic_write(path) as temporary,
        open(results, "rb") as source,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)


@dataclass(frozen=True)
class ResultsFile:
    """Valid content of a results file, and its problems. Masks are unchanged and unchecked."""

    results: list[TrackResult]
    problems: list[Problem]
    notes: tuple[str, ...]
    """Notes on entries that were left out, and on content that the reference programs would refuse."""


def read_results(path: str | Path, dataset: VideoDataset) -> list[TrackResult]:
    """Read a ``results.json`` that belongs to `dataset`; missing ``bboxes`` become the masks' boxes.

    Raises:
        DataError: with every problem of the file.
    """
    content = parse_results(path, dataset, with_boxes=True)
    problems = list(content.problems)
    masks = compress_masks(masks_of(dataset, content.results), file=str(path), problems=problems)
    if problems:
        raise DataError(problems)
    rles = iter(masks.rles)
    results = [
        replace(result, segmentations=tuple(next(rles) for _ in result.segmentations)) for result in content.results
    ]
    for result in results:
        for t in np.flatnonzero(~result.boxes_T4.any(1)):
            x, y, w, h = coco_mask.toBbox(result.segmentations[t]) if result.segmentations[t] else (0, 0, 0, 0)
            result.boxes_T4[t] = (x, y, x + w, y + h) if w > 0 else 0
    return results


def masks_of(dataset: VideoDataset, results: Sequence[TrackResult]) -> Iterator[tuple[str, Any, int, int]]:
    """Masks of all results in sequence, as input of `compress_masks`."""
    sizes = {video.id: (video.height, video.width) for video in dataset.videos}
    for index, result in enumerate(results):
        height, width = sizes[result.video_id]
        for t, mask in enumerate(result.segmentations):
            yield f"results[{index}], frame {t}", mask, height, width


def parse_results(path: str | Path, dataset: VideoDataset, *, with_boxes: bool = False) -> ResultsFile:
    """The valid part of a ``results.json`` of `dataset`, and its problems.

    For a data set of images it may also be in COCO's format: ``image_id`` and one ``segmentation`` instead of
    ``video_id`` and ``segmentations``. Boxes are zeros without `with_boxes`, or if the file has none. Categories are
    matched by name if `CATEGORIES_FILE` lies next to the file, else by id. Results of categories that the data set does
    not have are left out, as in the reference programs.
    """
    reader = RecordReader(str(path), boxes_from_masks=True, lenient=True)
    entries = read_json(Path(path), reader.problems)
    if not reader.problems and not isinstance(entries, list):
        reader.report("top level", f"is {kind_of(entries)}, expected a list", "Give a results file, not annotations")
    videos = {video.id: video for video in dataset.videos}
    categories = {category.id for category in dataset.categories}
    names = _names_of_results(Path(path), reader)
    ids = _ids_by_name(Path(path), names, dataset, reader)
    of_images = isinstance(entries, list) and any(
        isinstance(entry, dict) and "image_id" in entry and "video_id" not in entry for entry in entries
    )
    if of_images and any(video.length != 1 for video in dataset.videos):
        problem = f"holds COCO results, which are of images; {dataset.path} has videos"
        reader.report("file", problem, "Give its results, with video_id and segmentations, or the images as --data")
        entries = None
    owner: Literal["video", "image"] = "image" if of_images else "video"
    results: list[TrackResult] = []
    unknown, renumbered = Counter[int](), Counter[int]()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        record = f"results[{index}]"
        fields = reader.fields(record, entry, (f"{owner}_id", "category_id"))
        if fields is None:
            continue
        video, named_id = videos.get(fields[f"{owner}_id"]), fields["category_id"]
        category_id = ids.get(named_id, named_id)
        if video is None:
            problem = f"{owner} {fields[f'{owner}_id']} is unknown"
            reader.report(record, problem, f"Correct {owner}_id, or give the data set that was predicted on")
        elif category_id not in categories:
            unknown[named_id] += 1
        else:
            renumbered[named_id] += category_id != named_id
            result = _result(reader, record, category_id, entry, video, with_boxes)
            results += [] if result is None else [result]
    if renumbered.total():
        listed = _listed([f"{id} {names[id]} is {ids[id]} there" for id, count in renumbered.items() if count])
        what = f"results whose category has another id in {dataset.path}, matched by name ({listed})"
        reader.note(what, renumbered.total())
    if unknown:
        listed = _listed([f"{id} {names.get(id, '')}".strip() for id in sorted(unknown)])
        what = (
            f"results of categories that {dataset.path} does not have ({listed}), left out as the field's programs do"
        )
        reader.note(what, unknown.total())
    return ResultsFile(results, reader.problems, reader.notes())


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:10]) + (", ..." if len(texts) > 10 else "")


def _names_of_results(path: Path, reader: RecordReader) -> dict[int, str]:
    """Names of the categories of a results file by their ids, from `CATEGORIES_FILE`; empty without one."""
    file = path.with_name(CATEGORIES_FILE)
    if not file.is_file():
        return {}
    entries = read_json(file, [])
    pairs = (
        [(as_integer(entry.get("id")), entry.get("name")) for entry in entries if isinstance(entry, dict)]
        if (isinstance(entries, list))
        else []
    )
    names = {id: name for id, name in pairs if id is not None and isinstance(name, str)}
    if not names:
        reader.note(f"file next to the results, {file}, is damaged: categories are compared by their ids")
    return names


def _ids_by_name(path: Path, names: Mapping[int, str], dataset: VideoDataset, reader: RecordReader) -> dict[int, int]:
    """Category ids of the data set by those of the results; `NO_CATEGORY` for names that it does not have."""
    own = [Category(id, name) for id, name in names.items()]
    ids = category_map("", own, "", dataset.categories)
    if names and not ids:
        file = path.with_name(CATEGORIES_FILE)
        reader.note(f"file of class names, {file}, has none of {dataset.path}: categories are compared by their ids")
        return {}
    return {id: ids.get(id, NO_CATEGORY) for id in names}


def _result(
    reader: RecordReader, record: str, category_id: int, entry: dict[str, Any], video: Video, with_boxes: bool
) -> TrackResult | None:
    """One entry of a results file. None, with a report, if it cannot be read."""
    score = entry.get("score")
    # any finite number, since some programs write logits
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        reader.report(record, f"score is {shortened(score)}, expected a number", "Write a confidence in 0..1")
        return None
    if entry.get("segmentation") is not None and "segmentations" not in entry and video.length == 1:
        entry = entry | {"segmentations": [entry["segmentation"]], "bboxes": [entry.get("bbox")]}
    segmentations = reader.per_frame(record, "segmentations", entry, video.length)
    if segmentations is None:
        if entry.get("segmentations") is None:
            boxes = ", but boxes" if "bbox" in entry or "bboxes" in entry else ""
            remedy = "Write the mask of each frame, or null: boxes are not evaluated"
            reader.report(record, f"has no segmentations{boxes}", remedy)
        return None
    boxes_T4 = np.zeros((video.length, 4), np.float32)
    if with_boxes and entry.get("bboxes") is not None:
        boxes_T4 = reader.boxes(record, entry, video, segmentations)
    for mask in segmentations:
        if (mask and isinstance(mask, list)) or (isinstance(mask, dict) and isinstance(mask.get("counts"), list)):
            reader.note("masks that are polygons or listed runs, which the field's programs refuse in results")
    track_id = as_integer(entry.get("track_id"))
    return TrackResult(video.id, category_id, float(score), tuple(segmentations), boxes_T4, track_id)


def write_labeled(
    root: dict[str, Any], path: str | Path, results: Sequence[TrackResult], dataset: VideoDataset
) -> None:
    """Write an annotation file with masks added: each annotation whose `track_id` a result names gets RLE
    ``segmentations`` and pixel ``areas``; in label mode also ``given`` (a bool per frame: the mask is a person's, which
    stays as it was), ``quality`` per frame and ``score`` of the track.

    Frame paths are made relative to the new file by `moved_record`. All other fields, known or not, stay unchanged.

    Args:
        root: the annotation file's content, which is changed.
        path: the new file.
        results: results for the file's tracks.
        dataset: the data set that was read from the file.

    Raises:
        DataError: a result has an id and video without an annotation.
    """
    problems: list[Problem] = []
    annotations = root.get("annotations") or ()
    by_id = {
        (as_integer(annotation["video_id"]), as_integer(annotation["id"])): annotation for annotation in annotations
    }
    for result in results:
        annotation = by_id.get((result.video_id, result.track_id))
        if annotation is None:
            record = f"track {result.track_id} of video {result.video_id}"
            problems.append(Problem(str(dataset.path), record, "has no annotation", "Complete the file that was read"))
            continue
        before = annotation.get("segmentations")
        annotation["segmentations"] = [
            before[t] if t in result.given else rle for t, rle in enumerate(result.segmentations)
        ]
        if result.quality:
            annotation["given"] = [t in result.given for t in range(len(result.segmentations))]
            annotation["quality"], annotation["score"] = list(result.quality), round(result.score, 3)
        annotation["areas"] = [None if rle is None else int(coco_mask.area(rle)) for rle in result.segmentations]
    if problems:
        raise DataError(problems)
    videos = {video.id: video for video in dataset.videos}
    root["videos"] = [moved_record(entry, videos[as_integer(entry["id"])], path) for entry in root["videos"]]
    write_json(path, root, allow_nan=True)


def _bboxes(boxes_T4: np.ndarray) -> list[list[float] | None]:
    return [
        [float(x1), float(y1), float(x2 - x1), float(y2 - y1)] if x2 > x1 and y2 > y1 else None
        for x1, y1, x2, y2 in boxes_T4
    ]
