"""Files without box tracks, or with tracks in an unsupported form: their names, and what to export instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from mfvis.data.importers.source import ImportedFile

TRACKS = "Export tracks: CVAT for video 1.1, COCO with a track_id in every annotation, MOTChallenge, or CSV"
VIDEO = 'Export "CVAT for video 1.1"'


XML_KINDS = {
    "annotation": "Pascal VOC, the boxes of one image",
    "sequence": "UA-DETRAC, the boxes of a sequence",
    "html": "a web page",
}
"""Names of other XML files by their root element."""


class Kind(NamedTuple):
    """A kind of JSON file."""

    name: str
    is_it: Callable[[dict[str, Any], Any], bool]
    """Function that recognizes the kind from the first object of the top level, and from the top level itself."""
    remedy: str


KINDS = (
    Kind("a YouTube-VIS JSON", lambda first, root: first is root and _has(first, "videos"), "Use it as it is"),
    Kind(
        "YouTube-VIS results, predictions without their videos",
        lambda first, root: _has(first, "video_id", "category_id", "segmentations"),
        "Give annotations; mfvis eval measures results",
    ),
    Kind(
        "COCO results, predictions without their images",
        lambda first, root: _has(first, "image_id", "category_id") and first is not root,
        TRACKS,
    ),
    Kind("COCO panoptic, of images without tracks", lambda first, root: _of_panoptic(first), TRACKS),
    Kind("COCO, of images without tracks", lambda first, root: _has(first, "images", "annotations"), TRACKS),
    Kind("COCO, a list of images without annotations", lambda first, root: _has(first, "images"), TRACKS),
    Kind("LabelMe, the shapes of one image", lambda first, root: _has(first, "shapes", "imagePath"), TRACKS),
    Kind("Datumaro", lambda first, root: _has(first, "items", "categories"), TRACKS),
    Kind(
        "VoTT, boxes without tracks", lambda first, root: _has(first, "assets", "tags") or _has(first, "asset"), TRACKS
    ),
    Kind(
        "the JSON of a CVAT server or of a task's backup",
        lambda first, root: _has(first, "tracks", "shapes") or _has(first, "tracks", "tags"),
        VIDEO,
    ),
    Kind("DIVE's JSON", lambda first, root: _has(first, "tracks", "version"), TRACKS),
    Kind("Supervisely's JSON of a video", lambda first, root: _has(first, "framesCount", "objects"), TRACKS),
    Kind("V7's Darwin JSON", lambda first, root: _has(first, "item", "annotations"), TRACKS),
    Kind("Labelbox's JSON", lambda first, root: _has(first, "data_row"), TRACKS),
    Kind("SA-1B, the masks of one image", lambda first, root: _has(first, "image", "annotations"), TRACKS),
    Kind("SageMaker's JSON of a sequence", lambda first, root: _has(first, "detection-annotations"), TRACKS),
    Kind(
        "Label Studio's tasks without annotations",
        lambda first, root: isinstance(first.get("data"), dict),
        "Export the tasks with their annotations",
    ),
)


def report_other_kind(source: ImportedFile) -> bool:
    """Report that a JSON or XML file is of another kind, or of an unknown kind. False if it is neither JSON nor XML."""
    root = source.root
    if source.head.lstrip().startswith(b"<"):
        element = re.search(rb"<([A-Za-z][\w.-]{0,40})", source.head)
        name = element[1].decode() if element else ""
        source.report("file", f"is {XML_KINDS.get(name, f'XML of no format that is known (<{name}>)')}", TRACKS)
        return True
    if root is None:
        return False
    entries = root if isinstance(root, list) else [root]
    first = entries[0] if entries and isinstance(entries[0], dict) else {}
    kind = next((kind for kind in KINDS if kind.is_it(first, root)), None)
    if kind is not None:
        source.report("file", f"is {kind.name}", kind.remedy)
    else:
        keys = ", ".join(map(str, list(first)[:6]))
        source.report("file", f"is a JSON of no format that is known ({keys or 'no keys'})", TRACKS)
    return True


def _has(first: dict[str, Any], *keys: str) -> bool:
    return first.keys() >= {*keys}


def _of_panoptic(first: dict[str, Any]) -> bool:
    annotations = first.get("annotations")
    entry = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(entry, dict) and "segments_info" in entry
