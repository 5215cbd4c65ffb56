"""What all importers share: where pictures are found, where problems are reported, tracks as they grow."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from mfvis.data.jsonfile import LARGEST
from mfvis.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, open_video
from mfvis.errors import Problem, VideoError
from mfvis.types import Video

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels, half-open, 0-based; it may reach outside the picture."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass
class BoxTrack:
    """One object of an imported file."""

    category: str
    boxes: dict[int, Box] = field(default_factory=dict)
    """By frame, counted from 0."""


@dataclass
class BoxVideo:
    """One video of an imported file: its pictures, and its objects by the ids that the file gives them."""

    video: Video
    tracks: dict[str, BoxTrack] = field(default_factory=dict)


@dataclass
class ImportedFile:
    """The file that is imported, as the reader of its format sees it."""

    file: Path
    frames: Path
    """A folder of pictures or a video file; for several videos the folder in which they lie by their names."""
    wanted: tuple[str, ...] = ()
    """The categories to import; empty for all. A reader may pass over what is not wanted."""
    first_frame: int | None = None
    """The number of the first frame in a text, where it is not the format's own."""
    classless: bool = False
    """Whether it was told that a box has no class; there would be as many problems as boxes."""
    problems: list[Problem] = field(default_factory=list)

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(str(self.file), record, problem, remedy))

    def unwanted(self, category: str) -> bool:
        return bool(self.wanted) and category not in self.wanted

    def report_frame(self, record: str, frame: float, first: int, length: int) -> None:
        problem = f"frame {frame:g} is not {first} to {first + length - 1}"
        self.report(record, problem, "Give the frames of this video, or say how the first is called: --first-frame")

    def only_category(self, record: str) -> str | None:
        """The class of a box that names none, if just one is wanted; else None, told once for the whole file."""
        if len(self.wanted) == 1:
            return self.wanted[0]
        if not self.classless:
            self.report(record, "has no class", "Name the one class of all objects with --categories")
        self.classless = True
        return None

    def video(self, record: str, name: str | None, *, alone: bool, folder: PurePosixPath | None = None) -> Video | None:
        """The pictures of a video: what `frames` names if the video is `alone`, else what lies there under its name.

        folder: where a file says that they are, within `frames`; taken first, if it is there.
        """
        path: Path | None = None
        if folder is not None and folder.parts and not folder.is_absolute() and ".." not in folder.parts:
            path = self.frames / folder if _exists(self.frames / folder) else None
        if path is None and alone and self._is_one_video():
            path = self.frames
        elif path is None and name is not None and re.fullmatch(r"[^/\\\0]+", name) and name not in (".", ".."):
            # Under its name with a suffix, or as a folder without.
            places = [self.frames / name, self.frames / Path(name).stem]
            places += [self.frames / f"{Path(name).stem}{suffix}" for suffix in sorted(VIDEO_SUFFIXES)]
            path = next((place for place in places if _exists(place)), None)
        if path is None:
            shown = "a name" if name is None else f"the name {name!r}"
            self.report(record, f"no video in {self.frames} has {shown}", "Name the frames with --frames")
            return None
        try:
            video = open_video(path)
        except VideoError as error:
            self.report(record, f"its pictures cannot be read: {error}", "Name the right ones with --frames")
            return None
        if name is None:
            return video
        return replace(video, name=Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name)

    def _is_one_video(self) -> bool:
        """Whether `frames` is a video file or a folder of pictures; or not there at all, which opening it tells."""
        return self.frames.is_file() or not self.frames.is_dir() or any(map(_is_picture, self.frames.iterdir()))

    def with_frames(
        self, video: Video, files: Sequence[str], indices: Sequence[int | None], sizes: set[tuple[int, int]]
    ) -> Video | None:
        """The video of the pictures that an imported file names; None, reported, where they do not fit.

        indices: the numbers of the frames, by which those of a film are known. sizes: what the file says that the
        pictures have, (height, width).
        """
        record = f"video {video.name!r}"
        sizes = sizes - {(video.height, video.width)}
        if sizes:
            problem = f"is {sorted(sizes)[0]} (height, width), its pictures {(video.height, video.width)}"
            self.report(record, problem, "Give the frames that were annotated")
            return None
        if isinstance(video.frames, Path):
            if list(indices) == list(range(video.length)):
                return video
            problem = f"has labels of {len(files)} frames, the film {video.length}"
            self.report(record, problem, "Number all frames 0, 1, ..., or give a folder of pictures")
            return None
        pictures = {path.name: path for path in video.frames}
        missing = [file for file in files if file not in pictures]
        if missing or len(set(files)) < len(files):
            problem = f"has no picture {missing[0]!r}" if missing else "names a picture twice"
            self.report(record, problem, "Name the right frames with --frames")
            return None
        return replace(video, length=len(files), frames=tuple(pictures[file] for file in files))

    def put(self, record: str, video: BoxVideo, number: str, category: str, frame: int, box: Box) -> None:
        """Give an object its box in a frame; reports a second box there, and a second category."""
        track = video.tracks.setdefault(number, BoxTrack(category))
        if track.category != category:
            problem = f"object {number} is {category!r} here and {track.category!r} elsewhere"
            self.report(record, problem, "Give it one category, or two ids")
        elif frame in track.boxes:
            self.report(record, f"object {number} has a second box in this frame", "Give each object an id of its own")
        else:
            track.boxes[frame] = box


def number_in(text: str) -> float | None:
    """The number that a text says; None for anything else, also for nan, inf, 1_0 and what is beyond all use."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if abs(value) <= LARGEST else None


def between(start: Sequence[float], end: Sequence[float], share: float) -> list[float]:
    """Values that have gone `share` of the way from `start` to `end`."""
    return [a + (b - a) * share for a, b in zip(start, end, strict=True)]


def angle_between(start: float, end: float, share: float) -> float:
    """An angle in degrees, on the shorter way from `start` to `end`."""
    return start + ((end - start + 180) % 360 - 180) * share


def hull(box: Box, angle: float, pivot: tuple[float, float]) -> Box:
    """The upright box around a box that was turned about `pivot` by an angle in degrees, clockwise."""
    if angle % 360 == 0:
        return box
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    corners = [(x - pivot[0], y - pivot[1]) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs = [pivot[0] + x * cosine - y * sine for x, y in corners]
    ys = [pivot[1] + x * sine + y * cosine for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with characters that no file can have
        return False
