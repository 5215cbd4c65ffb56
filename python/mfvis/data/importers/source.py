"""The imported file as seen by the readers of the formats: content, images, problems, and what was left out."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mfvis.data.images import image_files
from mfvis.data.importers.boxes import Box, BoxTrack, BoxVideo
from mfvis.data.jsonfile import read_json
from mfvis.data.video import VIDEO_SUFFIXES, open_video
from mfvis.errors import Problem, VideoError
from mfvis.text import counted
from mfvis.types import Video

IMAGE_FOLDERS = ("img1", "img", "images", "JPEGImages", "frames")
"""Subfolders in which data sets store the images of a video."""
COMMENTS = ("#", "%", "//")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class ImportedFile:
    """A file or folder of box tracks, with the user's options."""

    file: Path
    frames: Path
    """Folder of images or video file. For several videos, the folder that contains them by name."""
    categories: tuple[str, ...] = ()
    """Categories to import; empty for all. A reader may skip the others."""
    first_frame: int | None = None
    """Index of the first frame in the file. None: the default of the format."""
    first_pixel: int | None = None
    """Index of the first pixel of a row in the file, 0 or 1. None: inferred from the file."""
    class_names: Mapping[int, str] = field(default_factory=dict)
    """Names of numbered classes."""
    several: bool = False
    """True if other files are imported with this one, so that `frames` contains the videos of all."""
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of things that were not imported, by noun and reason."""
    notes: dict[str, None] = field(default_factory=dict)
    """Decisions that were inferred from the file, each once."""
    unpacked_from: str = ""
    """Path within an archive, if the file was unpacked from one."""

    @property
    def display_path(self) -> str:
        """Path for messages."""
        return self.unpacked_from or str(self.file)

    def report(self, record: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(self.display_path, record, problem, remedy))

    def leave_out(self, why: str, noun: str = "box", count: int = 1) -> None:
        """Count things that are not imported, for a note at the end."""
        self.left_out[noun, why] += count

    def note(self, text: str) -> None:
        """Add a note on a decision inferred from the file, with the flag that overrides it."""
        self.notes[text] = None

    def pixel_origin(self, evidence: int) -> int:
        """Index of the first pixel of a row: --first-pixel, or else inferred from the file, with a note."""
        if self.first_pixel is not None:
            return self.first_pixel
        self.note(f"pixels are counted from {evidence}; --first-pixel {1 - evidence} overrides it")
        return evidence

    @cached_property
    def head(self) -> bytes:
        """First bytes of the file, without a byte order mark. Empty for a folder or an unreadable file."""
        try:
            with self.file.open("rb") as file:
                return file.read(1 << 16).removeprefix(codecs.BOM_UTF8)
        except OSError:
            return b""

    @cached_property
    def text(self) -> str | None:
        """The file as text with newlines only. None, reported once, if it is not text."""
        try:
            content = self.file.read_bytes()
            text = content.decode("utf-16" if content.startswith(UTF16) else "utf-8-sig")
        except OSError as error:
            self.report("file", f"cannot be read ({error.strerror})", "Check the path")
        except UnicodeDecodeError:
            self.report("file", "is not a text file in UTF-8", "Give a file of box tracks, saved in UTF-8")
        else:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        return None

    @cached_property
    def lines(self) -> list[tuple[str, str]]:
        """Lines that are neither empty nor comments, each with its name for messages."""
        lines = [(f"line {i}", line.strip()) for i, line in enumerate((self.text or "").split("\n"), 1)]
        return [(record, line) for record, line in lines if line and not line.startswith(COMMENTS)]

    @cached_property
    def root(self) -> Any | None:
        """Value of a JSON file. None for other files and, reported once, for damaged ones."""
        if not self._start.startswith(("{", "[")):
            return None
        problems: list[Problem] = []
        root = _json_lines(self.text) if b"\n" in self.head else None
        if root is None and self.head.startswith(UTF16):
            self.report("file", "is JSON in UTF-16", "Save it in UTF-8")
        elif root is None:
            root = read_json(self.file, problems)
        for problem in problems:
            self.report(problem.record, problem.problem, problem.remedy)
        return root

    @property
    def is_text(self) -> bool:
        """True if the file can contain lines of text: it is not a folder, XML, JSON or an archive."""
        return bool(self.head) and not self._start.startswith(("<", "{", "[", "PK"))

    @property
    def _start(self) -> str:
        """First characters that are not blank."""
        start = self.head[:200]
        return start.decode("utf-16" if start.startswith(UTF16) else "utf-8", errors="replace").lstrip()

    def unwanted(self, category: str) -> bool:
        return bool(self.categories) and category not in self.categories

    def report_frame(self, record: str, frame: int, first: int, length: int) -> None:
        problem = f"frame {frame} is not {first} to {first + length - 1}"
        self.report(record, problem, "Give the frames of this video, or the index of the first with --first-frame")

    def first_index(self, frames: Sequence[int], length: int) -> int | None:
        """Index of the first frame: --first-frame, or else inferred from the frames. None, with a report, if
        unknown."""
        if self.first_frame is not None or not frames:
            return self.first_frame or 0
        if 0 in frames or length in frames:
            return 0 if 0 in frames else 1
        problem = f"has frames {min(frames)} to {max(frames)} of {length}, which may count from 0 or from 1"
        self.report("file", problem, "Say --first-frame 0 or --first-frame 1")
        return None

    def only_category(self, record: str) -> str | None:
        """Class of a box without one, if --categories has exactly one entry. Otherwise None, reported once per file."""
        if len(self.categories) == 1:
            return self.categories[0]
        if not any(
            problem.file == self.display_path and problem.problem == "has no class" for problem in self.problems
        ):
            self.report(record, "has no class", "Name the one class of all objects with --categories")
        return None

    def video(
        self, record: str, name: str | None, *, several: bool = False, folder: PurePosixPath | None = None
    ) -> Video | None:
        """Images of a video. None, with a report, if there are none.

        Args:
            record: the part of the file that names the video, for messages.
            name: its name, searched for in `frames` unless that is the video itself. None if it has none.
            several: True if the file has other videos, so that `frames` cannot be this one.
            folder: its folder within `frames` according to the file. It is preferred if it exists.
        """
        path: Path | None = None
        if folder is not None and folder.parts and not folder.is_absolute() and ".." not in folder.parts:
            path = self.frames / folder if _exists(self.frames / folder) else None
        if path is None and not several and not self.several and self.is_one_video():
            path = self.frames
        elif path is None and name is not None and re.fullmatch(r"[^/\\\0]+", name) and name not in (".", ".."):
            # The video may be a file with one of the suffixes, or a folder without.
            paths = [self.frames / name, self.frames / Path(name).stem]
            paths += [self.frames / f"{Path(name).stem}{suffix}" for suffix in sorted(VIDEO_SUFFIXES)]
            path = next((path for path in paths if _exists(path)), None)
        if path is None:
            name_text = "a name" if name is None else f"the name {name!r}"
            self.report(record, f"no video in {self.frames} has {name_text}", "Name the frames with --frames")
            return None
        try:
            video = open_video(_with_images(path))
        except VideoError as error:
            self.report(record, f"its images cannot be read: {error}", "Name the right ones with --frames")
            return None
        if name is None:
            return video
        return replace(video, name=Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name)

    def is_one_video(self) -> bool:
        """True if `frames` is a video file or a folder of images, or does not exist, which is reported on opening."""
        if self.frames.is_file() or not self.frames.is_dir():
            return True
        return bool(image_files(_with_images(self.frames)))

    def with_frames(
        self, video: Video, files: Sequence[str], indices: Sequence[int | None], sizes: set[tuple[int, int]]
    ) -> Video | None:
        """Video of the images named in an imported file. None, with a report, if they do not match.

        Args:
            video: the video in `frames`.
            files: names of the images, in order.
            indices: frame indices, which identify the frames of a video file. None if the file has none.
            sizes: sizes of the images according to the file, (height, width).
        """
        record = f"video {video.name!r}"
        sizes = sizes - {(video.height, video.width)}
        if sizes:
            problem = f"is {sorted(sizes)[0]} (height, width), its images {(video.height, video.width)}"
            self.report(record, problem, "Give the frames that were annotated")
            return None
        if isinstance(video.frames, Path):
            numbers = list(indices if None not in indices else map(number_at_end, files))
            if None not in numbers and numbers == list(range(numbers[0], numbers[0] + video.length)):
                return video
            problem = f"has labels of {counted(len(files), 'frame')}, the video {video.length}"
            self.report(record, problem, "Number all of its frames, 0, 1, ..., or give a folder of images")
            return None
        if len(set(files)) < len(files):
            self.report(record, "names an image twice", "Name the right frames with --frames")
            return None
        frames = _called(files, video.frames)
        if frames is None and _count_alike(files, video.frames):
            frames = list(video.frames)
            self.note(f"{record}: the file has other names for the images; they were matched in their order")
        if frames is None:
            names = {path.name for path in video.frames}
            missing = next(file for file in files if file not in names)
            self.report(record, f"has no image {missing!r}", "Name the right frames with --frames")
            return None
        return replace(video, length=len(files), frames=tuple(frames))

    def put(
        self,
        record: str,
        video: BoxVideo,
        track_id: str,
        category: str,
        frame: int,
        box: Box,
        *,
        mask: Any = None,
        by_majority: bool = False,
    ) -> None:
        """Set the box of an object in a frame, and its mask if the file has one. Duplicate boxes, swapped corners and
        changed categories are reported.

        by_majority: the object gets the category of most of its boxes, since trackers classify each box separately.
        """
        width, height = box[2] - box[0], box[3] - box[1]
        if min(width, height) < 0:
            self.report(record, f"the box is {width:g} x {height:g}", "Write its left upper corner first")
            return
        if min(width, height) == 0:
            self.leave_out("without a size")
            return
        track = video.tracks.setdefault(track_id, BoxTrack(category))
        if track.category != category and not by_majority:
            problem = f"object {track_id} is {category!r} here and {track.category!r} elsewhere"
            self.report(record, problem, "Give it one category, or two ids")
        elif frame in track.boxes:
            problem = f"object {track_id} has a second box in this frame"
            self.report(record, problem, "Give each object its own id")
        else:
            track.boxes[frame] = box
            if mask is not None:
                track.masks[frame] = mask
            if by_majority:
                track.votes[category] += 1
                track.category = max(track.votes, key=track.votes.__getitem__)


@dataclass(frozen=True)
class Importer:
    """A format of box tracks: how its files are recognized and read."""

    name: str
    sniff: Callable[[ImportedFile], bool]
    """Function that recognizes a file of this format. The file may be a folder. It reports nothing."""
    read: Callable[[ImportedFile], list[BoxVideo]]
    """Function that returns the videos with their tracks. Problems are reported to the file."""
    reads_folders: bool = False
    """True if a folder is read as a whole. Otherwise each file in it is read as a video."""
    options: frozenset[str] = frozenset()
    """Fields of `ImportedFile` that this format uses: first_frame, first_pixel, class_names."""


def _called(files: Sequence[str], images: Sequence[Path]) -> list[Path] | None:
    """Images with these names, with or without their suffix. None if one does not exist."""
    for key in (lambda path: path.name, lambda path: path.stem):
        by_name = {key(path): path for path in images}
        if len(by_name) == len(images) and all(key(Path(file)) in by_name for file in files):
            return [by_name[key(Path(file))] for file in files]
    return None


def _count_alike(files: Sequence[str], images: Sequence[Path]) -> bool:
    """True if there are as many images as names, numbered alike up to an offset."""
    if len(files) != len(images):
        return False
    numbers = [(number_at_end(file), number_at_end(path.name)) for file, path in zip(files, images, strict=True)]
    return all(None not in pair for pair in numbers) and len({theirs - ours for theirs, ours in numbers}) == 1


def number_at_end(name: str) -> int | None:
    """Last number in a file's name, without its suffix."""
    match = re.search(r"(\d{1,9})\D*$", Path(name).stem, re.ASCII)
    return int(match[1]) if match else None


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _json_lines(text: str | None) -> list[Any] | None:
    """Values of a file with a JSON value on every line. None for other files."""
    lines = [line for line in (text or "").split("\n") if line.strip()]
    if len(lines) < 2:
        return None
    try:
        return [json.loads(line) for line in lines]
    except (ValueError, RecursionError):  # usually raised by the first line
        return None


def _with_images(path: Path) -> Path:
    """The folder, or its subfolder that contains the images."""
    if not path.is_dir() or image_files(path):
        return path
    inner = [path / name for name in IMAGE_FOLDERS if (path / name).is_dir()]
    return inner[0] if len(inner) == 1 else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or has invalid characters
        return False
