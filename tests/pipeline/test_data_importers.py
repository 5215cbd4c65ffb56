"""Box tracks of other tools become YouTube-VIS JSON, in every frame as those tools show them; all faults are told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mfvis.cli import main
from mfvis.data.check import check_file
from mfvis.data.importers import import_tracks
from mfvis.data.ytvis import load_dataset
from mfvis.errors import DataError
from PIL import Image

WIDTH, HEIGHT, LENGTH = 80, 60, 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six frames, 80 x 60."""
    return write_pictures(tmp_path_factory.mktemp("frames") / "clip")


def write_pictures(folder: Path, length: int = LENGTH, start: int = 1) -> Path:
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


def tracks_of(root: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Category and boxes of every track."""
    names = {category["id"]: category["name"] for category in root["categories"]}
    return [(names[annotation["category_id"]], annotation["bboxes"]) for annotation in root["annotations"]]


def problems_of(file: Path, frames: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        imported(file, frames, **options)
    assert all(problem.remedy and problem.record for problem in error.value.problems)
    return str(error.value)


MOT = """1,1,11,21,30,20,1,1,0.9
3,1,12,22,30,20,1,1,0.5
1,2,71,-9,40,30,1,3,1
2,3,5,5,10,10,0,8,1
"""


def test_motchallenge(tmp_path: Path, pictures: Path) -> None:
    root = imported(write(tmp_path / "MOT17-02" / "gt" / "gt.txt", MOT), pictures)
    assert tracks_of(root) == [
        ("pedestrian", [[10, 20, 30, 20], None, [11, 21, 30, 20], None, None, None]),
        ("car", [[70, 0, 10, 20], None, None, None, None, None]),
    ]
    assert [category["name"] for category in root["categories"]] == ["car", "pedestrian"]
    assert root["videos"][0]["name"] == "MOT17-02"


def test_motchallenge_with_labels_of_its_own(tmp_path: Path, pictures: Path) -> None:
    write(tmp_path / "labels.txt", "dog\ncat\n")
    file = write(tmp_path / "gt.txt", "2,1,1,1,8,8,1,2,1\n")
    assert tracks_of(imported(file, pictures)) == [("cat", [None, [0, 0, 8, 8], None, None, None, None])]
    file = write(tmp_path / "gt.txt", "2,1,1,1,8,8,1,3,1\n")
    assert "line 1: class 3 is not 1 to 2" in problems_of(file, pictures)


def test_motchallenge_without_classes(tmp_path: Path, pictures: Path) -> None:
    file = write(tmp_path / "clip.txt", "1,1,1,1,8,8,0.7,-1,-1,-1\n2,1,1,1,8,8,-1,-1,-1,-1\n")
    root = imported(file, pictures, categories=["ball"])
    assert tracks_of(root) == [("ball", [[0, 0, 8, 8], [0, 0, 8, 8], None, None, None, None])]
    assert "has no class. Name the one class" in problems_of(file, pictures)


def test_frames_that_a_tracker_counts_from_zero(tmp_path: Path, pictures: Path) -> None:
    file = write(tmp_path / "clip.txt", "0,1,1,1,8,8,0.7,-1,-1,-1\n5,1,2,1,8,8,-1,-1,-1,-1\n")
    options = {"categories": ["ball"]}
    root = imported(file, pictures, first_frame=0, **options)
    assert tracks_of(root) == [("ball", [[1, 1, 8, 8], None, None, None, None, [2, 1, 8, 8]])]
    assert "frame 0 is not 1 to 6. Give the frames of this video, or say" in problems_of(file, pictures, **options)
    xml = write(tmp_path / "a.xml", cvat(""))
    assert "is cvat, whose first frame has one number" in problems_of(xml, pictures, first_frame=1)


CSV = """frame,"Track ID",x,y,w,h,class,score
0,7,1,2,8,9,dog,0.5
2,7,1.5,2,8,9,dog,0.5
0,b,5,5,10,10,"cat, fat",1

"""


def test_csv(tmp_path: Path, pictures: Path) -> None:
    tracks = [
        ("dog", [[1, 2, 8, 9], None, [1.5, 2, 8, 9], None, None, None]),
        ("cat, fat", [[5, 5, 10, 10], None, None, None, None, None]),
    ]
    assert tracks_of(imported(write(tmp_path / "a.csv", CSV), pictures)) == tracks
    corners = "class_name;y_max;y_min;x_max;x_min;frame_index;tracker_id\r\ndog;11;2;9;1;6;7\r\n"
    root = imported(write(tmp_path / "a.csv", corners), pictures)  # the sixth frame of six: it counts from 1
    assert tracks_of(root) == [("dog", [None, None, None, None, None, [1, 2, 8, 9]])]


def test_csv_does_not_guess_where_it_may_be_wrong(tmp_path: Path, pictures: Path) -> None:
    file = write(tmp_path / "a.csv", "frame,id,x,y,w,h\n2,1,1,1,8,8\n4,1,1,1,8,8\n")
    told = problems_of(file, pictures, categories=["dog"])
    assert "has frames 2 to 4 of 6, which may count from 0 or from 1. Say --first-frame 0 or" in told
    root = imported(file, pictures, categories=["dog"], first_frame=1)
    assert tracks_of(root) == [("dog", [None, [1, 1, 8, 8], None, [1, 1, 8, 8], None, None])]
    assert problems_of(file, pictures, first_frame=1).count("has no class") == 1


def test_yolo(tmp_path: Path, pictures: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "clip_1.txt", "1 0.5 0.5 0.25 0.5 7\n0 0.25 0.5 0.5 1 0.875 3\n")
    write(labels / "clip_6.txt", "1 0.125 0.5 0.25 0.5 7\n")
    write(labels / "classes.txt", "cat\ndog\n")
    dog = [[30, 15, 20, 30], None, None, None, None, [0, 15, 20, 30]]
    expected = [("dog", dog), ("cat", [[0, 0, 40, 60], None, None, None, None, None])]
    assert tracks_of(imported(labels, pictures)) == expected
    for old, new in (("clip_1.txt", "000001.txt"), ("clip_6.txt", "000006.txt")):
        (labels / old).rename(labels / new)
    assert tracks_of(imported(labels, pictures)) == expected
    (labels / "classes.txt").unlink()
    told = problems_of(labels, pictures, categories=["dog"])
    assert "folder: has classes 0, 1 without names. Name all classes from 0 on in classes.txt" in told
    write(labels / "000001.txt", "1 0.5 0.5 0.25 0.5 7\n")
    assert tracks_of(imported(labels, pictures, categories=["dog"])) == [("dog", dog)]
    assert problems_of(labels, pictures).count("has no class") == 1


def test_faults_of_yolo(tmp_path: Path, pictures: Path) -> None:
    labels = tmp_path / "labels"
    write(labels / "a_1.txt", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2 0.8\n0 50 50 20 20 1\n3 0.5 0.5 0.2 0.2 1\n")
    write(labels / "a_7.txt", "0 0.5 0.5 0.2 0.2 1\n")
    write(labels / "readme.txt", "hello")
    write(labels / "a_2.txt", b"\xff\xfe")
    write(labels / "classes.txt", "cat\n")
    told = problems_of(labels, pictures)
    for message in (
        *(
            "a_1.txt, line 1: '0 0.5",
            "a_1.txt, line 2: class 0 and id 0.8",
            "a_1.txt, line 3: '0 50",
            "line 4: class 3",
        ),
        *("a_7.txt: frame 7 is not 1 to 6", "readme.txt: is called as no picture", "a_2.txt: cannot be read"),
    ):
        assert message in told, told
    assert "is no folder" in problems_of(labels / "a_1.txt", pictures, format="yolo")


def kitti(*rows: str) -> str:
    return "".join(f"{row} 1.5 1.6 4 0 0 20 0\n" for row in rows)


def test_kitti(tmp_path: Path, pictures: Path) -> None:
    text = kitti(
        *("0 0 Car 0 0 -10 10.5 20 40 50", "5 0 Car 0 0 -10 12 20 90 50", "0 -1 DontCare -1 -1 -10 1 1 5 5"),
        "1 2 Person_sitting 0 0 -10 0 0 5 9",
    )
    root = imported(write(tmp_path / "0003.txt", text), pictures)
    assert tracks_of(root) == [
        ("Car", [[10.5, 20, 29.5, 30], None, None, None, None, [12, 20, 68, 30]]),
        ("Person_sitting", [None, [0, 0, 5, 9], None, None, None, None]),
    ]
    assert root["videos"][0]["name"] == "0003"


def cvat(tracks: str, meta: str = "<size>6</size>") -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    return f"{head}<meta><task>{meta}</task></meta>{tracks}</annotations>"


def box(frame: int, xtl: float, *, key: int = 1, out: int = 0, **more: str) -> str:
    corners = f'xtl="{xtl:.2f}" ytl="10.00" xbr="{xtl + 20:.2f}" ybr="30.00"'
    extra = "".join(f' {name}="{value}"' for name, value in more.items())
    return f'<box frame="{frame}" keyframe="{key}" outside="{out}" occluded="0" {corners}{extra} z_order="0"></box>'


def xs(root: dict[str, Any]) -> list[Any]:
    """The left sides of the only track."""
    ((_, bboxes),) = tracks_of(root)
    return [None if bbox is None else pytest.approx(bbox[0]) for bbox in bboxes]


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
def test_cvat_key_frames(tmp_path: Path, pictures: Path, boxes: str, expected: list[Any]) -> None:
    root = imported(write(tmp_path / "annotations.xml", cvat(f'<track id="0" label="car">{boxes}</track>')), pictures)
    assert xs(root) == expected


def test_cvat_turned_boxes_become_the_boxes_around_them(tmp_path: Path, pictures: Path) -> None:
    # 20 x 20 about its centre (20, 20), from 350 to 80 degrees on the short way: 35 degrees in the middle.
    turned = box(0, 10, rotation="350") + box(2, 10, rotation="80.00") + box(3, 10, out=1)
    root = imported(write(tmp_path / "a.xml", cvat(f'<track label="car">{turned}</track>')), pictures)
    ((_, bboxes),) = tracks_of(root)
    side = 20 * (math.cos(math.radians(35)) + math.sin(math.radians(35)))
    assert bboxes[1] == pytest.approx([20 - side / 2, 20 - side / 2, side, side])
    assert bboxes[3:] == [None] * 3


def test_cvat_frames_of_a_task_with_start_and_step(tmp_path: Path, pictures: Path) -> None:
    meta = "<size>6</size><start_frame>10</start_frame><frame_filter>step=5</frame_filter>"
    meta += "<original_size><width>80</width><height>60</height></original_size><source>walk.mp4</source>"
    track = f'<track label="car">{box(10, 10)}{box(20, 30)}{box(25, 30, out=1)}</track>'
    root = imported(write(tmp_path / "a.xml", cvat(track, meta)), pictures)
    assert xs(root) == [10, 20, 30, None, None, None]
    assert root["videos"][0]["name"] == "walk"
    off = write(tmp_path / "b.xml", cvat(f'<track label="car">{box(11, 10)}</track>', meta))
    assert "track at place 0, frame 11: is none of the video's 6 frames" in problems_of(off, pictures)


def test_cvat_categories_leave_other_shapes_out(tmp_path: Path, pictures: Path) -> None:
    lane = '<track id="1" label="lane"><polyline frame="0" keyframe="1" outside="0" points="1,2;3,4"/></track>'
    file = write(tmp_path / "a.xml", cvat(f'<track id="0" label="car">{box(0, 10)}</track>{lane}'))
    assert "track 1, frame 0: is a polyline, not a box" in problems_of(file, pictures)
    root = imported(file, pictures, categories=["truck", "car"])
    assert [category["name"] for category in root["categories"]] == ["truck", "car"]
    assert [annotation["category_id"] for annotation in root["annotations"]] == [2]


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
THIEF = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("doctype", [LAUGHS, THIEF, '<!DOCTYPE annotations SYSTEM "http://localhost/a.dtd">'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cvat_refuses_declarations(tmp_path: Path, pictures: Path, doctype: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<annotations>&b;&a;</annotations>'
    file = write(tmp_path / "a.xml", text.encode(encoding))
    assert "has a DOCTYPE" in problems_of(file, pictures, format="cvat")


def key(frame: int, x: float, enabled: bool = True, **more: Any) -> dict[str, Any]:
    sides = {"x": x, "y": 10, "width": 25, "height": 50}
    return {"frame": frame, "enabled": enabled, "rotation": 0, "time": frame / 25} | sides | more


def label_studio(*sequence: dict[str, Any], **value: Any) -> list[dict[str, Any]]:
    region = {"framesCount": LENGTH, "duration": 0.24, "sequence": list(sequence), "labels": ["Man"]} | value
    result = {"value": region, "id": "a", "from_name": "box", "to_name": "video", "type": "videorectangle"}
    annotation = {"id": 1, "was_cancelled": False, "result": [result, {"type": "choices", "value": {"choices": ["a"]}}]}
    return [{"id": 5, "data": {"video": "/data/upload/1/0123abcd-clip.mp4"}, "annotations": [annotation]}]


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([key(1, 10), key(5, 50)], [8, 16, 24, 32, 40, 40]),
        ([key(2, 10), key(4, 30, False)], [None, 8, 16, 24, None, None]),
        ([key(1, 10, False), key(3, 50), key(4, 50, False)], [8, None, 40, 40, None, None]),
        ([key(4, 30, False), key(2, 10)], [None, 8, 16, 24, None, None]),
        ([key(5, 10), key(7, 30, False)], [None, None, None, None, 8, 16]),
    ],
)
def test_label_studio_key_frames(tmp_path: Path, pictures: Path, sequence: list[Any], expected: list[Any]) -> None:
    root = imported(write(tmp_path / "a.json", label_studio(*sequence)), pictures)
    assert xs(root) == expected
    ((category, bboxes),) = tracks_of(root)
    assert category == "Man" and all(bbox[1:] == [6, 20, 30] for bbox in bboxes if bbox)


def test_label_studio_turned_box(tmp_path: Path, pictures: Path) -> None:
    # 20 x 30 pixels, turned by 90 degrees clockwise about its upper left corner (40, 6): it lies to the left.
    root = imported(write(tmp_path / "a.json", label_studio(key(1, 50, False, rotation=90))), pictures)
    assert tracks_of(root)[0][1][0] == pytest.approx([10, 6, 30, 20])


def test_label_studio_tasks_and_short_form(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames" / "one")
    write_pictures(tmp_path / "frames" / "two", length=3)
    short = {"id": 6, "video": "s3://bucket/two.mp4", "annotator": 1}
    short["box"] = [{"framesCount": 4, "sequence": [key(3, 10)], "labels": ["Dog"]}]
    full = label_studio(key(6, 20))[0] | {"data": {"video": "https://host/one.mp4", "note": "indoors"}}
    root = imported(write(tmp_path / "a.json", [full, short]), tmp_path / "frames")
    assert [(video["name"], video["length"]) for video in root["videos"]] == [("one", 6), ("two", 3)]
    assert tracks_of(root) == [
        ("Man", [None] * 5 + [[16, 6, 20, 30]]),
        ("Dog", [None, None, [8, 6, 20, 30]]),
    ]


def scalabel_frames(*boxes: Any, name: str = "clip") -> list[dict[str, Any]]:
    return [
        {
            "name": f"{t + 1:06d}.jpg",
            "videoName": name,
            "frameIndex": t,
            "labels": [{"id": "a", "category": "van", "box2d": box}] if box else None,
        }
        for t, box in enumerate(boxes)
    ]


def test_scalabel(tmp_path: Path) -> None:
    write_pictures(tmp_path / "frames" / "one")
    write_pictures(tmp_path / "frames" / "two")
    corners = {"x1": 10, "y1": 20, "x2": 29, "y2": 39}
    ignored = {"id": "b", "category": "van", "attributes": {"crowd": True}, "box2d": corners}
    masked = {"id": "c", "category": "bus"}
    masked["poly2d"] = [{"vertices": [[1, 2], [5, 2], [5, 9]], "types": "LLL", "closed": True}]
    frames = scalabel_frames(corners, None, corners, name="two") + scalabel_frames(None, corners, name="one")
    frames[0]["labels"] += [ignored, masked]
    root = imported(write(tmp_path / "a.json", {"frames": frames}), tmp_path / "frames")
    assert [(video["name"], video["length"]) for video in root["videos"]] == [("one", 2), ("two", 3)]
    assert tracks_of(root) == [
        ("van", [None, [10, 20, 20, 20]]),
        ("van", [[10, 20, 20, 20], None, [10, 20, 20, 20]]),
        ("bus", [[1, 2, 4, 7], None, None]),
    ]
    write(tmp_path / "folder" / "1.json", frames[:3])
    write(tmp_path / "folder" / "2.json", frames[3:])
    assert tracks_of(imported(tmp_path / "folder", tmp_path / "frames")) == tracks_of(root)


def coco_video(*boxes: Any, folder: str = "train/clip", order: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Three frames of one video, told out of order; boxes are (frame, track, category, bbox)."""
    return {
        "videos": [{"id": 4, "name": folder}],
        "images": [
            {"id": 10 + t, "video_id": 4, "file_name": f"{folder}/{t + 1:06d}.jpg", "frame_id": t} for t in order
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"image_id": 10 + t, "track_id": track, "category_id": category, "bbox": bbox}
            for t, track, category, bbox in boxes
        ],
    }


