"""Predicted tracks in the formats of BDD100K's segmentation tracking evaluation: Scalabel JSON or bitmasks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mfvis.data.bdd100k import CATEGORIES, class_of
from mfvis.data.bitmask import LARGEST_ID, MOST_PER_FRAME, write_bitmask
from mfvis.data.jsonfile import write_json
from mfvis.data.rle import decode_mask, encode_mask, mask_box
from mfvis.errors import DataError, Problem
from mfvis.text import file_stems
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.writing import atomic_write


def write_bdd100k_results(
    path: str | Path, dataset: VideoDataset, results: Sequence[TrackResult], form: Literal["rle", "bitmask"] = "rle"
) -> None:
    """Write predicted tracks in a format of BDD100K's segmentation tracking evaluation. Every frame is written.

    Each pixel goes to its highest-scoring track. A frame keeps its 100 highest-scoring tracks. Categories are matched
    by name. Frames keep their names.

    Args:
        path: for "rle" one Scalabel JSON; for "bitmask" a folder, new or empty, with a folder of PNGs per video.

    Raises:
        DataError: when a category is not one of the eight, a result's video is unknown, or the folder is not empty.
    """
    path = Path(path)
    classes = {
        category.id: bdd_class[0]
        for category in dataset.categories
        if (bdd_class := class_of(category.name)) is not None and not bdd_class[1]
    }
    videos = {video.id for video in dataset.videos}
    problems = []
    for i, result in enumerate(results):
        record = f"results[{i}]"
        if result.category_id not in classes:
            problem = f"category {result.category_id} is none of BDD100K's eight classes"
            problems.append(Problem(str(path), record, problem, "Predict with a model of BDD100K's classes"))
        if result.video_id not in videos:
            problem = f"video {result.video_id} is unknown"
            problems.append(Problem(str(path), record, problem, "Give the data set that was predicted on"))
    if form == "bitmask" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        problems.append(Problem(str(path), "folder", "exists and is not empty", "Remove it, or name another"))
    if problems:
        raise DataError(problems)

    # In score order: the index becomes the track id, and the lower id wins a pixel that two tracks share.
    ranked: dict[int, list[TrackResult]] = {video.id: [] for video in dataset.videos}
    for result in sorted(results, key=lambda result: -result.score):
        ranked[result.video_id].append(result)
    if form == "rle":
        write_json(path, [frame for video in dataset.videos for frame in _scalabel(video, ranked[video.id], classes)])
        return
    with atomic_write(path) as temporary:
        temporary.mkdir()
        stems = file_stems(video.name for video in dataset.videos)
        for stem, video in zip(stems, dataset.videos, strict=True):
            _bitmasks(temporary / stem, video, ranked[video.id], classes)


def write_tracking_file(
    folder: Path, dataset: VideoDataset, results: Sequence[TrackResult], min_score: float
) -> list[str]:
    """Write bdd100k.json for the evaluation of BDD100K. Returns the file names.

    The evaluation ignores scores, so that every low-scoring track could become a false positive. Tracks below
    `min_score` are left out.
    """
    write_bdd100k_results(folder / "bdd100k.json", dataset, [each for each in results if each.score >= min_score])
    return ["bdd100k.json"]


def _scalabel(video: Video, tracks: Sequence[TrackResult], classes: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """Frames of a video as Scalabel records, in order."""
    for name, index, masks in _frames(video, tracks):
        labels = []
        for object_id, mask_HW in masks.items():
            x1, y1, x2, y2 = mask_box(mask_HW).tolist()
            labels.append(
                {
                    "id": str(object_id),
                    "category": CATEGORIES[classes[tracks[object_id - 1].category_id] - 1].name,
                    "score": float(tracks[object_id - 1].score),
                    "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1},
                    "rle": encode_mask(mask_HW),
                }
            )
        yield {"name": name, "videoName": video.name, "frameIndex": index, "labels": labels}


def _bitmasks(folder: Path, video: Video, tracks: Sequence[TrackResult], classes: Mapping[int, int]) -> None:
    """Write a bitmask for every frame of a video, including blank ones: the evaluation program requires all of them."""
    for name, _, masks in _frames(video, tracks):
        id_HW = np.zeros((video.height, video.width), np.int32)
        category_HW = np.zeros_like(id_HW)
        for object_id, mask_HW in masks.items():
            id_HW[mask_HW], category_HW[mask_HW] = object_id, classes[tracks[object_id - 1].category_id]
        write_bitmask(folder / f"{Path(name).stem}.png", category_HW, np.zeros_like(id_HW), id_HW)


def _frames(video: Video, tracks: Sequence[TrackResult]) -> Iterator[tuple[str, int, dict[int, np.ndarray]]]:
    """Name, index and disjoint masks of each frame of a video. The masks are keyed by track id, from 1 in the order of
    `tracks`."""
    if len(tracks) > LARGEST_ID:
        problem = f"has {len(tracks)} tracks, a bitmask holds {LARGEST_ID}"
        raise DataError([Problem("results", f"video {video.name}", problem, "Keep the best")])
    for t in range(video.length):
        name = f"{video.name}-{t + 1:07d}.jpg" if isinstance(video.frames, Path) else video.frames[t].name
        # The toolkit reads a frame's index from its name.
        numbered = re.search(r"-(\d{7})$", Path(name).stem)
        taken_HW = np.zeros((video.height, video.width), bool)
        masks: dict[int, np.ndarray] = {}
        for object_id, result in enumerate(tracks, start=1):
            if result.segmentations[t] is None or len(masks) == MOST_PER_FRAME:
                continue
            record = f"video {video.name}, frame {t}"
            mask_HW = decode_mask(result.segmentations[t], video.height, video.width, file="results", record=record)
            mask_HW &= ~taken_HW
            if mask_HW.any():
                masks[object_id] = mask_HW
                taken_HW |= mask_HW
        yield name, int(numbered[1]) - 1 if numbered else t, masks
