"""Boxes and masks of the masklets of SA-V, the data set of SAM 2: a JSON per video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.jsonfile import kind_of
from mfvis.data.rle import rle_box
from mfvis.errors import DataError
from mfvis.text import counted, shortened
from mfvis.types import Video

STEP = 4
"""Distance between annotated frames. The videos have 24 frames per second, and masks on six of them."""


def sniff_sav(source: ImportedFile) -> bool:
    """True if a JSON has masklets."""
    return isinstance(source.root, dict) and {"masklet", "video_id"} <= source.root.keys()


def read_sav(source: ImportedFile) -> list[BoxVideo]:
    """Read ``masklet``: a list per frame with an RLE per object, whose ids are ``masklet_id``. The file has no classes.

    Only every fourth frame of a video is annotated. From a folder of all its frames, only these are used.
    """
    root = source.root
    if not sniff_sav(source):
        source.report("top level", "has no masklet and video_id", "Give a JSON of SA-V")
        return []
    masklet = root["masklet"]
    if not isinstance(masklet, list) or not all(isinstance(masks, list) for masks in masklet):
        source.report("masklet", f"is {kind_of(masklet)}, expected a list of lists", "Copy the file again")
        return []
    ids = root.get("masklet_id", list(range(max(map(len, masklet), default=0))))
    video = source.video("video_id", str(root["video_id"]))
    video = video and _annotated(source, video, root, len(masklet))
    category = source.only_category("masklet")
    if video is None or category is None:
        return []
    result = BoxVideo(video)
    for t, masks in enumerate(masklet):
        if not isinstance(ids, list) or len(masks) != len(ids):
            source.report(
                f"masklet[{t}]", f"has {counted(len(masks), 'mask')}, masklet_id is {shortened(ids)}", "Copy it again"
            )
            break
        for i, mask in enumerate(masks):
            record = f"masklet[{t}][{i}]"
            try:
                box = (
                    rle_box(mask, video.height, video.width, file=source.display_path, record=record) if mask else None
                )
            except DataError as error:
                source.problems += error.problems
                continue
            if box is not None and box.any():
                source.put(record, result, str(ids[i]), category, t, tuple(box.tolist()), mask=mask)
    return [result]


def _annotated(source: ImportedFile, video: Video, root: dict[str, Any], length: int) -> Video | None:
    """Annotated frames of a video. None, with a report, if its size or length does not match."""
    size = root.get("video_width"), root.get("video_height")
    if size not in ((None, None), (video.width, video.height)):
        problem = f"the masks are {size[0]} x {size[1]}, the video {video.width} x {video.height}"
        source.report("video_width", problem, "Give the frames that were annotated")
        return None
    if video.length == length:
        return video
    if -(-video.length // STEP) != length:
        problem = f"has masks of {counted(length, 'frame')}, the video {counted(video.length, 'frame')}"
        source.report("masklet", problem, "Give the frames of this video")
        return None
    if isinstance(video.frames, Path):
        remedy = f"Extract them: ffmpeg -i {video.frames.name} frames/%05d.jpg, and name that folder with --frames"
        source.report("masklet", f"has masks of every {STEP}th frame of the video only", remedy)
        return None
    source.note(f"{video.name}: every {STEP}th image was imported, those that are annotated")
    return replace(video, length=length, frames=video.frames[::STEP])


SAV = Importer("sa-v", sniff_sav, read_sav)
