"""Clicks, scribbles and given masks in a JSON: read, checked all at once, and kept by join and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_helpers import write_images
from mfvis.data.check import check_file
from mfvis.data.exporters import ExportConfig
from mfvis.data.exporters import run as export
from mfvis.data.importers import import_tracks
from mfvis.data.join import JoinConfig
from mfvis.data.join import run as join
from mfvis.data.marks import Scribble, fields_of, read_marks
from mfvis.data.rle import encode_mask
from mfvis.errors import Problem
from mfvis.types import Track, Video

SIZE = {"width": 80, "height": 60}
POINTS = [[0, 12.5, 20.0, 1], [2, 70.0, 50.0, 0]]
SCRIBBLES = [[0, [12.0, 20.0, 20.0, 30.0], 1], [2, [5.0, 5.0], 0]]


def file_with(folder: Path, name: str = "a", **fields: Any) -> Path:
    """A JSON of one video of six images with one track, which has a box in the frames 0 to 2."""
    images = write_images(folder / name)
    files = sorted(f"{name}/{path.name}" for path in images.iterdir())
    boxes = [[10, 10, 20, 30]] * 3 + [None] * 3
    annotation = {"id": 4, "video_id": 1, "category_id": 1, "bboxes": boxes} | fields
    video = {"id": 1, "name": name, "file_names": files, **SIZE}
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps({"videos": [video], "annotations": [annotation], "categories": [{"id": 1, "name": "car"}]})
    )
    return path


def test_valid_marks_have_no_problem(tmp_path):
    mask = encode_mask(np.ones((60, 80), bool))
    masks = [None, {"size": [60, 80], "counts": mask["counts"]}] + [None] * 4
    box = [[10, 10, 20, 30], [0, 0, 80, 60], [10, 10, 20, 30]] + [None] * 3
    file = file_with(
        tmp_path,
        bboxes=box,
        points=POINTS,
        scribbles=SCRIBBLES,
        segmentations=masks,
        given=[False, True] + [False] * 4,
    )
    assert check_file(file) == []


def test_every_faulty_mark_is_reported_at_once(tmp_path):
    points = [[0, 80, 5, 0], [6, 12, 20, 1], [0.5, 12, 20, 1], [0, 12, 20, 2], [0, 12, 20], "x", [3, 12, 20, 0]]
    points += [[0, 60, 20, 1], *POINTS]
    scribbles = [[0, [12, 20, 13], 1], [0, [], 1], [0, [12, 20, 12, 60], 1], [0, 12, 1], [0, [60, 20, 70, 9], 1]]
    file = file_with(tmp_path, points=points, scribbles=scribbles, given=[True] + [False] * 5)
    problems = check_file(file)
    assert [problem.record for problem in problems] == [
        "annotation 4",
        *(f"annotation 4, points[{i}]" for i in range(8)),
        *(f"annotation 4, scribbles[{i}]" for i in range(5)),
    ]
    texts = [problem.problem for problem in problems]
    assert texts[0] == "given is true in 1 frame without a mask, such as frame 0"
    assert "[0, 80, 5, 0] is not a click" in texts[1] and "where the track has no box" in texts[7]
    assert "outside its box [10.0, 10.0, 30.0, 40.0]" in texts[8] and "outside its box" in texts[13]
    assert check_file(file_with(tmp_path, "b", points=7, given=[True]))[1].record == "annotation 4, points[0]"


@given(
    st.lists(st.tuples(st.floats(0, 79), st.floats(0, 59)), min_size=1, max_size=5),
    st.floats(0.5, 30),
    st.booleans(),
)
def test_a_scribble_is_a_row_of_clicks_without_gaps(xy, spacing, positive):
    points = Scribble(1, tuple(xy), positive).as_points(spacing)
    assert (points[0].x, points[0].y) == pytest.approx(xy[0]) and (points[-1].x, points[-1].y) == pytest.approx(xy[-1])
    gaps = np.hypot(*np.diff([[point.x, point.y] for point in points], axis=0).T)
    assert (gaps <= spacing + 1e-6).all() and {(point.frame, point.positive) for point in points} == {(1, positive)}


def test_what_is_written_is_read_again():
    track = Track(4, 1, np.array([[0, 0, 80, 60]] * 3, np.float32))
    video = Video(1, "v", 80, 60, 3, ())
    marks = read_marks({"points": POINTS, "scribbles": SCRIBBLES}, track, video, "x.json", [])
    assert fields_of((*marks.points, *marks.scribbles)) == {"points": POINTS, "scribbles": SCRIBBLES}
    assert fields_of(()) == {} and read_marks({}, track, video, "x.json", []).given is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50)
@given(points=JSON, scribbles=JSON, flags=JSON)
def test_whatever_the_json_holds_is_read_or_reported(points, scribbles, flags):
    track = Track(4, 1, np.array([[0, 0, 80, 60]] * 3, np.float32))
    problems: list[Problem] = []
    record = {"points": points, "scribbles": scribbles, "given": flags}
    marks = read_marks(record, track, Video(1, "v", 80, 60, 3, ()), "x.json", problems)
    lengths = [len(value) if isinstance(value, list) else int(value is not None) for value in (points, scribbles)]
    kept = len(marks.points) + len(marks.scribbles) + (marks.given is not None)
    assert kept + len(problems) >= sum(lengths) + (flags is not None)
    assert all(str(problem) for problem in problems)


def test_join_and_export_keep_marks_or_count_them(tmp_path, capsys):
    files = [file_with(tmp_path, name, points=POINTS, scribbles=SCRIBBLES) for name in ("a", "b")]
    both = tmp_path / "all.json"
    join(JoinConfig(tuple(files), both))
    expected = {"points": POINTS, "scribbles": SCRIBBLES}
    assert [marks_in(annotation) for annotation in json.loads(both.read_text())["annotations"]] == [expected] * 2

    again = tmp_path / "again.json"
    export(ExportConfig(str(both), "youtube-vis", again))
    assert [marks_in(annotation) for annotation in json.loads(again.read_text())["annotations"]] == [expected] * 2
    export(ExportConfig(str(files[0]), "cvat", tmp_path / "a.xml"))
    root, _ = import_tracks(tmp_path / "a.xml", tmp_path / "a", tmp_path / "back.json")
    assert marks_in(root["annotations"][0]) == expected
    notes = export(ExportConfig(str(files[0]), "coco", tmp_path / "coco.json"))
    assert notes == ("clicks and scribbles were left out, as coco has none (4)",)


def marks_in(annotation: dict[str, Any]) -> dict[str, Any]:
    return {key: annotation[key] for key in ("points", "scribbles") if key in annotation}
