"""Checks that find all problems of a data set before training instead of during it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mfvis.data.datasets import DATASET_NAMES, DatasetSpec, parse_file, parse_spec
from mfvis.data.images import UNKNOWN_RANGE, open_image, orientation
from mfvis.data.jsonfile import read_object
from mfvis.data.marks import check_marks
from mfvis.data.rle import decode_mask, mask_box
from mfvis.data.video_frames import decode_frames
from mfvis.data.video_index import index_video
from mfvis.errors import DataError, Problem, VideoError
from mfvis.text import counted
from mfvis.types import Track, Video, VideoDataset

LEAST_AGREEMENT = 0.5
"""Lowest plausible IoU of a box and its mask's box. Below it one of the two must be wrong. Boxes drawn by hand reach
0.8 and more."""


@dataclass(frozen=True)
class CheckConfig:
    """Report every problem of an annotation file, of the frames it names, and of its masks, clicks and scribbles."""

    file: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="DATA",
            help="A JSON in the layout of YouTube-VIS or COCO, or a named data set, NAME:FOLDER (default split: train; "
            f"others: @split=valid). Names: {DATASET_NAMES}.",
        ),
    ]
    frames: Path | None = None
    """Folder that file_names are relative to. Default: JPEGImages next to the JSON, else the JSON's folder."""


def run(config: CheckConfig) -> int:
    """Print the findings of `check_dataset`. Returns status 1 if there are any."""
    dataset, problems = check_dataset(parse_spec(config.file), config.frames)
    for problem in problems:
        print(problem)
    for note in dataset.notes:
        print(note)
    if problems:
        print(counted(len(problems), "problem"))
        return 1
    tracks = [track for video in dataset.videos for track in video.tracks]
    boxes = sum(int(track.present_T.sum()) for track in tracks)
    counts = (counted(len(dataset.videos), "video"), counted(len(tracks), "track"), counted(boxes, "box"))
    print(f"{config.file}: {', '.join(counts)}, no problem")
    return 0


def check_dataset(spec: DatasetSpec, frames_dir: str | Path | None = None) -> tuple[VideoDataset, list[Problem]]:
    """The readable part of a data set, and all problems of its annotations, frames, masks, clicks and scribbles.

    Every frame is read completely, and every mask is decoded. A broken record is reported, and everything that depends
    on it is skipped.
    """
    if spec.name:
        try:
            dataset, problems = spec.load("train", frames_dir), []
        except DataError as error:
            return VideoDataset(spec.path, (), ()), list(error.problems)
    else:
        problems = []
        root = read_object(spec.path, problems)
        if root is None:
            return VideoDataset(spec.path, (), ()), problems
        dataset, problems = parse_file(spec, frames_dir, root=root)
        problems += check_marks(root, dataset)
    for video in dataset.videos:
        problems += check_frames(video)
        for track in video.tracks:
            problems += _masks(str(dataset.path), video, track)
    return dataset, problems


def check_file(json_path: str | Path, frames_dir: str | Path | None = None) -> list[Problem]:
    """All problems of a YouTube-VIS file that `check_dataset` finds."""
    return check_dataset(DatasetSpec(Path(json_path)), frames_dir)[1]


def check_frames_of(
    videos: Sequence[Video], after_video: Callable[[Video], None] = lambda video: None
) -> list[Problem]:
    """All problems of the frames of several videos that `check_frames` finds, using all CPU cores.

    after_video: called when a video has been checked.
    """
    threads = min(16, len(os.sched_getaffinity(0)))
    found = []
    with ThreadPoolExecutor(threads) as pool:  # decoding an image releases the GIL
        for video, problems in zip(videos, pool.map(check_frames, videos), strict=True):
            found += problems
            after_video(video)
    return found


def check_frames(video: Video) -> list[Problem]:
    """All problems of the frames of a video. Images and video files are decoded completely."""
    record = f"video {video.id}"
    return list(_video_file(video, record) if isinstance(video.frames, Path) else _frame_files(video, record))


