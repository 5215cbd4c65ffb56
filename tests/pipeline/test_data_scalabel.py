"""Scalabel's labels: every kind of them is read, damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bdd100k_files import frames, label, write
from mfvis.data.rle import decode_mask, encode_mask
from mfvis.data.scalabel import box_of, read_scalabel, videos_of
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
    # the height of the curve's middle, not that of the control points
    assert points[:, 1].min() == pytest.approx(1, abs=0.05)


def test_curves_as_all_of_bdd100k_writes_them(tmp_path: Path) -> None:
    """Between two vertices two control points: L C C L. The last curve of a polygon ends at the first vertex."""
    bulge = {"vertices": [[10, 10], [30, 10], [40, 15], [40, 25], [30, 30], [10, 30]], "types": "LLCCLL"}
    closing = {"vertices": [[50, 10], [70, 10], [70, 30], [50, 30], [40, 25], [40, 15]], "types": "LLLLCC"}
    begun = {"vertices": [*closing["vertices"][5:], *closing["vertices"][:5]], "types": "CLLLLC"}
    polygons = [polygon | {"closed": True} for polygon in (bulge, closing, begun)]
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(poly2d=polygons))))
    outlines = [np.reshape(outline, (-1, 2)) for outline in frame.labels[0].segmentation]
    # In the middle of a curve: an eighth of each end, three eighths of each control point.
    for outline, extent in zip(outlines, [(10, 10, 37.5, 30), (42.5, 10, 70, 30), (42.5, 10, 70, 30)], strict=True):
        np.testing.assert_allclose([*outline.min(0), *outline.max(0)], extent, atol=0.05)
    assert outlines[0][0].tolist() == [10, 10] and outlines[0][-1].tolist() == [10, 30]
    assert outlines[1].tolist() == outlines[2].tolist() and len(np.unique(outlines[1], axis=0)) == len(outlines[1])
    mask_HW = decode_mask([outlines[0].ravel().tolist()], 40, 80)
    # The square, and the integral of x dy = 30 s (1 - s) (15 + 30 s (1 - s)) ds: 75 + 30.
    assert mask_HW.sum() == pytest.approx(400 + 105, abs=3)


def test_a_curve_is_never_far_from_its_straight_pieces(tmp_path: Path) -> None:
    vertices = [[0, 0], [0, 700], [1280, 700], [1280, 0]]
    value = frames(label(poly2d=[{"vertices": vertices, "types": "LCCL", "closed": True}]))
    outline = np.reshape(read_scalabel(write(tmp_path / "a.json", value))[0].labels[0].segmentation[0], (-1, 2))
    s = np.linspace(0, 1, 2001)[:, None]
    curve = np.hstack([(1 - s) ** 3, 3 * (1 - s) ** 2 * s, 3 * (1 - s) * s**2, s**3]) @ np.array(vertices, float)
    starts, steps = outline[:-1, None], np.diff(outline, axis=0)[:, None]
    share = np.clip(((curve - starts) * steps).sum(-1) / (steps**2).sum(-1), 0, 1)[..., None]
    assert np.linalg.norm(starts + share * steps - curve, axis=-1).min(0).max() < 0.06


def test_lines_are_no_part_of_a_mask(tmp_path: Path) -> None:
    line = {"vertices": [[0, 0], [9, 9]], "types": "LL", "closed": False}
    square = {"vertices": [[0, 0], [4, 0], [4, 4], [0, 4]], "types": "LLLL", "closed": True}
    lane = label(id="2", category="lane", box2d=None, poly2d=[line])
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(poly2d=[line, square]), lane)))
    assert [each.segmentation for each in frame.labels] == [[[0, 0, 4, 0, 4, 4, 0, 4]], []]
    with pytest.raises(DataError, match="lane: has neither box2d nor a mask"):
        box_of(frame.labels[1], 9, 9, file="a.json", record="lane")


def test_hidden_files_are_not_read(tmp_path: Path) -> None:
    """A Mac leaves a ``._NAME`` next to each file of an archive."""
    write(tmp_path / "a.json", frames(label()))
    (tmp_path / "._a.json").write_bytes(b"\0\5\x16\7\0Mac OS X\xff")
    assert len(read_scalabel(tmp_path)) == 1


def test_images_without_a_video_may_say_so_with_an_empty_name(tmp_path: Path) -> None:
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(), videoName="")))
    assert frame.video is None


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
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LCL", "closed": True}])), "types are 'LCL'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 4, "types": "CCCC", "closed": True}])), "types are 'CCCC'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 4, "types": "CLLL", "closed": True}])), "types are 'CLLL'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LLL"}])), "closed is None, expected true or false"),
        (frames(label(box2d={"x1": 0.1, "y1": 0.2, "x2": 0.5, "y2": 1})), "no box is as large as a pixel: are these"),
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
