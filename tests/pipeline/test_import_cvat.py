"""CVAT for video 1.1: tracks of key frames, in every frame as CVAT shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from importing import check_told, imported, left_sides, problems_of, tracks_of, write


def cvat(tracks: str, meta: str = "<size>6</size>") -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    return f"{head}<meta><task>{meta}</task></meta>{tracks}</annotations>"


def box(frame: int, xtl: float, *, key: int = 1, out: int = 0, **more: str) -> str:
    corners = f'xtl="{xtl:.2f}" ytl="10.00" xbr="{xtl + 20:.2f}" ybr="30.00"'
    extra = "".join(f' {name}="{value}"' for name, value in more.items())
    return f'<box frame="{frame}" keyframe="{key}" outside="{out}" occluded="0" {corners}{extra} z_order="0"></box>'


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        (box(0, 10) + box(4, 30), [10, 15, 20, 25, 30, 30]),
        (box(1, 10) + box(3, 30, out=1), [None, 10, 20, None, None, None]),
        (box(0, 10) + box(1, 10, out=1) + box(4, 20), [10, None, None, None, 20, 20]),
        (box(0, 10) + box(1, 15, key=0) + box(2, 20) + box(3, 20, out=1), [10, 15, 20, None, None, None]),
        (box(4, 20) + box(5, 20, out=1), [None, None, None, None, 20, None]),
    ],
)
def test_cvat_key_frames(tmp_path: Path, six_pictures: Path, boxes: str, expected: list[Any]) -> None:
    file = write(tmp_path / "annotations.xml", cvat(f'<track id="0" label="car">{boxes}</track>'))
    assert left_sides(imported(file, six_pictures)) == expected


def test_cvat_turned_boxes_become_the_boxes_around_them(tmp_path: Path, six_pictures: Path) -> None:
    # 20 x 20 about its centre (20, 20), from 350 to 80 degrees on the short way: 35 degrees in the middle.
    turned = box(0, 10, rotation="350") + box(2, 10, rotation="80.00") + box(3, 10, out=1)
    root = imported(write(tmp_path / "a.xml", cvat(f'<track label="car">{turned}</track>')), six_pictures)
    ((_, bboxes),) = tracks_of(root)
    side = 20 * (math.cos(math.radians(35)) + math.sin(math.radians(35)))
    assert bboxes[1] == pytest.approx([20 - side / 2, 20 - side / 2, side, side])
    assert bboxes[3:] == [None] * 3


def test_cvat_frames_of_a_task_with_start_and_step(tmp_path: Path, six_pictures: Path) -> None:
    meta = "<size>6</size><start_frame>10</start_frame><frame_filter>step=5</frame_filter>"
    meta += "<original_size><width>80</width><height>60</height></original_size><source>walk.mp4</source>"
    track = f'<track label="car">{box(10, 10)}{box(20, 30)}{box(25, 30, out=1)}</track>'
    root = imported(write(tmp_path / "a.xml", cvat(track, meta)), six_pictures)
    assert left_sides(root) == [10, 20, 30, None, None, None]
    assert root["videos"][0]["name"] == "walk"
    off = write(tmp_path / "b.xml", cvat(f'<track label="car">{box(11, 10)}</track>', meta))
    assert "track at place 0, frame 11: is none of the video's 6 frames" in problems_of(off, six_pictures)


def test_cvat_categories_leave_other_shapes_out(tmp_path: Path, six_pictures: Path) -> None:
    lane = '<track id="1" label="lane"><polyline frame="0" keyframe="1" outside="0" points="1,2;3,4"/></track>'
    file = write(tmp_path / "a.xml", cvat(f'<track id="0" label="car">{box(0, 10)}</track>{lane}'))
    assert "track 1, frame 0: is a polyline, not a box" in problems_of(file, six_pictures)
    root = imported(file, six_pictures, categories=["truck", "car"])
    assert [category["name"] for category in root["categories"]] == ["truck", "car"]
    assert [annotation["category_id"] for annotation in root["annotations"]] == [2]


def test_cvat_takes_no_first_frame(tmp_path: Path, six_pictures: Path) -> None:
    file = write(tmp_path / "a.xml", cvat(""))
    assert "is cvat, in which --first-frame has no meaning" in problems_of(file, six_pictures, first_frame=1)


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


THIEF = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("doctype", [LAUGHS, THIEF, '<!DOCTYPE annotations SYSTEM "http://localhost/a.dtd">'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cvat_refuses_declarations(tmp_path: Path, six_pictures: Path, doctype: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<annotations>&b;&a;</annotations>'
    file = write(tmp_path / "a.xml", text.encode(encoding))
    assert "has a DOCTYPE" in problems_of(file, six_pictures, format="cvat")


FAULTS = {
    "xml cut off": ('<annotations><track label="a">', ["is not whole XML"]),
    "other xml": ("<svg/>", ["is <svg>, expected <annotations>"]),
    "cvat images": ('<annotations><image id="0"/></annotations>', ["has images, not tracks"]),
    "cvat project": ("<annotations><meta><project/></meta></annotations>", ["Export each task by itself"]),
    "cvat meta": (
        cvat("", "<size>9</size><original_size><width>8</width><height>x</height></original_size>"),
        ["height is 'x'", "the task has 9 frames, the video 6"],
    ),
    "cvat size": (
        cvat("", "<original_size><width>8</width><height>60</height></original_size>"),
        ["the task is 8 x 60, the video 80 x 60"],
    ),
    "cvat filter": (cvat("", "<frame_filter>step=x</frame_filter>"), ["frame_filter is 'step=x'"]),
    "cvat boxes": (
        cvat(
            f'<track id="4" label="a">{box(0, 1, key=0)}</track><track id="5">{box(0, 1)}</track>'
            f'<track id="6" label="a">{box(0, 1)}{box(0, 2)}{box(1, 9, out=2)}{box(7, 9)}</track>'
            f'<track id="7" label="a">{box(0, 10)}{box(1, 13, key=0)}{box(2, 14)}</track>'
        ),
        ["track 4: has no key frame", "track 5: has no label", "track 6, frame 0: the frame occurs twice"]
        + ["track 6, frame 1: has no sound", "track 6, frame 7: is none of", "track 7, frame 1: is not what its key"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_pictures: Path, name: str) -> None:
    check_told(tmp_path, six_pictures, *FAULTS[name])
