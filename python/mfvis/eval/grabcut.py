"""GrabCut as a baseline for label mode: the masks that OpenCV makes from single frames and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.errors import VideoError
from mfvis.eval.mean_j import filled_box
from mfvis.types import TrackResult, VideoDataset

MAX_MASKS = 100
"""Number of masks, spread evenly over the data set, for which GrabCut is run; one takes up to a second."""


def grabcut_j(dataset: VideoDataset, results: Sequence[TrackResult]) -> tuple[float, float, int] | None:
    """Mean J of GrabCut and of the results over the same masks, and their number.

    None if OpenCV is not installed, or a frame cannot be read.
    """
    try:
        import cv2
    except ImportError:
        return None
    by_track = {(result.video_id, result.track_id): result for result in results}
    places = [
        (video, track, t)
        for video in dataset.videos
        for track in video.tracks
        for t in np.flatnonzero(track.present_T).tolist()
        if track.segmentations is not None and track.segmentations[t] is not None
    ]
    values = []
    for video, track, t in places[:: max(1, -(-len(places) // MAX_MASKS))]:
        try:
            frame_HW3 = read_frames(video, [t])[0].permute(1, 2, 0).numpy()
        except VideoError:
            return None
        truth_HW = decode_mask(track.segmentations[t], video.height, video.width)
        own_HW = decode_mask(by_track[video.id, track.id].segmentations[t], video.height, video.width)
        values.append((_iou(_grabcut(cv2, frame_HW3, track.boxes_T4[t]), truth_HW), _iou(own_HW, truth_HW)))
    if not values:
        return None
    grabcut, own = np.mean(values, 0)
    return float(grabcut), float(own), len(values)


def _grabcut(cv2: object, frame_HW3: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    inside_HW = filled_box(box_4, *frame_HW3.shape[:2])
    if inside_HW.all() or not inside_HW.any():  # there are no colors of the background, or of the object
        return inside_HW
    marks_HW = np.where(inside_HW, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    pixels_HW3 = np.ascontiguousarray(frame_HW3[..., ::-1])
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels_HW3, marks_HW, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return inside_HW & ((marks_HW == cv2.GC_FGD) | (marks_HW == cv2.GC_PR_FGD))


def _iou(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    union = int((a_HW | b_HW).sum())
    return float((a_HW & b_HW).sum() / union) if union else 1.0
