"""Tracks in COCO JSON: videos (COCO-VID of MMTracking, TAO), or images with track ids in the annotations."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from mfvis.data.importers.boxes import BoxVideo, hull
from mfvis.data.importers.source import ImportedFile, Importer, natural
from mfvis.data.importers.track_lines import track_id_of
from mfvis.data.jsonfile import is_finite, is_integer, kind_of
from mfvis.data.rle import decode_mask
from mfvis.errors import DataError
from mfvis.text import shortened

FRAME = ("frame_id", "frame_index")
TRACK = ("track_id", "instance_id", "tracking_id", "object_id")
Record = dict[str, Any]


def sniff_coco_tracks(source: ImportedFile) -> bool:
    """True if a JSON has images and videos, or images and annotations with a track id."""
    root = source.root if isinstance(source.root, dict) else {}
    annotations = root.get("annotations")
    tracks = (_track_of(entry) for entry in annotations) if isinstance(annotations, list) else ()
    return "images" in root and ("videos" in root or any(track is not None for track in tracks))


def read_coco_tracks(source: ImportedFile) -> list[BoxVideo]:
    """Read COCO tracks: ``images`` name their video, ``annotations`` their image and track, boxes are ``[x, y, w, h]``.

    The track is ``track_id`` (or ``instance_id``, ...), possibly among ``attributes``, as in COCO exports of CVAT.
    Without videos, the images of each folder form a video, in the order of their names. Otherwise frames are ordered by
    frame_id (TAO: frame_index), else as in the file. Images are searched for by --frames and file_name, else by the
    last part of their name in the video's folder. Crowds and boxes without a track are left out.
    """
    root = source.root
    if not isinstance(root, dict) or "images" not in root:
        source.report("top level", "has no images", "Give COCO's JSON with images, annotations and categories")
        return []
    images, categories = _by_id(root, "images", source), _by_id(root, "categories", source)
    videos = _by_id(root, "videos", source) if "videos" in root else _folders(images)
    members: dict[Any, list[Record]] = defaultdict(list)
    for image in images.values():
        record = f"image {image['id']!r}"
        if not _known(image.get("video_id"), videos):
            source.report(record, f"video_id {shortened(image.get('video_id'))} is not in videos", "Name one of videos")
        elif not isinstance(image.get("file_name"), str):
            source.report(record, f"file_name is {shortened(image.get('file_name'))}", "Name its image")
        else:
            members[image["video_id"]].append(image)
    results = {}
    for video_id, entry in videos.items():
        result = _video(f"video {video_id!r}", entry, members[video_id], len(videos) > 1, source)
        if result is not None:
            results[video_id] = result
    frames = {image["id"]: (results[i], t) for i in results for t, image in enumerate(members[i])}
    annotations = root.get("annotations")
    if not isinstance(annotations, list):
        source.report("annotations", f"is {kind_of(annotations)}, expected a list", "Write the file again")
        annotations = []
    for i, annotation in enumerate(annotations):
        _put(f"annotations[{i}]", annotation, images, frames, categories, source)
    return list(results.values())


def _by_id(root: Record, key: str, source: ImportedFile) -> dict[Any, Record]:
    """Objects of a list by id. Objects without an id are reported."""
    entries = root.get(key)
    if not isinstance(entries, list):
        source.report(key, f"is {kind_of(entries)}, expected a list", "Write the file again")
        return {}
    results: dict[Any, Record] = {}
    for i, entry in enumerate(entries):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if not is_integer(entry_id) and not isinstance(entry_id, str):
            source.report(f"{key}[{i}]", f"has no id: {shortened(entry)}", "Give it an id of its own")
        elif entry_id in results:
            source.report(f"{key}[{i}]", f"id {entry_id!r} occurs twice", "Give it an id of its own")
        else:
            results[entry_id] = entry
    return results


def _folders(images: dict[Any, Record]) -> dict[Any, Record]:
    """Folders of images, each as a video. Each image is assigned to its folder's video, and images are sorted by
    name."""
    videos: dict[Any, Record] = {}
    for image in images.values():
        path = _path(image)
        image["video_id"] = str(path.parent)
        videos[str(path.parent)] = {"name": path.parent.name}
    ordered = sorted(images.items(), key=lambda item: natural(_path(item[1]).name))
    images.clear()
    images.update(ordered)
    return videos


def _path(image: Record) -> PurePosixPath:
    return PurePosixPath(str(image.get("file_name", "")).replace("\\", "/"))


def _video(record: str, entry: Record, images: list[Record], several: bool, source: ImportedFile) -> BoxVideo | None:
    """A video with its images; sorts `images`. None, with a report, if they do not exist."""
    if not images:
        source.report(record, "has no image", "Leave it out, or add its images")
        return None
    key = next((name for name in FRAME if any(name in image for image in images)), None)
    wrong = [image for image in images if key is not None and not is_finite(image.get(key))]
    if wrong:
        problem = f"{key} of image {wrong[0]['id']!r} is {shortened(wrong[0].get(key))}"
        source.report(record, problem, "Number all frames of the video, or none")
        return None
    if key is not None:
        images.sort(key=lambda image: image[key])
    files = [_path(image) for image in images]
    name = PurePosixPath(entry["name"] if isinstance(entry.get("name"), str) else files[0].parent.name).name
    video = source.video(record, name or None, several=several, folder=files[0].parent)
    declared = [(image.get("height"), image.get("width")) for image in images]
    # (0, 0) is written by programs that do not know the size.
    sizes = {size for size in declared if all(map(is_integer, size))} - {(0, 0)}
    indices = [image[key] if key else None for image in images]
    video = video and source.with_frames(video, [file.name for file in files], indices, sizes)
    return video and BoxVideo(video)


def _track_of(annotation: Any) -> Any:
    """Track id of an annotation, from its fields or its attributes. None if it has none."""
    fields = annotation if isinstance(annotation, dict) else {}
    attributes = fields.get("attributes") if isinstance(fields.get("attributes"), dict) else {}
    return next(
        (holder[name] for holder in (fields, attributes) for name in TRACK if holder.get(name) is not None), None
    )


def _put(
    record: str,
    annotation: Any,
    images: dict[Any, Record],
    frames: dict[Any, tuple[BoxVideo, int]],
    categories: dict[Any, Record],
    source: ImportedFile,
) -> None:
    """Add the box of an annotation to its object, or report why it is invalid."""
    fields = annotation if isinstance(annotation, dict) else {}
    image, category, bbox = fields.get("image_id"), fields.get("category_id"), fields.get("bbox")
    track = _track_of(fields)
    name = categories[category].get("name") if _known(category, categories) else None
    if not isinstance(name, str) and not is_integer(name):
        source.report(record, f"category_id {shortened(category)} names no category", "Name one of categories")
    elif not _known(image, images):
        source.report(record, f"image_id {shortened(image)} is not in images", "Name one of images")
    elif fields.get("iscrowd"):
        source.leave_out("of a crowd")
    elif source.unwanted(str(name)):
        return
    elif track is not None and not isinstance(track, (str, int, float)) or isinstance(track, bool):
        source.report(record, f"{TRACK[0]} is {shortened(track)}", "Write a number or a text")
    elif (track_id := None if track is None else track_id_of(str(track))) is None:
        source.leave_out("without a track")
    elif not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_finite, bbox)):
        source.report(record, f"bbox is {shortened(bbox)}", "Write [x, y, width, height], or leave it out")
    elif image in frames:
        video, t = frames[image]
        x, y, width, height = bbox
        box = hull((x, y, x + width, y + height), _angle(fields), (x + width / 2, y + height / 2))
        mask = _mask(record, fields.get("segmentation"), video, source)
        source.put(record, video, track_id, str(name), t, box, mask=mask)


def _mask(record: str, segmentation: Any, video: BoxVideo, source: ImportedFile) -> Any | None:
    """The mask of an annotation, unchanged. None if it has none or, with a report, a damaged one."""
    if not segmentation:
        return None
    try:
        size = video.video.height, video.video.width
        is_empty = not decode_mask(segmentation, *size, file=source.display_path, record=record).any()
    except DataError as error:
        source.problems += error.problems
        return None
    return None if is_empty else segmentation


def _angle(annotation: Record) -> float:
    """Angle in degrees by which CVAT rotates the box, unless it is the box around an outline."""
    attributes = annotation.get("attributes")
    angle = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    return float(angle) if is_finite(angle) and not annotation.get("segmentation") else 0.0


def _known(entry_id: Any, records: dict[Any, Record]) -> bool:
    return isinstance(entry_id, int | str) and entry_id in records


COCO_TRACKS = Importer("coco-vid", sniff_coco_tracks, read_coco_tracks)
