"""Ultralytics' results in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from import_helpers import ids_of, imported, notes_of, problems_of, tracks_of, write


def result(x: float, **more: Any) -> dict[str, Any]:
    box = {"x1": x, "y1": 2.0, "x2": x + 8, "y2": 11.0}
    return {"name": "dog", "class": 16, "confidence": 0.9, "box": box} | more


TURNED = {"x1": 20.0, "y1": 10.0, "x2": 30.0, "y2": 20.0, "x3": 20.0, "y3": 30.0, "x4": 10.0, "y4": 20.0}
FRAMES = [
    [result(1, track_id=12345678)],
    [],
    [result(2, track_id=12345678), result(3)],
    [result(0, track_id=3, name="cat", box=TURNED)],
    [],
    [result(4, track_id=None)],
]


@pytest.mark.parametrize("form", ["lists", "texts", "lines"])
def test_results_of_every_frame(tmp_path: Path, six_images: Path, form: str) -> None:
    content = {
        "lists": FRAMES,
        "texts": [json.dumps(frame) for frame in FRAMES],
        "lines": "\n".join(json.dumps(frame) for frame in FRAMES) + "\n",
    }[form]
    file = write(tmp_path / "a.json", content)
    root = imported(file, six_images)
    assert tracks_of(root) == [
        ("dog", [[1, 2, 8, 9], None, [2, 2, 8, 9], None, None, None]),
        ("cat", [None, None, None, [10, 10, 20, 20], None, None]),
    ]
    assert ids_of(root) == [(12345678, 12345678), (3, 3)]
    assert "2 boxes without a track were left out" in notes_of(file, six_images)


def test_what_is_missing(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "a.json", FRAMES[:5])
    assert "has results of 5 frames, the video 6 frames. Write json.dump(" in problems_of(file, six_images)
    assert "is not a list of results for each frame. Write json.dump(" in problems_of(
        write(file, FRAMES[0]), six_images
    )
    unnamed = [[result(1, track_id=1, name=None)]] * 6
    assert "has class 16 without a name" in problems_of(write(file, unnamed), six_images)
    assert tracks_of(imported(file, six_images, class_names=["16=dog"]))[0][0] == "dog"
    shares = [[result(1, track_id=1, box={"x1": 0.1, "y1": 0.1, "x2": 0.9, "y2": 0.9})]] * 6
    assert "no box is as large as a pixel" in problems_of(write(file, shares), six_images)
    broken = [[result(1, track_id=1, box={"x1": 0.1}), 3, result(1, name=None, track_id=1) | {"class": "x"}]] * 6
    text = problems_of(write(file, broken), six_images, format="ultralytics")
    assert "[0][0]: box is {'x1': 0.1}" in text and "[0][1]: box is None" in text and "neither name nor class" in text
