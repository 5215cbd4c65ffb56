"""Tracks in COCO's JSON with videos: COCO-VID of MMTracking, TAO, and what is exported like them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.jsonfile import is_finite, is_integer, kind_of
from mfvis.text import shortened

FRAME = ("frame_id", "frame_index")
TRACK = ("track_id", "instance_id")
Record = dict[str, Any]


def sniff_coco_video(source: ImportedFile) -> bool:
    """Whether a JSON has images and videos."""
    return isinstance(source.root, dict) and "videos" in source.root and "images" in source.root


def read_coco_video(source: ImportedFile) -> list[BoxVideo]:
    """``images`` name their video, ``annotations`` their image and their track, boxes are ``[x, y, w, h]``.

    A video has the frames that the file names, in the order of frame_id (TAO: frame_index), else in the file's. They
    are looked for as --frames and file_name say, else by their last name in the video's folder. Crowds are left out.
    """
    root = source.root
    if not isinstance(root, dict) or "videos" not in root:
        source.report("top level", "has no videos", "Give COCO's JSON with videos, images, annotations and categories")
        return []
    videos, images = _by_id(root, "videos", source), _by_id(root, "images", source)
    categories = _by_id(root, "categories", source)
    members: dict[Any, list[Record]] = defaultdict(list)
    for image in images.values():
        record = f"image {image['id']!r}"
        if not _known(image.get("video_id"), videos):
            source.report(record, f"video_id {shortened(image.get('video_id'))} is no video", "Name one of videos")
        elif not isinstance(image.get("file_name"), str):
            source.report(record, f"file_name is {shortened(image.get('file_name'))}", "Name its picture")
        else:
            members[image["video_id"]].append(image)
    results = {}
    for number, entry in videos.items():
        result = _video(f"video {number!r}", entry, members[number], len(videos) > 1, source)
        if result is not None:
            results[number] = result
    places = {image["id"]: (results[number], t) for number in results for t, image in enumerate(members[number])}
    annotations = root.get("annotations")
    if not isinstance(annotations, list):
        source.report("annotations", f"is {kind_of(annotations)}, expected a list", "Write the file again")
        annotations = []
    for place, annotation in enumerate(annotations):
        _put(f"annotations[{place}]", annotation, images, places, categories, source)
    return list(results.values())


def _by_id(root: Record, key: str, source: ImportedFile) -> dict[Any, Record]:
    """The objects of a list by their ids; whatever has none is reported."""
    entries = root.get(key)
    if not isinstance(entries, list):
        source.report(key, f"is {kind_of(entries)}, expected a list", "Write the file again")
        return {}
    found: dict[Any, Record] = {}
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not is_integer(number) and not isinstance(number, str):
            source.report(f"{key}[{place}]", f"has no id: {shortened(entry)}", "Give it an id of its own")
        elif number in found:
            source.report(f"{key}[{place}]", f"id {number!r} occurs twice", "Give it an id of its own")
        else:
            found[number] = entry
    return found


def _video(record: str, entry: Record, images: list[Record], several: bool, source: ImportedFile) -> BoxVideo | None:
    """A video with its pictures, for which `images` are put in order; None, reported, where they are not there."""
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
    files = [PurePosixPath(image["file_name"]) for image in images]
    name = PurePosixPath(entry["name"] if isinstance(entry.get("name"), str) else files[0].parent.name).name
    video = source.video(record, name, several=several, folder=files[0].parent)
    told = [(image.get("height"), image.get("width")) for image in images]
    sizes = {size for size in told if all(map(is_integer, size))}
    indices = [image[key] if key else None for image in images]
    video = video and source.with_frames(video, [file.name for file in files], indices, sizes)
    return video and BoxVideo(video)


def _put(
    record: str,
    annotation: Any,
    images: dict[Any, Record],
    places: dict[Any, tuple[BoxVideo, int]],
    categories: dict[Any, Record],
    source: ImportedFile,
) -> None:
    """Give an annotation's object its box, or report what is not sound in it."""
    fields = annotation if isinstance(annotation, dict) else {}
    image, category, bbox = fields.get("image_id"), fields.get("category_id"), fields.get("bbox")
    track = next((fields[name] for name in TRACK if name in fields), None)
    name = categories[category].get("name") if _known(category, categories) else None
    if not isinstance(name, str):
        source.report(record, f"category_id {shortened(category)} names no category", "Name one of categories")
    elif not _known(image, images):
        source.report(record, f"image_id {shortened(image)} is no image", "Name one of images")
    elif fields.get("iscrowd") or source.unwanted(name):
        return
    elif not is_integer(track) and not isinstance(track, str):
        source.report(record, f"has no {' or '.join(TRACK)}", "Give tracks, not detections")
    elif not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_finite, bbox)) or min(bbox[2:]) <= 0:
        source.report(record, f"bbox is {shortened(bbox)}", "Write [x, y, width, height], or leave it out")
    elif image in places:
        video, t = places[image]
        x, y, width, height = bbox
        source.put(record, video, str(track), name, t, (x, y, x + width, y + height))


def _known(number: Any, records: dict[Any, Record]) -> bool:
    return isinstance(number, int | str) and number in records


COCO_VIDEO = Importer("coco-vid", sniff_coco_video, read_coco_video)
