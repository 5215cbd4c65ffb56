"""Tracks in Scalabel JSON, as Scalabel and BDD100K write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mfvis.data.importers.boxes import BoxVideo, Source
from mfvis.data.scalabel import ScalabelFrame, box_of, read_scalabel, videos_of
from mfvis.errors import DataError
from mfvis.types import Video


def read_scalabel_tracks(source: Source) -> list[BoxVideo]:
    """The objects of each video by their ids; crowd and ignored ones are left out. Boxes are box2d, else the masks'.

    A video has the frames that the file names, in the order of their index.
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
        video = source.video(f"video {name!r}", name, alone=len(videos) == 1)
        video = video and _of_these_frames(video, members, source)
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


def _of_these_frames(video: Video, members: list[ScalabelFrame], source: Source) -> Video | None:
    """The video of the pictures that the labels name; None, reported, where they do not fit."""
    record = f"video {video.name!r}"
    sizes = {frame.size for frame in members} - {None, (video.height, video.width)}
    if sizes:
        problem = f"is {sorted(sizes)[0]} (height, width), its pictures {(video.height, video.width)}"
        source.report(record, problem, "Give the frames that were annotated")
        return None
    if isinstance(video.frames, Path):
        if len(members) == video.length and [frame.index for frame in members] == list(range(video.length)):
            return video
        problem = f"has labels of {len(members)} frames, the film {video.length}"
        source.report(record, problem, "Number all frames 0, 1, ..., or give a folder of pictures")
        return None
    pictures = {path.name: path for path in video.frames}
    files = [pictures.get(Path(frame.name).name) for frame in members]
    missing = [frame.name for frame, file in zip(members, files, strict=True) if file is None]
    if missing or len(set(files)) < len(files):
        problem = f"has no picture {missing[0]!r}" if missing else "names a picture twice"
        source.report(record, problem, "Name the right frames with --frames")
        return None
    return replace(video, length=len(files), frames=tuple(files))