def test_coco_video(tmp_path: Path) -> None:
    root = coco_video((0, 1, 3, [1, 2, 8, 9]), (2, 1, 3, [2, 2, 8, 9]), (1, 5, 7, [0, 0, 5, 5]), order=(2, 0, 1))
    root["annotations"].append(root["annotations"][0] | {"track_id": 6, "iscrowd": 1})
    expected = [("dog", [[1, 2, 8, 9], None, [2, 2, 8, 9]]), ("cat", [None, [0, 0, 5, 5], None])]
    write_pictures(tmp_path / "frames" / "train" / "clip")
    file = write(tmp_path / "a.json", root)
    # below the data set's root, in a folder of videos, in the video's own: of its six pictures the three that are named
    for frames in ("frames", "frames/train", "frames/train/clip"):
        result = imported(file, tmp_path / frames)
        assert tracks_of(result) == expected
        names = [Path(name).name for name in result["videos"][0]["file_names"]]
        assert names == ["000001.jpg", "000002.jpg", "000003.jpg"]
    for annotation in root["annotations"]:
        annotation["instance_id"] = annotation.pop("track_id")
    assert tracks_of(imported(write(file, root), tmp_path / "frames")) == expected
    assert tracks_of(imported(file, tmp_path / "frames", categories=["cat"])) == expected[1:]


