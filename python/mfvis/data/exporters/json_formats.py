"""Writers of COCO and YouTube-VIS JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from mfvis.data.exporters.source import Export, ExportedTrack, in_form, mask_box
from mfvis.data.jsonfile import write_json
from mfvis.data.marks import fields_of
from mfvis.data.ytvis import file_name
from mfvis.types import present


def write_coco(export: Export, path: Path) -> None:
    """COCO instances, an image per frame and an annotation per object and frame, with its ``track_id``.

    Masks are RLEs with lists of counts, which pycocotools, supervision, datumaro, FiftyOne and CVAT read, or polygons.
    Every image has the ``frame_id`` of its frame. Track ids are unique in their video, and repeated in ``attributes``,
    where datumaro and CVAT read them.
    """
    form = export.masks or "list"
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video in export.videos:
        first = len(images) + 1
        size = {"width": video.video.width, "height": video.video.height}
        images += [
            {"id": first + t, "file_name": name, "frame_id": t} | size for t, name in enumerate(video.file_names)
        ]
        for t in range(video.video.length):
            for track in video.tracks:
                if (box := _bbox(track, t)) is None:
                    continue
                rle = track.rles[t]
                fields = {
                    "id": len(annotations) + 1,
                    "image_id": first + t,
                    "category_id": track.category.id,
                    "track_id": track.id,
                    "bbox": box,
                    "area": box[2] * box[3] if rle is None else int(coco_mask.area(rle)),
                    "iscrowd": 0,
                    "attributes": {"track_id": track.id},
                }
                mask = {} if rle is None else {"segmentation": in_form(rle, form)}
                annotations.append(fields | mask | _score(track))
    write_json(path, {"images": images, "annotations": annotations, "categories": _categories(export)})


def write_youtube_vis(export: Export, path: Path) -> None:
    """YouTube-VIS, a track per annotation. Masks are compressed RLEs unless another form is requested.

    Clicks and scribbles are kept as label mode reads them (`mfvis.data.marks`).
    """
    form = export.masks or "rle"
    videos, annotations = [], []
    for video in export.videos:
        shape = {"width": video.video.width, "height": video.video.height, "length": video.video.length}
        frames = video.video.frames if isinstance(video.video.frames, tuple) else (video.video.frames,)
        rate = {} if video.video.fps is None else {"fps": video.video.fps}
        names = [file_name(path, frame) for frame in frames]
        videos.append({"id": video.video.id, "name": video.video.name, "file_names": names} | shape | rate)
        for track in video.tracks:
            fields = {
                "id": len(annotations) + 1,
                "track_id": track.id,
                "video_id": video.video.id,
                "category_id": track.category.id,
                "iscrowd": 0,
                "bboxes": [_bbox(track, t) for t in range(video.video.length)],
            }
            masks = {
                "segmentations": [None if rle is None else in_form(rle, form) for rle in track.rles],
                "areas": [None if rle is None else int(coco_mask.area(rle)) for rle in track.rles],
            }
            marks = fields_of(track.marks)
            annotations.append(fields | (masks if any(track.rles) else {}) | marks | shape | _score(track))
    write_json(path, {"videos": videos, "annotations": annotations, "categories": _categories(export)})


def _bbox(track: ExportedTrack, t: int) -> list[float] | None:
    """``[x, y, width, height]``: the given box, else that of the mask."""
    x1, y1, x2, y2 = track.boxes_T4[t].tolist()
    if present(track.boxes_T4[t]):
        return [x1, y1, x2 - x1, y2 - y1]
    rle = track.rles[t]
    return None if rle is None else mask_box(rle)


def _score(track: ExportedTrack) -> dict[str, float]:
    return {} if track.score is None else {"score": track.score}


def _categories(export: Export) -> list[dict[str, Any]]:
    return [{"id": category.id, "name": category.name} for category in export.categories]
