"""Tasks in CVAT's XML: their frames, sizes and first frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mfvis.data.importers.source import ImportedFile
from mfvis.text import counted
from mfvis.types import Video


@dataclass(frozen=True)
class Task:
    """A task of the file, or the exported job."""

    record: str
    id: str
    name: str | None
    """Name of its video file, else of the task."""
    size: int | None
    """Number of frames."""
    first: int
    """Number of the first frame in the file."""
    step: int
    width: int | None
    height: int | None

    def frame(self, number: int) -> int | None:
        """Frame index, from 0, of a frame number of the file. None for a number between the frames of the task."""
        t, rest = divmod(number - self.first, self.step)
        return None if rest else t

    def number(self, t: int) -> int:
        return self.first + t * self.step

    def fits(self, video: Video, source: ImportedFile) -> bool:
        """True if the video has the length and size of the task. Differences are reported."""
        before = len(source.problems)
        if self.size not in (None, video.length):
            taken = f" (from {self.first} on, every {self.step}.)" if (self.first, self.step) != (0, 1) else ""
            problem = f"the task has {counted(self.size, 'frame')}, the video {video.length}"
            source.report(self.record, problem, f"Give the frames of the task{taken} with --frames")
        if None not in (self.width, self.height) and (self.width, self.height) != (video.width, video.height):
            problem = f"the task is {self.width} x {self.height}, the video {video.width} x {video.height}"
            source.report(self.record, problem, "Give the frames that were annotated")
        return len(source.problems) == before


class _DoctypeError(Exception):
    pass


def parse_xml(source: ImportedFile) -> Element | None:
    """XML tree of the text. A DOCTYPE is refused, since its entities can open files and grow without limit."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise _DoctypeError

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(source.file.read_bytes(), True)
        return builder.close()
    except _DoctypeError:
        source.report("file", "has a DOCTYPE, which CVAT never writes", "Remove it")
    except OSError as error:
        source.report("file", f"cannot be read ({error.strerror})", "Check the path")
    except (expat.ExpatError, ValueError, LookupError) as error:
        source.report("file", f"is not whole XML ({error})", "Export or copy it again")
    return None


def read_tasks(root: Element, source: ImportedFile) -> list[Task]:
    """Tasks of a project, else the only task or job of the file. Invalid content is reported.

    In a project, the frame numbers of a task continue those of the previous tasks of the same subset.
    """
    meta = root.find("meta")
    meta = Element("meta") if meta is None else meta
    if meta.find("project") is None:
        holder = meta.find("task") if meta.find("job") is None else meta.find("job")
        return [_task(Element("task") if holder is None else holder, meta, "meta", 0, source)]
    elements = meta.findall("project/tasks/task")
    if not elements:
        source.report("meta", "is of a project without tasks", "Export the project again, or each task by itself")
    tasks, offsets = [], {}
    for i, element in enumerate(elements):
        record = f"task {element.findtext('id', f'at index {i}')[:40]}"
        subset = element.findtext("subset", "")
        task = _task(element, meta, record, offsets.get(subset, 0), source)
        offsets[subset] = task.first + task.step * (task.size or 0)
        tasks.append(task)
    return tasks


def _task(element: Element, meta: Element, record: str, offset: int, source: ImportedFile) -> Task:
    numbers = {}
    for name in ("size", "start_frame", "original_size/width", "original_size/height"):
        text = element.findtext(name) or meta.findtext(name)  # a job has its size next to it
        numbers[name] = None if text is None else whole(text.strip())
        if text is not None and numbers[name] is None:
            source.report(record, f"{name} is {text[:40]!r}", "Write a whole number")
    step_text = element.findtext("frame_filter") or ""
    step = re.fullmatch(r"\s*(step\s*=\s*([1-9]\d{0,6}))?\s*", step_text, re.ASCII)
    if step is None:
        source.report(record, f"frame_filter is {step_text[:40]!r}", "Write step=N, or leave it empty")
    every = int(step[2]) if step and step[2] else 1
    film = element.findtext("source") or meta.findtext("source")
    name = PureWindowsPath(film).name if film else element.findtext("name")
    first = offset + (numbers["start_frame"] or 0)
    size = numbers["original_size/width"], numbers["original_size/height"]
    return Task(record, element.findtext("id", ""), name, numbers["size"], first, every, *size)


def whole(text: str) -> int | None:
    """Integer of at most eight digits. None for other text."""
    return int(text) if re.fullmatch(r"\d{1,8}", text, re.ASCII) else None
