"""Masks, tracks, results and data sets made by hand, for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mfvis.types import Category, Track, TrackResult, Video, VideoDataset
from pycocotools import mask as coco_mask


def rle(mask_HW: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def rectangle(x1: int, y1: int, x2: int, y2: int, height: int = 20, width: int = 20) -> np.ndarray:
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[y1:y2, x1:x2] = True
    return mask_HW


def box_of(mask_HW: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask_HW)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


def track(id: int, masks: list[np.ndarray | None], category_id: int = 1, areas=None, crowd: bool = False) -> Track:
    boxes = np.array([[0] * 4 if mask is None else box_of(mask) for mask in masks], dtype=np.float32)
    rles = tuple(None if mask is None else rle(mask) for mask in masks)
    measured = tuple(None if mask is None else float(mask.sum()) for mask in masks)
    return Track(id, category_id, boxes, rles, measured if areas is None else areas, crowd)


def result(masks: list[np.ndarray | None], score: float, video_id: int = 1, category_id: int = 1) -> TrackResult:
    rles = tuple(None if mask is None else rle(mask) for mask in masks)
    return TrackResult(video_id, category_id, score, rles, np.zeros((len(masks), 4), dtype=np.float32))


def data_set(*tracks_of_videos: list[Track], length: int = 1, classes: int = 1, side: int = 20) -> VideoDataset:
    videos = tuple(
        Video(number, f"video{number}", side, side, length, (), tuple(tracks))
        for number, tracks in enumerate(tracks_of_videos, start=1)
    )
    categories = tuple(Category(id, f"class{id}") for id in range(1, classes + 1))
    return VideoDataset(Path("true.json"), categories, videos)