def test_command_writes_what_the_reader_and_the_check_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "frames")
    file, out = write(tmp_path / "gt.txt", MOT + "4,2,200,1,5,5,1,3,1\n"), tmp_path / "data" / "train.json"
    argv = ["data", "import", str(file), "--frames", str(tmp_path / "frames"), "--out", str(out)]
    assert main([*argv, "--categories", "pedestrian", "car"]) == 0
    printed = capsys.readouterr().out
    assert "1 videos, 2 tracks (1 pedestrian, 1 car), 3 boxes" in printed and "1 boxes outside" in printed
    assert check_file(out) == []
    dataset = load_dataset(out)
    assert [category.name for category in dataset.categories] == ["pedestrian", "car"]
    assert dataset.videos[0].tracks[1].boxes_T4[0].tolist() == [70, 0, 80, 20]
    assert main([*argv[:-1], str(file)]) == 2
    assert "--out is the file to import" in capsys.readouterr().err
    assert main([*argv, "--format", "cvat"]) == 2
    assert "is not whole XML" in capsys.readouterr().err


MANY_FAULTS = {
    "mot": (
        "1,1,1,1,8\n0,1,1,1,8,8\n1.5,1,1,1,8,8\n1,-1,1,1,8,8,1\n1,1,nan,1,8,8\n1,1,1,1,0,8\n1,1,1,1,8,8,1,99,1\n",
        ["line 1: '1,1,1,1,8' is not 6 to 10", "line 2: frame 0 is not 1 to 6", "line 3: frame 1.5", "line 4: id -1"]
        + ["line 5: '1,1,nan", "line 6: the box is 0 x 8", "line 7: class 99 is not 1 to 13"],
    ),
    "mot twice": (
        "1,1,1,1,8,8,1,1,1\n" * 2 + "2,1,1,1,8,8,1,3,1\n",
        ["line 2: object 1 has a second box", "'car' here"],
    ),
    "csv": (
        "frame,id,x,y,w,h,class\n0,1,1,1,8,8,a\n0,1,1,1,8,8,a\n0.5,1,1,1,8,8,a\n0,-1,1,1,8,8,a\n1,2,1,1,0,8,a\n"
        "6,1,1,1,8,8,a\n2,1,nan,1,8,8,a\n3,1,1\n",
        ["line 3: object 1 has a second", "line 4: frame 0.5", "line 5: id '-1'", "line 6: the box is 0 x 8"]
        + ["line 7: frame 6 is not 0 to 5", "line 8: '2,1,nan,", "line 9: '3,1,1' lacks a number"],
    ),
    "csv quotes": ('frame,id,x,y,w,h\n0,"1,' + "a" * 140_000, ["line 2: cannot be read (field larger than"]),
    "csv no id": ("frame,x,y,w,h,id\n0,1,1,8,8\n0,1,1,8,8,nan\n", ["line 2: id '' stands", "line 3: id 'nan' stands"]),
    "csv columns": ("frame,id,cx,cy,w,h\n", ["line 1: 'frame,id,cx,cy,w,h' names no left"]),
    "kitti": (
        kitti("0 0 Car 0 0 0 1 1 5 5", "9 0 Car 0 0 0 1 1 5 5")
        + "0 1 Car\n"
        + kitti("0 2 Car 0 0 0 9 1 5 5", "0 -1 Car 0 0 0 1 1 5 5", "0 x Car 0 0 0 1 1 5 5"),
        ["line 2: frame 9 is not 0 to 5", "line 3: has 3 columns", "line 4: the box [9.0, 1.0, 5.0, 5.0] has no size"]
        + ["line 5: id -1", "line 6: 'x' is not a number"],
    ),
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
    "label studio": (
        label_studio(key(0, 1), key(9, 1), key(1, 1, "yes"), key(2, 1, width=0), key(3, 1), key(3, 1), key(4, None)),
        ["sequence[0]: frame 0 is not 1 to 6", "sequence[1]: frame 9", "sequence[2]: is {", "[3]: the box is 0 x 50"]
        + ["sequence[5]: frame 3 occurs twice", "sequence[6]: is {"],
    ),
    "label studio count": (label_studio(key(1, 1), framesCount=9), ["framesCount is 9, the video has 6", "frame rate"]),
    "label studio labels": (label_studio(key(1, 1), labels=["a", "b"]), ["labels are ['a', 'b']"]),
    "label studio empty": (label_studio(), ["sequence is []"]),
    "label studio twice": (
        [label_studio(key(1, 1))[0] | {"annotations": label_studio(key(1, 1))[0]["annotations"] * 2}],
        ["task 5: has 2 annotations of one video"],
    ),
    "scalabel": (
        scalabel_frames({"x1": 1, "y1": 1, "x2": 5, "y2": 5}) * 2,
        ["names a picture twice"],
    ),
    "scalabel missing": (
        [scalabel_frames(None)[0] | {"name": "x.jpg"}],
        ["video 'clip': has no picture 'x.jpg'"],
    ),
    "scalabel size": (
        [scalabel_frames(None)[0] | {"size": {"width": 7, "height": 7}}],
        ["is (7, 7) (height, width), its pictures (60, 80)"],
    ),
    "coco-vid": (
        coco_video(
            (0, 1, 9, [1, 1, 5, 5]), (8, 1, 3, [1, 1, 5, 5]), (0, None, 3, [1, 1, 5, 5]), (0, 1, 3, [1, 1, 0, 5])
        )
        | {"videos": [{"id": 4, "name": "clip"}, {"id": 4}, {"id": 5}, {}]},
        ["videos[1]: id 4 occurs twice", "videos[3]: has no id", "video 5: has no image"]
        + ["annotations[0]: category_id 9 names no", "annotations[1]: image_id 18 is no image"]
        + ["annotations[2]: has no track_id or instance_id", "annotations[3]: bbox is [1, 1, 0, 5]"],
    ),
    "coco-vid lists": (
        {"videos": {}, "images": [{"id": 1, "video_id": []}]},
        ["videos: is an object", "[] is no video"],
    ),
    "coco-vid order": (
        coco_video() | {"images": [{"id": n, "video_id": 4, "file_name": "1.jpg", "frame_id": n} for n in (0, "1")]},
        ["video 4: frame_id of image '1' is '1'. Number all frames of the video, or none"],
    ),
    "coco-vid missing": (coco_video(order=(0, 8)), ["video 'clip': has no picture '000009.jpg'"]),
    "youtube-vis": ({"videos": [], "annotations": []}, ["is a YouTube-VIS JSON. Use it as it is"]),
    "words": ("hello world", ["is of no format that can be guessed"]),
    "nothing": ("", ["is of no format that can be guessed"]),
    "zip": (b"PK\x03\x04", ["is a ZIP archive. Unpack it"]),
    "binary": (b"\x93\xff\x00", ["is not a text file in UTF-8"]),
}


@pytest.mark.parametrize("name", MANY_FAULTS)
def test_all_faults_are_told(tmp_path: Path, pictures: Path, name: str) -> None:
    content, messages = MANY_FAULTS[name]
    told = problems_of(write(tmp_path / "file", content), pictures)
    assert [message for message in messages if message not in told] == [], told


def test_missing_files_and_pictures(tmp_path: Path, pictures: Path) -> None:
    assert "cannot be read (No such file" in problems_of(tmp_path / "gone.txt", pictures)
    file = write(tmp_path / "gt.txt", MOT)
    assert "its pictures cannot be read" in problems_of(file, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "no video in" in problems_of(file, tmp_path / "empty")
    assert "has none of dog, but car, pedestrian" in problems_of(file, pictures, categories=["dog"])