def _frame_files(video: Video, record: str) -> Iterator[Problem]:
    missing = [path for path in video.frames if not os.path.exists(path)]
    if len(missing) == len(video.frames) > 1:
        problem = f"none of its {len(missing)} frame files exists"
        yield Problem(str(missing[0]), record, problem, "Copy them there, or name the right frames folder")
        return
    for t, path in enumerate(video.frames):
        frame = f"{record}, frame {t}"
        if path in missing:
            yield Problem(str(path), frame, "the frame's file does not exist", "Copy it there, or correct file_names")
            continue
        try:
            with open_image(path) as image:
                width, height = image.size
                # JPEG only: read the whole file, but compute only an eighth of the image.
                image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
                turned = orientation(image) > 4
        except VideoError as error:
            yield _problem(error, path, frame)
            continue
        if image.mode in UNKNOWN_RANGE:
            yield Problem(str(path), frame, "the image has 32 bits a pixel", "Save it with 8 bits a channel")
        if turned:
            width, height = height, width
        if (width, height) != (video.width, video.height):
            size = f"{width} x {height}{' (turned as its EXIF says)' if turned else ''}"
            problem = f"the image is {size}, the video is declared {video.width} x {video.height}"
            yield Problem(str(path), frame, problem, "Correct width and height, or resize the image")


def _video_file(video: Video, record: str) -> Iterator[Problem]:
    file, path = str(video.frames), video.frames
    try:
        size = None
        for frame, image_HW3 in enumerate(decode_frames(path, range(index_video(path).length))):
            height, width, _ = image_HW3.shape
            if size is None and (width, height) != (video.width, video.height):
                size = width, height
                where = f" from frame {frame} on" if frame else ""
                declared = f"{video.width} x {video.height}"
                problem = f"the video file is {width} x {height}{where}, the video is declared {declared}"
                yield Problem(file, record, problem, "Correct width and height, or scale the video file")
        length = index_video(path).length
    except VideoError as error:
        yield _problem(error, path, record)
        return
    if length != video.length:
        # The assignment of boxes to frames is unknown if the video is longer than the annotations.
        remedy = "give the whole video" if length < video.length else "cut the file to the frames that have entries"
        problem = f"the video file has {counted(length, 'frame')}, the video is declared to have {video.length}"
        yield Problem(file, record, problem, f"Correct length, or {remedy}")


def _problem(error: VideoError, path: Path, record: str) -> Problem:
    problem, _, remedy = str(error).removeprefix(f"{path}: ").rpartition(". ")
    return Problem(str(path), record, problem, remedy if os.path.isfile(path) else f"{remedy}, or correct file_names")


def _masks(file: str, video: Video, track: Track) -> Iterator[Problem]:
    for t, segmentation in enumerate(track.segmentations or ()):
        if segmentation is None or segmentation == []:
            continue
        record = f"annotation {track.id}, frame {t}"
        try:
            box = mask_box(decode_mask(segmentation, video.height, video.width, file=file, record=record))
        except DataError as error:
            yield from error.problems
            continue
        if not box.any():
            if track.present_T[t] and isinstance(segmentation, list):
                problem = f"the polygons hold no pixel, but the box is {_xywh(track.boxes_T4[t])}"
                yield Problem(file, record, problem, "Write points [x1, y1, x2, y2, ...] in pixels")
        elif not track.present_T[t]:
            yield Problem(
                file, record, "has a mask but no box", f"Write the mask's box, {_xywh(box)}, or drop the mask"
            )
        elif _iou(track.boxes_T4[t], box) < LEAST_AGREEMENT:
            problem = f"the box {_xywh(track.boxes_T4[t])} and the mask's box {_xywh(box)} disagree"
            yield Problem(file, record, problem, "Correct whichever is wrong (boxes are [x, y, width, height])")


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))


def _xywh(box: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in (*box[:2], *(box[2:] - box[:2]))]
