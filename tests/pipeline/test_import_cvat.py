"""CVAT for video 1.1: tracks of key frames, in every frame as CVAT shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from import_helpers import (
    check_problems,
    ids_of,
    imported,
    left_sides,
    notes_of,
    problems_of,
    tracks_of,
    write,
    write_images,
)
from mfvis.data.rle import decode_mask


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
def test_cvat_key_frames(tmp_path: Path, six_images: Path, boxes: str, expected: list[Any]) -> None:
    file = write(tmp_path / "annotations.xml", cvat(f'<track id="0" label="car">{boxes}</track>'))
    assert left_sides(imported(file, six_images)) == expected


def test_cvat_turned_boxes_become_the_boxes_around_them(tmp_path: Path, six_images: Path) -> None:
    # 20 x 20 about its center (20, 20), from 350 to 80 degrees on the short way: 35 degrees in the middle.
    turned = box(0, 10, rotation="350") + box(2, 10, rotation="80.00") + box(3, 10, out=1)
    root = imported(write(tmp_path / "a.xml", cvat(f'<track label="car">{turned}</track>')), six_images)
    ((_, bboxes),) = tracks_of(root)
    side = 20 * (math.cos(math.radians(35)) + math.sin(math.radians(35)))
    assert bboxes[1] == pytest.approx([20 - side / 2, 20 - side / 2, side, side])
    assert bboxes[3:] == [None] * 3


def test_cvat_frames_of_a_task_with_start_and_step(tmp_path: Path, six_images: Path) -> None:
    meta = "<size>6</size><start_frame>10</start_frame><frame_filter>step=5</frame_filter>"
    meta += "<original_size><width>80</width><height>60</height></original_size><source>walk.mp4</source>"
    track = f'<track label="car">{box(10, 10)}{box(20, 30)}{box(25, 30, out=1)}</track>'
    root = imported(write(tmp_path / "a.xml", cvat(track, meta)), six_images)
    assert left_sides(root) == [10, 20, 30, None, None, None]
    assert root["videos"][0]["name"] == "walk"
    off = write(tmp_path / "b.xml", cvat(f'<track label="car">{box(11, 10)}</track>', meta))
    assert "track at index 0, frame 11: is none of the video's 6 frames" in problems_of(off, six_images)


def test_cvat_tracks_that_have_no_box_are_left_out(tmp_path: Path, six_images: Path) -> None:
    others = "".join(
        f'<track id="{i}" label="car"><{tag} frame="0" keyframe="1" outside="0" points="1,2;3,4"/></track>'
        for i, tag in enumerate(("polyline", "polyline", "points", "skeleton"), 1)
    )
    file = write(
        tmp_path / "a.xml", cvat(f'<track id="7" label="car">{box(0, 10)}</track>{others}<track label="car"/>')
    )
    root = imported(file, six_images)
    assert left_sides(root) == [10] * 6 and ids_of(root) == [(7, 7)]
    notes = notes_of(file, six_images)
    for note in (
        "2 scribbles without a track below it in its frame were left out",
        "2 clicks without a track below it in its frame were left out",
        "1 track of type skeleton was left out",
        "1 track without a shape was left out",
    ):
        assert note in notes
    root = imported(file, six_images, categories=["truck", "car"])
    assert [category["name"] for category in root["categories"]] == ["truck", "car"]
    assert [annotation["category_id"] for annotation in root["annotations"]] == [2]


def marks(tag: str, label: str, frame: int, points: str, negative: str = "", **more: str) -> str:
    """A points shape or polyline of one frame, as CVAT exports what was drawn as a shape."""
    extra = "".join(f' {name}="{value}"' for name, value in more.items())
    attribute = f'<attribute name="Negative">{negative}</attribute>' if negative else ""
    shapes = "".join(
        f'<{tag} frame="{frame + out}" keyframe="1" outside="{out}" points="{points}">{attribute}</{tag}>'
        for out in (0, 1)
    )
    return f'<track id="{label}{frame}" label="{label}"{extra}>{shapes}</track>'


def test_cvat_points_and_polylines_become_clicks_and_scribbles(tmp_path: Path, six_images: Path) -> None:
    tracks = (
        f'<track id="1" label="car">{box(0, 10)}{box(5, 10)}</track>'
        f'<track id="2" label="dog">{box(0, 15)}{box(4, 15, out=1)}</track>'
        f'<track id="3" label="car" group_id="7">{box(0, 50)}</track>'
        + marks("points", "car", 0, "16.00,12.00;17,13.5")
        + marks("points", "dog", 1, "16.00,12.00", negative="true")
        + marks("polyline", "dog_Negative", 2, "5,20;30,25")
        + marks("polyline", "negative", 2, "12,12;11,11")  # only the car lies below it
        + marks("points", "clicks", 3, "52,12", negative="false", group_id="7")
        + marks("points", "car", 3, "52,12;20,70", group_id="7")  # the second is on the object, but outside its box
        + marks("points", "dog", 4, "16,12")  # the dog has gone
    )
    file = write(tmp_path / "a.xml", cvat(tracks))
    root = imported(file, six_images)
    by_id = {annotation["id"]: annotation for annotation in root["annotations"]}
    assert by_id[1]["points"] == [[0, 16, 12, 1], [0, 17, 13.5, 1]]
    assert by_id[1]["scribbles"] == [[2, [12, 12, 11, 11], 0]]
    assert by_id[2]["points"] == [[1, 16, 12, 0]] and by_id[2]["scribbles"] == [[2, [5, 20, 30, 25], 0]]
    assert by_id[7]["points"] == [[3, 52, 12, 1]] * 2 if 7 in by_id else by_id[3]["points"] == [[3, 52, 12, 1]] * 2
    notes = notes_of(file, six_images)
    assert "1 click without a track below it in its frame was left out" in notes
    assert "1 click on the object but outside its box was left out" in notes
    assert "8 points and polylines became clicks and scribbles of the tracks below them" in notes
    check_problems(tmp_path, six_images, root, [])
    only = imported(file, six_images, categories=["dog"])
    assert ["points" in annotation for annotation in only["annotations"]] == [True]


def test_cvat_marks_between_key_frames_are_not_imported(tmp_path: Path, six_images: Path) -> None:
    shapes = "".join(
        f'<points frame="{t}" keyframe="{int(t != 1)}" outside="0" points="{12 + t},12"/>' for t in range(3)
    )
    track = f'<track label="car">{box(0, 10)}</track><track label="car">{shapes}</track>'
    (annotation,) = imported(write(tmp_path / "a.xml", cvat(track)), six_images)["annotations"]
    assert annotation["points"] == [[0, 12, 12, 1], [2, 14, 12, 1]]
    broken = track.replace('points="12,12"', 'points="12;12"').replace('frame="2"', 'frame="9"')
    problems = problems_of(write(tmp_path / "b.xml", cvat(broken)), six_images)
    assert "frame 0: has no valid points" in problems and "frame 9: is none of the video's 6 frames" in problems


def test_cvat_boxes_around_other_shapes(tmp_path: Path, six_images: Path) -> None:
    flags = 'outside="0" occluded="0"'
    ellipse = f'<ellipse frame="{{}}" keyframe="1" {flags} cx="{{}}" cy="30" rx="10" ry="5" rotation="{{}}"/>'
    masks = f'<mask frame="1" keyframe="1" {flags} rle="2, 4" left="5" top="6" width="3" height="2"/>'
    polygons = "".join(
        f'<polygon frame="{t}" keyframe="{int(t != 1)}" {flags} points="{x},10.50;20,{x};15,30"/>'
        for t, x in ((0, 4), (1, 3), (2, 2), (5, 2))
    )

    def boxes(shapes: str) -> Any:
        return tracks_of(imported(write(tmp_path / "a.xml", cvat(f'<track label="a">{shapes}</track>')), six_images))[
            0
        ][1]

    ellipses = boxes(ellipse.format(0, 20, 0) + ellipse.format(2, 40, 90))
    assert ellipses[0] == pytest.approx([10, 25, 20, 10]) and ellipses[2] == pytest.approx([35, 20, 10, 20])
    half = math.sqrt(10**2 / 2 + 5**2 / 2)
    assert ellipses[1] == pytest.approx([30 - half, 30 - half, 2 * half, 2 * half])
    assert boxes(masks) == [None, *[[5, 6, 3, 2]] * 5]
    # Between key frames CVAT changes outlines in a way of its own: known is what it wrote, and what does not change.
    assert boxes(polygons) == [[4, 4, 16, 26], [3, 3, 17, 27], *[[2, 2, 18, 28]] * 4]
    sparse = polygons.replace('keyframe="0"', 'keyframe="1"').replace('frame="2"', 'frame="3"')
    assert boxes(sparse)[2] is None and boxes(sparse)[4] == [2, 2, 18, 28]
    assert "1 frame between key frames of an outline was left out" in notes_of(tmp_path / "a.xml", six_images)


def mask(frame: int, left: int, rle: str = "0, 6") -> str:
    flags = f'keyframe="1" outside="0" occluded="0" rle="{rle}" left="{left}" top="6" width="3" height="2"'
    end = f'<mask frame="{frame + 1}" {flags}/>'.replace('outside="0"', 'outside="1"') if frame < 4 else ""
    return f'<mask frame="{frame}" {flags}/>{end}'


def test_cvat_masks_are_kept_and_joined_to_objects(tmp_path: Path, six_images: Path) -> None:
    """CVAT exports each mask as a track of one frame, without an end in the last frames."""
    tracks = "".join(
        f'<track id="{i}" label="car"{group}>{mask(t, left, rle)}</track>'
        for i, (t, left, rle, group) in enumerate(
            [(0, 5, "1, 5", ' group_id="44"'), (4, 6, "0, 2, 2, 2", ' group_id="44"'), (5, 7, "0, 6", ' group_id="44"')]
            + [(2, 12, "0, 6", ""), (2, 40, "0, 6", ""), (3, 40, "0, 6", "")]
        )
    )
    boxes = '<box frame="0" keyframe="1" outside="0" occluded="0" xtl="12" ytl="6" xbr="15.5" ybr="8"/>'
    file = write(tmp_path / "a.xml", cvat(f'{tracks}<track id="9" label="car">{boxes}</track>'))
    root = imported(file, six_images)
    rows = {a["track_id"]: a for a in root["annotations"]}
    assert [bbox and bbox[0] for bbox in rows[44]["bboxes"]] == [5, None, None, None, 6, 7]
    decoded = [None if s is None else decode_mask(s, 60, 80) for s in rows[44]["segmentations"]]
    assert np.argwhere(decoded[0]).tolist() == [[6, 6], [6, 7], [7, 5], [7, 6], [7, 7]]
    assert np.argwhere(decoded[4]).tolist() == [[6, 6], [6, 7], [7, 7], [7, 8]]
    # A mask that overlaps a box track corrects it; the box track keeps its other boxes.
    assert "outlines of single frames became masks of the tracks that they overlap (1)" in notes_of(file, six_images)
    assert [s is not None for s in rows[9]["segmentations"]] == [False, False, True, False, False, False]
    assert [bbox[2] for bbox in rows[9]["bboxes"]] == [3.5, 3.5, 3, 3.5, 3.5, 3.5]
    assert len(rows) == 4 and "2 outlines have no group and overlap no track" in notes_of(file, six_images)


def test_cvat_polygons_are_kept_as_masks(tmp_path: Path, six_images: Path) -> None:
    polygons = "".join(
        f'<polygon frame="{t}" keyframe="1" outside="0" occluded="0" points="{points}"/>'
        for t, points in ((0, "4,10;20,10;15,30"), (2, "4,10;20,10;15.5,30"), (3, "4,10;20,10"))
    )
    root = imported(write(tmp_path / "a.xml", cvat(f'<track label="a">{polygons}</track>')), six_images)
    (row,) = root["annotations"]
    assert row["segmentations"] == [[[4, 10, 20, 10, 15, 30]], None, [[4, 10, 20, 10, 15.5, 30]], None, None, None]
    assert row["bboxes"][1] == [4, 10, 16, 20]  # the box is the same in both key frames, the outline is not


def test_cvat_boxes_without_a_size(tmp_path: Path, six_images: Path) -> None:
    thin = box(2, 30).replace("50.00", "30.00")
    file = write(tmp_path / "a.xml", cvat(f'<track label="a">{box(0, 10)}{box(1, 10, out=1)}{thin}</track>'))
    assert left_sides(imported(file, six_images)) == [10, None, None, None, None, None]
    assert "4 boxes without a size were left out" in notes_of(file, six_images)


def test_cvat_half_turns_are_read_as_they_were_exported(tmp_path: Path, six_images: Path) -> None:
    def turned(angles: dict[int, float]) -> Any:
        keys = "".join(box(t, 10, key=int(t in (0, 2)), rotation=f"{angle}") for t, angle in angles.items())
        file = write(tmp_path / "a.xml", cvat(f'<track label="a">{keys}{box(3, 10, out=1)}</track>'))
        return tracks_of(imported(file, six_images))[0][1]

    quarter = [20 - math.hypot(10, 10), 20 - math.hypot(10, 10), 2 * math.hypot(10, 10), 2 * math.hypot(10, 10)]
    for start, end in ((0, 180), (180, 0), (270, 90)):
        assert turned({0: start, 2: end})[1] == pytest.approx([10, 10, 20, 20])
    assert turned({0: 45, 2: 225})[1] == pytest.approx(quarter)
    assert turned({0: 0, 1: 45, 2: 180})[1] == pytest.approx(quarter)  # as CVAT's server may have it


def test_cvat_frames_that_were_deleted(tmp_path: Path, six_images: Path) -> None:
    """CVAT leaves out what lies on deleted frames, key frames and ends among it, and writes all others."""
    text = cvat(
        # a key frame deleted in frame 2; the end deleted there; the first key frame deleted there
        f'<track id="1" label="a">{box(0, 10)}{box(1, 12, key=0)}{box(3, 15, key=0)}{box(4, 16)}'
        f"{box(5, 16, key=0)}</track>"
        f'<track id="2" label="a">{box(0, 30)}{box(1, 31, key=0)}</track>'
        f'<track id="3" label="a">{box(3, 50, key=0)}{box(4, 50, key=0)}{box(5, 50, key=0)}</track>'
    )
    root = imported(write(tmp_path / "a.xml", text), six_images)
    lefts = [[bbox and bbox[0] for bbox in bboxes] for _, bboxes in tracks_of(root)]
    assert lefts[0] == [10, 12, pytest.approx(13.5), 15, 16, 16]
    assert lefts[1:] == [[30, 31, 31, None, None, None], [None, None, None, 50, 50, 50]]


def project(*tasks: str, tracks: str) -> str:
    inner = "".join(f"<task>{task}</task>" for task in tasks)
    return f"<annotations><meta><project><name>p</name><tasks>{inner}</tasks></project></meta>{tracks}</annotations>"


def test_cvat_projects(tmp_path: Path, six_images: Path) -> None:
    # the frames of a task are numbered after those of the tasks of its subset before it
    first = "<id>4</id><name>one</name><size>2</size><subset>train</subset><start_frame>1</start_frame>"
    first += "<frame_filter>step=2</frame_filter><source>one.mp4</source>"
    second = "<id>6</id><name>two</name><size>6</size><subset>train</subset><start_frame>0</start_frame>"
    other = "<id>7</id><name>three</name><size>9</size><subset>val</subset>"
    tracks = (
        f'<track id="0" label="a" task_id="4">{box(1, 10)}{box(3, 20)}</track>'
        f'<track id="1" label="a" task_id="6">{box(5, 10)}{box(9, 30)}{box(10, 30, out=1)}</track>'
    )
    file = write(tmp_path / "a.xml", project(first, second, other, tracks=tracks))
    write_images(tmp_path / "frames" / "one", length=2)
    write_images(tmp_path / "frames" / "two")
    root = imported(file, tmp_path / "frames")
    assert [video["name"] for video in root["videos"]] == ["one", "two"]
    lefts = [[bbox and bbox[0] for bbox in bboxes] for _, bboxes in tracks_of(root)]
    assert lefts == [[10, 20], [10, 15, 20, 25, 30, None]]
    assert "1 task without a track to import was left out" in notes_of(file, tmp_path / "frames")
    assert "no video in" in problems_of(file, six_images)
    one = write(tmp_path / "b.xml", project(second, tracks=f'<track id="3" label="a">{box(0, 10)}</track>'))
    assert left_sides(imported(one, six_images)) == [10] * 6
    lost = write(tmp_path / "c.xml", project(first, second, tracks='<track label="a" task_id="5"/>'))
    assert "track at index 0: task_id '5' is not a task of the project" in problems_of(lost, tmp_path / "frames")


def test_cvat_jobs_have_their_size_next_to_them(tmp_path: Path, six_images: Path) -> None:
    size = "<original_size><width>160</width><height>120</height></original_size><source>d\\walk.mp4</source>"
    track = f'<track label="a">{box(10, 10)}</track>'
    job = "<job><size>6</size><start_frame>10</start_frame></job>"
    file = write(tmp_path / "a.xml", f"<annotations><meta>{job}{size}</meta>{track}</annotations>")
    assert "the task is 160 x 120, the video 80 x 60" in problems_of(file, six_images)
    write(file, file.read_text().replace("160", "80").replace("120", "60"))
    root = imported(file, six_images)
    assert left_sides(root) == [10] * 6 and root["videos"][0]["name"] == "walk"


def test_cvat_takes_no_first_frame(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "a.xml", cvat(""))
    assert "is cvat, in which --first-frame has no meaning" in problems_of(file, six_images, first_frame=1)


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


THIEF = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("doctype", [LAUGHS, THIEF, '<!DOCTYPE annotations SYSTEM "http://localhost/a.dtd">'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cvat_refuses_declarations(tmp_path: Path, six_images: Path, doctype: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<annotations>&b;&a;</annotations>'
    file = write(tmp_path / "a.xml", text.encode(encoding))
    assert "has a DOCTYPE" in problems_of(file, six_images, format="cvat")


FAULTS = {
    "cvat masks": (
        cvat(f'<track id="1" label="a">{mask(0, 5, "2, 3")}</track><track id="2" label="a">{mask(0, 5, "x")}</track>'),
        ["track 1, frame 0: has no valid shape", "track 2, frame 0: has no valid shape"],
    ),
    "xml cut off": ('<annotations><track label="a">', ["is not whole XML"]),
    "other xml": ("<svg/>", ["is XML of no format that is known (<svg>). Export tracks: CVAT for video 1.1"]),
    "cvat images": ('<annotations><image id="0"/></annotations>', ["has images, not tracks"]),
    "cvat project": (
        "<annotations><meta><project/></meta></annotations>",
        ["is of a project without tasks"],
    ),
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
            f'<track id="5">{box(0, 1)}</track>'
            f'<track id="6" label="a">{box(0, 1)}{box(0, 2)}{box(1, 9, out=2)}{box(7, 9)}</track>'
            f'<track id="7" label="a">{box(0, 10)}{box(1, 13, key=0)}{box(2, 14)}</track>'
        ),
        ["track 5: has no label", "track 6, frame 0: the frame occurs twice"]
        + ["track 6, frame 1: has no valid", "track 6, frame 7: is none of", "track 7, frame 1: is not what its key"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
