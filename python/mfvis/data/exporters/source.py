"""Content of an export: videos and tracks with checked masks, from any file with masks that mfvis reads."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mfvis.data import coco, ytvis
from mfvis.data.datasets import parse_spec
from mfvis.data.jsonfile import as_integer, read_json
from mfvis.data.marks import Point, Scribble, read_marks, records_of
from mfvis.data.masks import compress_masks
from mfvis.data.outlines import mask_polygons
from mfvis.data.results import read_results
from mfvis.data.rle import decode_mask, uncompress
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.text import file_stems
from mfvis.types import Category, Track, TrackResult, Video, VideoDataset, present
from mfvis.writing import atomic_write

MaskForm = Literal["rle", "list", "polygons"]
"""Form of masks in a JSON: a compressed RLE, an RLE whose counts are a list, or polygons."""
Rle = dict[str, Any]


@dataclass(frozen=True)
class ExportedTrack:
    """One object of a video."""

    id: int
    """0 or more, unique in its video; the original track id where that is possible."""
    category: Category
    boxes_T4: np.ndarray
    """float32 ``[T, 4]``; zeros where the object has no box."""
    rles: tuple[Rle | None, ...]
    """Compressed RLE of each frame; None without a mask."""
    score: float | None = None
    """Score of a predicted track."""
    marks: tuple[Point | Scribble, ...] = ()
    """Clicks and scribbles of a person."""

    @property
    def present_T(self) -> np.ndarray:
        """bool ``[T]``: True in frames in which the object has a box."""
        return present(self.boxes_T4)


@dataclass(frozen=True)
class ExportedVideo:
    """One video and its objects."""

    video: Video
    name: str
    """Name that is unique among the videos and can be that of a file or folder."""
    file_names: tuple[str, ...]
    """Names of the frames' images, ``VIDEO/FRAME``: frames of two videos never have the same name."""
    tracks: tuple[ExportedTrack, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the frames within their video, without suffix."""
        return tuple(Path(name).stem for name in self.file_names)


@dataclass(frozen=True)
class Export:
    """Everything that a writer of a format needs."""

    categories: tuple[Category, ...]
    videos: tuple[ExportedVideo, ...]
    masks: MaskForm | None = None
    """Requested form of the masks; None: that of the format."""
    noted: Counter[str] = field(default_factory=Counter)
    """Number of things that were left out or changed, by description."""

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or changed."""
        self.noted[what] += count

    @property
    def has_masks(self) -> bool:
        return any(rle for video in self.videos for track in video.tracks for rle in track.rles)


def read_export(
    file: str, data: str | None, frames: Path | None, min_score: float, masks: MaskForm | None = None
) -> Export:
    """Read annotations, or results together with the data that they belong to.

    Args:
        file: A JSON in the layout of YouTube-VIS or COCO, a named data set, or a results file.
        data: For results: the JSON or named data set that was predicted on.
        frames: Folder of the frames.
        min_score: Minimum score of the results to export.
        masks: Requested form of the masks.

    Raises:
        ConfigError: `data` is missing for results, or given for annotations.
        DataError: with every problem of the files.
    """
    spec = parse_spec(file)
    problems: list[Problem] = []
    root = None if spec.name else read_json(spec.path, problems)
    if problems:
        raise DataError(problems)
    original: dict[int, int] = {}
    results: list[TrackResult] = []
    if isinstance(root, list):
        if data is None:
            raise ConfigError(f"{file} holds results; name the data that were predicted on with --data")
        dataset = parse_spec(data).load("valid", frames)
        results = read_results(spec.path, dataset)
    elif data is not None:
        raise ConfigError(f"{file} holds annotations, which need no --data; leave it out")
    elif isinstance(root, dict):
        parse = coco.parse_coco if coco.is_coco(root) else ytvis.parse_ytvis
        dataset, problems = parse(spec.path, frames, boxes_from_masks=True, root=root)
        if problems:
            raise DataError(problems)
        original = _original_ids(root)
    else:
        dataset = spec.load("valid", frames)
    return _export(
        dataset, original, records_of(root), results if isinstance(root, list) else None, min_score, masks, file
    )


def _original_ids(root: dict[str, Any]) -> dict[int, int]:
    """Track ids that ``mfvis data import`` kept, by annotation id."""
    ids = {}
    for annotation in root.get("annotations") or ():
        track_id = as_integer(annotation.get("track_id"))
        if track_id is not None and track_id >= 0:
            ids[as_integer(annotation["id"])] = track_id
    return ids


def _export(
    dataset: VideoDataset,
    original: dict[int, int],
    annotations: dict[tuple[int | None, int | None], dict[str, Any]],
    results: list[TrackResult] | None,
    min_score: float,
    masks: MaskForm | None,
    file: str,
) -> Export:
    names = {category.id: category for category in dataset.categories}
    export = Export(dataset.categories, (), masks)
    problems: list[Problem] = []
    stems = file_stems(video.name for video in dataset.videos)
    videos = []
    for video, stem in zip(dataset.videos, stems, strict=True):
        if results is None:
            entries = [(track, None) for track in video.tracks]
        else:
            own = [result for result in results if result.video_id == video.id]
            sure = [result for result in own if result.score >= min_score]
            if len(own) > len(sure):
                export.note(f"results below the score of {min_score:g} were left out", len(own) - len(sure))
            entries = [(_track_of(result, n), result.score) for n, result in enumerate(sure, 1)]
        crowds = sum(bool(track.iscrowd) for track, _ in entries)
        if crowds:
            export.note("crowds were left out", crowds)
            entries = [(track, score) for track, score in entries if not track.iscrowd]
        ids = [original.get(track.id, track.id) for track, _ in entries]
        if len(set(ids)) < len(ids) or min(ids, default=0) < 0:
            ids = list(range(1, len(entries) + 1))
            export.note("videos have tracks that were numbered from 1, as their ids are not unique")
        tracks = []
        for (track, score), id in zip(entries, ids, strict=True):
            segmentations = track.segmentations or (None,) * video.length
            records = [
                (f"annotation {track.id}, frame {t}", mask, video.height, video.width)
                for t, mask in enumerate(segmentations)
            ]
            compressed = compress_masks(records, file=file, problems=problems)
            rles = tuple(
                rle if area else None for rle, area in zip(compressed.rles, compressed.area_N.tolist(), strict=True)
            )
            marks = read_marks(annotations.get((video.id, track.id), {}), track, video, file, problems)
            strokes = (*marks.points, *marks.scribbles)
            tracks.append(ExportedTrack(id, names[track.category_id], track.boxes_T4, rles, score, strokes))
        videos.append(ExportedVideo(video, stem, _file_names(video, stem, dataset.of_images), tuple(tracks)))
    if problems:
        raise DataError(problems)
    if not any(video.tracks for video in videos):
        raise DataError([Problem(file, "file", "has no track to export", "Give a file with tracks")])
    return Export(export.categories, tuple(videos), masks, export.noted)


def _track_of(result: TrackResult, n: int) -> Track:
    id = n if result.track_id is None else result.track_id
    return Track(id, result.category_id, result.boxes_T4, result.segmentations)


def _file_names(video: Video, stem: str, is_image: bool) -> tuple[str, ...]:
    if not isinstance(video.frames, tuple):
        return tuple(f"{stem}/{t:06d}.jpg" for t in range(video.length))
    if is_image:
        return (f"{stem}{video.frames[0].suffix}",)
    names = [frame.name for frame in video.frames]
    if len(set(Path(name).stem for name in names)) < len(names):  # frames of several folders
        names = [f"{t:06d}{frame.suffix}" for t, frame in enumerate(video.frames)]
    return tuple(f"{stem}/{name}" for name in names)


def mask_box(rle: Rle) -> list[float]:
    """Box of a mask, ``[x, y, width, height]``."""
    return [float(value) for value in coco_mask.toBbox(rle)]


def in_form(rle: Rle, form: MaskForm) -> Any:
    """The mask in one of the forms of a JSON."""
    if form == "rle":
        return rle
    if form == "list":
        return {"size": rle["size"], "counts": uncompress(rle["counts"])}
    return mask_polygons(decode_mask(rle, *rle["size"]))


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG atomically; it is encoded in memory, as Pillow does not notice a full disk."""
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.getvalue())
