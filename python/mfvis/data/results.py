"""Results: predicted tracks as YouTube-VIS' ``results.json``, and annotation files completed with masks."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.jsonfile import is_finite, is_integer, kind_of, read_json, write_json
from mfvis.data.masks import compress_masks
from mfvis.data.ytvis import JsonReader
from mfvis.errors import DataError, Problem
from mfvis.text import shortened
from mfvis.types import TrackResult, VideoDataset
from mfvis.writing import atomic_write


def write_results(path: str | Path, results: Sequence[TrackResult]) -> None:
    """Write predicted tracks as the YouTube-VIS ``results.json`` that evaluation servers and `read_results` take.

    Beyond YouTube-VIS every entry has ``bboxes``, and ``track_id`` where the track was given.
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
    """Write the zip that evaluation servers take: the file `results` as ``results.json``, in no folder."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(results, "results.json")


def read_results(path: str | Path, dataset: VideoDataset) -> list[TrackResult]:
    """Read a ``results.json`` that belongs to `dataset`; missing ``bboxes`` become the masks' boxes.

    Raises:
        DataError: with every problem of the file.
    """
    results, problems = parse_results(path, dataset, with_boxes=True)
    masks = compress_masks(masks_of(dataset, results), file=str(path), problems=problems)
    if problems:
        raise DataError(problems)
    rles = iter(masks.rles)
    results = [replace(result, segmentations=tuple(next(rles) for _ in result.segmentations)) for result in results]
    for result in results:
        for t in np.flatnonzero(~result.boxes_T4.any(1)):
            x, y, w, h = coco_mask.toBbox(result.segmentations[t]) if result.segmentations[t] else (0, 0, 0, 0)
            result.boxes_T4[t] = (x, y, x + w, y + h) if w > 0 else 0
    return results


def masks_of(dataset: VideoDataset, results: Sequence[TrackResult]) -> Iterator[tuple[str, Any, int, int]]:
    """The masks of results one after the other, as `compress_masks` wants them."""
    sizes = {video.id: (video.height, video.width) for video in dataset.videos}
    for place, result in enumerate(results):
        height, width = sizes[result.video_id]
        for t, mask in enumerate(result.segmentations):
            yield f"results[{place}], frame {t}", mask, height, width


def parse_results(
    path: str | Path, dataset: VideoDataset, *, with_boxes: bool = False
) -> tuple[list[TrackResult], list[Problem]]:
    """What is sound in a ``results.json``, and what is not; its masks are as the file has them, and unchecked.

    Of a data set of pictures it may also be COCO's: ``image_id`` and one ``segmentation`` for ``video_id`` and
    ``segmentations``. Boxes are zeros unless `with_boxes`, and where the file has none.
    """
    reader = JsonReader(str(path), boxes_from_masks=True)
    entries = read_json(Path(path), reader.problems)
    if not reader.problems and not isinstance(entries, list):
        reader.report("top level", f"is {kind_of(entries)}, expected a list", "Give a results file, not annotations")
    videos = {video.id: video for video in dataset.videos}
    categories = {category.id: category for category in dataset.categories}
    results: list[TrackResult] = []
    of_pictures = isinstance(entries, list) and any(
        isinstance(entry, dict) and "image_id" in entry and "video_id" not in entry for entry in entries
    )
    if of_pictures and any(video.length != 1 for video in dataset.videos):
        problem = f"holds COCO results, which are of pictures; {dataset.path} has videos"
        reader.report("file", problem, "Give its results, with video_id and segmentations, or the data: coco:PATH")
        entries = None
    owner = "image" if of_pictures else "video"
    for place, entry in enumerate(entries if isinstance(entries, list) else ()):
        record = f"results[{place}]"
        fields = reader.fields(record, entry, (f"{owner}_id", "category_id"))
        if fields is None or not reader.known(record, fields, videos, categories, owner):
            continue
        if not is_finite(entry.get("score")):
            reader.report(
                record, f"score is {shortened(entry.get('score'))}, expected a number", "Write a confidence in 0..1"
            )
            continue
        video = videos[fields[f"{owner}_id"]]
        if of_pictures:
            if entry.get("segmentation") is None:
                problem = "has no segmentation" + (", but a bbox" if "bbox" in entry else "")
                reader.report(record, problem, "Write the mask: boxes alone are not evaluated")
                continue
            entry = entry | {"segmentations": [entry["segmentation"]], "bboxes": [entry.get("bbox")]}
        segmentations = reader.per_frame(record, "segmentations", entry, video.length)
        if segmentations is None:
            if entry.get("segmentations") is None:
                reader.report(record, "has no segmentations", "Write one mask or null per frame")
            continue
        boxes_T4 = np.zeros((video.length, 4), np.float32)
        if with_boxes and entry.get("bboxes") is not None:
            boxes_T4 = reader.boxes(record, entry, video, segmentations)
        track_id = entry.get("track_id")
        if track_id is not None and not is_integer(track_id):
            reader.report(record, f"track_id is {shortened(track_id)}, expected an integer", "Write an annotation's id")
        for t, mask in enumerate(segmentations):
            if (mask and isinstance(mask, list)) or (isinstance(mask, dict) and isinstance(mask.get("counts"), list)):
                # The reference program fails on either.
                problem = "the mask is not a compressed RLE, but polygons or listed runs"
                reader.report(f"{record}, frame {t}", problem, "Encode it with pycocotools.mask.encode")
                segmentations[t] = None
        score, category_id = float(entry["score"]), entry["category_id"]
        results.append(TrackResult(video.id, category_id, score, tuple(segmentations), boxes_T4, track_id))
    return results, reader.problems


def write_labelled(source: str | Path, path: str | Path, results: Sequence[TrackResult]) -> None:
    """Write the annotation file `source` again with masks: each annotation that a result names by its `track_id` gets
    RLE ``segmentations`` and pixel ``areas``; every other field, known or not, stays as it is.

    Raises:
        DataError: when `source` is not an annotation file, or has no annotation of that id and video.
    """
    problems: list[Problem] = []
    root = read_json(Path(source), problems)
    if problems:
        raise DataError(problems)
    annotations = (root.get("annotations") if isinstance(root, dict) else None) or []
    by_id = {(annotation["video_id"], annotation["id"]): annotation for annotation in annotations}
    for result in results:
        annotation = by_id.get((result.video_id, result.track_id))
        if annotation is None:
            record = f"track {result.track_id} of video {result.video_id}"
            problems.append(Problem(str(source), record, "has no annotation", "Complete the file that was labelled"))
            continue
        annotation["segmentations"] = list(result.segmentations)
        annotation["areas"] = [None if rle is None else int(coco_mask.area(rle)) for rle in result.segmentations]
    if problems:
        raise DataError(problems)
    write_json(path, root)


def _bboxes(boxes_T4: np.ndarray) -> list[list[float] | None]:
    return [
        [float(x1), float(y1), float(x2 - x1), float(y2 - y1)] if x2 > x1 and y2 > y1 else None
        for x1, y1, x2, y2 in boxes_T4
    ]
