"""Scalabel's labels: every kind of them is read, damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bdd100k_files import frames, label, write
from mfvis.data.rle import encode_mask
from mfvis.data.scalabel import read_scalabel, videos_of
from mfvis.errors import DataError


def test_scalabel_label(tmp_path: Path) -> None:
    mask_HW = np.zeros((6, 8), bool)
    mask_HW[2:4, 3:6] = True
    attributes = {"crowd": True, "occluded": False, "truncated": True, "weather": "clear"}
    given = label(id=12, attributes=attributes, rle=encode_mask(mask_HW), score=0.25)
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(given)))
    assert (frame.name, frame.video, frame.index, frame.size) == ("a-0000001.jpg", "a", 0, None)
    (read,) = frame.labels
    assert (read.id, read.category, read.score) == ("12", "car", 0.25)
    assert read.box == (10, 20.5, 31, 41)
    assert (read.truncated, read.occluded, read.crowd, read.ignored) == (True, False, True, False)
    assert read.segmentation == encode_mask(mask_HW)


def test_scalabel_polygons_with_curves(tmp_path: Path) -> None:
    square = {"vertices": [[0, 0], [4, 0], [4, 4], [0, 4]], "types": "LLLL", "closed": True}
    arch = {"vertices": [[0, 4], [0, 0], [8, 0], [8, 4]], "types": "LCCC", "closed": True}
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(poly2d=[square, arch]))))
    straight, curved = frame.labels[0].segmentation
    assert straight == [0, 0, 4, 0, 4, 4, 0, 4]
    points = np.reshape(curved, (-1, 2))
    assert points[0].tolist() == [0, 4] and points[-1].tolist() == [8, 4]
    assert points[len(points) // 2].tolist() == [4, 1]  # the middle of the curve, not the control points' height
    assert points[:, 1].min() == 1


def test_scalabel_containers_and_order(tmp_path: Path) -> None:
    root = {
        "frames": frames(name="b2", videoName="b", frameIndex=2),
        "config": {"imageSize": {"width": 8, "height": 6}},
    }
    root["frames"] += frames(name="b0", videoName="b", frameIndex=None, labels=None, size={"width": 4, "height": 3})
    write(tmp_path / "2.json", root)
    write(tmp_path / "1.json", frames())
    videos = videos_of(read_scalabel(tmp_path))
    assert {name: [frame.name for frame in members] for name, members in videos.items()} == {
        "a": ["a-0000001.jpg"],
        "b": ["b0", "b2"],
    }
    assert [frame.size for frame in videos["b"]] == [(3, 4), (6, 8)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"videos": []}, "'frames' is null, expected a list"),
        (None, "is null, expected a list of frames"),
        (["x"], "frames[0]: is a text, expected an object"),
        (frames(name=None), "name is None, expected a text"),
        (frames(videoName=3), "videoName is 3, expected a text"),
        (frames(frameIndex=-1), "frameIndex is -1"),
        (frames(labels={}), "labels is an object, expected a list"),
        (frames(size={"width": 0, "height": 4}), "size is {'width': 0"),
        (frames(label(id=None)), "labels[0]: id is None"),
        (frames(label(category=None)), "category is None"),
        (frames(label(score="high")), "score is 'high'"),
        (frames(label(attributes={"crowd": "false"})), "truncated, occluded, crowd, ignored are None, None, 'false'"),
        (frames(label(box2d={"x1": 1, "y1": 2, "x2": 3})), "box2d is {'x1': 1"),
        (frames(label(box2d={"x1": 9, "y1": 2, "x2": 3, "y2": 4})), "its corners are swapped"),
        (frames(label(rle={"counts": [1, 2], "size": [6, 8]})), "rle is {'counts': [1, 2]"),
        (frames(label(rle={"counts": "0", "size": [6, "8"]})), "rle is {'counts': '0'"),
        (frames(label(poly2d=[{"vertices": [[0, 0], [1, 1]], "types": "LL", "closed": True}])), "vertices are"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LCC", "closed": True}])), "types are 'LCC'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LLL", "closed": False}])), "a line has no area"),
    ],
)
def test_scalabel_problems_are_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match="a.json") as error:
        read_scalabel(write(tmp_path / "a.json", value))
    assert message in str(error.value)


def test_scalabel_reports_all_problems_of_all_files(tmp_path: Path) -> None:
    write(tmp_path / "1.json", frames(label(id=None), label(category=1)))
    (tmp_path / "2.json").write_text('[{"name": "x"')
    with pytest.raises(DataError) as error:
        read_scalabel(tmp_path)
    assert len(error.value.problems) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no JSON file"):
        read_scalabel(tmp_path / "empty")
