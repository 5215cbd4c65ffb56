"""Tracks in Scalabel JSON, as written by Scalabel and BDD100K."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.scalabel import box_of, read_scalabel, videos_of
from mfvis.errors import DataError


def sniff_scalabel(source: ImportedFile) -> bool:
    """True if a JSON, or the first one of a folder, is or contains a list of frames."""
    if source.file.is_dir():
        files = sorted(source.file.glob("[!.]*.json"))
        return bool(files) and sniff_scalabel(replace(source, file=files[0], problems=[]))
    frames = source.root.get("frames") if isinstance(source.root, dict) else source.root
    frame = frames[0] if isinstance(frames, list) and frames else None
    return isinstance(frame, dict) and bool({"videoName", "frameIndex", "labels"} & frame.keys())


def read_scalabel_boxes(source: ImportedFile) -> list[BoxVideo]:
    """Read the objects of each video by id. Crowd and ignored ones are left out. Boxes are box2d, else the masks'.

    A video consists of the frames named in the file, in the order of their index.
    """
    try:
        frames = read_scalabel(source.file, with_masks=False)
    except DataError as error:
        source.problems += error.problems
        return []
    for frame in frames:
        if frame.video is None:
            source.report(f"frame {frame.name!r}", "has no videoName", "Name its video")
    videos = videos_of(frames)
    results = []
    for name, members in videos.items():
        video = source.video(f"video {name!r}", name, several=len(videos) > 1)
        if video is not None:
            files = [Path(frame.name).name for frame in members]
            sizes = {frame.size for frame in members if frame.size is not None}
            video = source.with_frames(video, files, [frame.index for frame in members], sizes)
        if video is None:
            continue
        result = BoxVideo(video)
        for t, frame in enumerate(members):
            for label in frame.labels:
                if label.crowd or label.ignored or source.unwanted(label.category):
                    continue
                record = f"frame {frame.name!r}, label {label.id!r}"
                try:
                    box = box_of(label, video.height, video.width, file=str(source.file), record=record)
                except DataError as error:
                    source.problems += error.problems
                    continue
                if box is not None:
                    source.put(record, result, label.id, label.category, t, box)
        results.append(result)
    return results


SCALABEL = Importer("scalabel", sniff_scalabel, read_scalabel_boxes, reads_folders=True)
