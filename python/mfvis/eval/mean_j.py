"""Mean J: agreement of label mode's masks with the true masks, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask

from mfvis.data.masks import compress_masks
from mfvis.errors import DataError, Problem
from mfvis.eval.tubes import Tube, tube_iou
from mfvis.types import TrackResult, VideoDataset


@dataclass(frozen=True)
class TrackJ:
    """Mean IoU of one track over the frames in which its annotation has a box and a mask."""

    video: str
    track_id: int
    category: str
    frames: int
    j: float
    filled_box_j: float


@dataclass(frozen=True)
class MeanJ:
    """Mean IoU of predicted and true masks over all object-frames, with that of filled boxes as the baseline."""

    j: float
    filled_box_j: float
    object_frames: int
    tracks: tuple[TrackJ, ...]


def filled_box(box_4: np.ndarray, height: int, width: int) -> np.ndarray:
    """The box ``(x1, y1, x2, y2)`` as a bool mask ``[H, W]`` of the pixels whose centers lie in it."""
    x1, y1, x2, y2 = box_4
    inside_x = (np.arange(width) + 0.5 >= x1) & (np.arange(width) + 0.5 < x2)
    inside_y = (np.arange(height) + 0.5 >= y1) & (np.arange(height) + 0.5 < y2)
    return inside_y[:, None] & inside_x


def mean_j(dataset: VideoDataset, results: Sequence[TrackResult]) -> MeanJ:
    """Mean J of label mode: IoU of each predicted mask with the true mask, averaged over all object-frames.

    An object-frame is a frame in which the data set's track has a box and a mask. If the result has no mask there, its
    J is 0. `results` carry the `track_id` that they were made for, and valid masks (`compress_masks`).

    Raises:
        ValueError: if a track has no result, or if the data set has no masks.
        DataError: with every mask of the data set that cannot be read.
    """
    problems: list[Problem] = []
    by_track = {(result.video_id, result.track_id): result for result in results}
    names = {category.id: category.name for category in dataset.categories}
    tracks, values, box_values = [], [], []
    for video in dataset.videos:
        for track in video.tracks:
            if (video.id, track.id) not in by_track:
                raise ValueError(f"results: track {track.id} of video {video.name!r} has no masks; label it first")
            result = by_track[video.id, track.id]
            j, box_j = [], []
            masks = [
                (f"annotation {track.id}, frame {t}", mask, video.height, video.width)
                for t, mask in enumerate(track.segmentations or (None,) * video.length)
            ]
            rles = compress_masks(masks, file=str(dataset.path), problems=problems).rles
            for t in np.flatnonzero(track.present_T):
                rle = rles[t]
                if rle is None:
                    continue
                box = np.asfortranarray(filled_box(track.boxes_T4[t], video.height, video.width), dtype=np.uint8)
                mask = result.segmentations[t] if t < len(result.segmentations) else None
                iou_21 = tube_iou([Tube((mask,)), Tube((coco_mask.encode(box),))], [Tube((rle,))])
                j.append(iou_21[0, 0])
                box_j.append(iou_21[1, 0])
            if j:
                name = names[track.category_id]
                tracks.append(TrackJ(video.name, track.id, name, len(j), float(np.mean(j)), float(np.mean(box_j))))
            values += j
            box_values += box_j
    if problems:
        raise DataError(problems)
    if not values:
        raise ValueError(f"{dataset.path}: no track has masks to compare with; J needs a data set with `segmentations`")
    return MeanJ(float(np.mean(values)), float(np.mean(box_values)), len(values), tuple(tracks))


def best_fitting(dataset: VideoDataset, results: Sequence[TrackResult]) -> list[TrackResult]:
    """Best-overlapping result of each annotated track, whatever its class and score, with the `track_id` of that track.

    Mean J of these results measures the masks of a model independently of its classification and ranking.

    A track of a video without results gets empty masks. `results` carry valid masks (`mfvis.data.results`).

    Raises:
        DataError: with every mask of the data set that cannot be read.
    """
    problems: list[Problem] = []
    assigned = []
    for video in dataset.videos:
        nothing = TrackResult(video.id, 0, 0.0, (None,) * video.length, np.zeros((video.length, 4), np.float32))
        candidates = [result for result in results if result.video_id == video.id] or [nothing]
        tubes = [Tube(result.segmentations) for result in candidates]
        for track in video.tracks:
            masks = [
                (f"annotation {track.id}, frame {t}", mask, video.height, video.width)
                for t, mask in enumerate(track.segmentations or (None,) * video.length)
            ]
            truth = Tube(tuple(compress_masks(masks, file=str(dataset.path), problems=problems).rles))
            best = int(tube_iou(tubes, [truth])[:, 0].argmax())
            assigned.append(replace(candidates[best], category_id=track.category_id, track_id=track.id))
    if problems:
        raise DataError(problems)
    return assigned
