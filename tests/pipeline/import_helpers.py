"""Files of box tracks, imported for a test, and what became of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mfvis.data.importers import import_tracks
from mfvis.errors import DataError
from PIL import Image

WIDTH, HEIGHT, LENGTH = 80, 60, 6

MOT = """1,1,11,21,30,20,1,1,0.9
3,1,12,22,30,20,1,1,0.5
1,2,71,-9,40,30,1,3,1
2,3,5,5,10,10,0,8,1
"""


def write_images(folder: Path, length: int = LENGTH, start: int = 1) -> Path:
    folder.mkdir(parents=True)
    for t in range(start, start + length):
        Image.new("RGB", (WIDTH, HEIGHT), (t, 0, 0)).save(folder / f"{t:06d}.jpg")
    return folder


def write(path: Path, content: str | bytes | Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def imported(file: Path, frames: Path, **options: Any) -> dict[str, Any]:
    return import_tracks(file, frames, file.with_name("out.json"), **options)[0]


def notes_of(file: Path, frames: Path, **options: Any) -> str:
    return "\n".join(import_tracks(file, frames, file.with_name("out.json"), **options)[1])


def ids_of(root: dict[str, Any]) -> list[tuple[int, Any]]:
    """The annotation id and the file's own id of every track."""
    return [(annotation["id"], annotation["track_id"]) for annotation in root["annotations"]]


def tracks_of(root: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Category and boxes of every track."""
    names = {category["id"]: category["name"] for category in root["categories"]}
    return [(names[annotation["category_id"]], annotation["bboxes"]) for annotation in root["annotations"]]


def left_sides(root: dict[str, Any]) -> list[Any]:
    """The left sides of the only track."""
    ((_, bboxes),) = tracks_of(root)
    return [None if bbox is None else pytest.approx(bbox[0]) for bbox in bboxes]


def problems_of(file: Path, frames: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        imported(file, frames, **options)
    assert all(problem.remedy and problem.record for problem in error.value.problems)
    return str(error.value)


def check_problems(folder: Path, images: Path, content: Any, messages: list[str]) -> None:
    """Asserts that importing a file reports all its faults."""
    problems = problems_of(write(folder / "file", content), images)
    assert [message for message in messages if message not in problems] == [], problems
