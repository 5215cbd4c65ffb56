"""Tables of boxes, whatever their columns are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from import_helpers import check_problems, ids_of, imported, notes_of, problems_of, tracks_of, write, write_images

CSV = """frame,"Track ID",x,y,w,h,class,score
0,7,1,2,8,9,dog,0.5
2,7,1.5,2,8,9,dog,0.5
0,b,5,5,10,10,"cat, fat",1

"""
DOG = ("dog", [[1, 2, 8, 9], None, None, None, None, None])
BALL = {"categories": ["ball"]}


def test_csv(tmp_path: Path, six_images: Path) -> None:
    tracks = [
        ("dog", [[1, 2, 8, 9], None, [1.5, 2, 8, 9], None, None, None]),
        ("cat, fat", [[5, 5, 10, 10], None, None, None, None, None]),
    ]
    root = imported(write(tmp_path / "a.csv", CSV), six_images)
    assert tracks_of(root) == tracks and ids_of(root) == [(1, 7), (2, "b")]
    corners = "class_name;y_max;y_min;x_max;x_min;frame_index;tracker_id\r\ndog;11;2;9;1;6;7\r\n"
    root = imported(write(tmp_path / "a.csv", corners), six_images)  # the sixth frame of six: it counts from 1
    assert tracks_of(root) == [("dog", [None, None, None, None, None, [1, 2, 8, 9]])]


@pytest.mark.parametrize(
    "table",
    [
        "frame,id,cx,cy,w,h,class\n0,1,5,6.5,8,9,dog\n",
        "frame_id,object_id,x0,y0,x1,y1,category\n0,1,1,2,9,11,dog\n",
        "id,frame,track_id,x1,y1,x2,y2,label\n8,0,1,1,2,9,11,dog\n9,0,-1,1,2,9,11,dog\n",  # id: of the row
        "frame id bb_left bb_top bb_width bb_height class\n0 1  1 2 8 9 dog\n",
        "sep=;\nframe;id;x;y;w;h;class\n0;1;1;2;8;9;dog\n",
        "# frame\tid\tx\ty\tw\th\tspecies\n0.0\t1.0\t1\t2\t8\t9\tdog\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax,track_id\nclip/000001.png,80,60,dog,1,2,9,11,1\n",
        "frame,id,x,y,w,h,name,class\n0,1,1,2,8,9,dog,16\n",  # Ultralytics' name of a class
        "video,frame,id,x,y,w,h,class,lost\na.mp4,0,1,1,2,8,9,dog,0\na.mp4,1,1,1,2,8,9,dog,1\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_columns_of_other_names(tmp_path: Path, six_images: Path, table: str, encoding: str) -> None:
    root = imported(write(tmp_path / "a.csv", table.encode(encoding)), six_images)
    assert tracks_of(root) == [DOG]


def test_rows_of_json(tmp_path: Path, six_images: Path) -> None:
    row = {"x_min": 1.0, "y_min": 2, "x_max": 9, "y_max": 11, "class_id": 3, "confidence": 0.9, "tracker_id": 5}
    row |= {"class_name": "dog", "frame_number": 0}
    file = write(tmp_path / "a.json", [row, row | {"tracker_id": "", "x_min": 3}])  # supervision's JSONSink
    root = imported(file, six_images)
    assert tracks_of(root) == [DOG] and ids_of(root) == [(5, 5)]
    assert "1 box without a track was left out" in notes_of(file, six_images)
    lines = "".join(json.dumps(row | {"frame_number": t}) + "\n" for t in (0, 1))
    assert len(tracks_of(imported(write(file, lines), six_images))) == 1


def test_numbers_of_classes_need_names(tmp_path: Path, six_images: Path) -> None:
    table = "frame,track_id,class_id,x1,y1,x2,y2\n0,1,0,1,2,9,11\n0,2,2,20,1,29,9\n"
    for header in ("class_id", "cls", "Category-ID"):
        file = write(tmp_path / "a.csv", table.replace("class_id", header))
        problems = problems_of(file, six_images, **BALL)
        assert "has classes 0, 2 without names. Name them: --class-names 0=NAME 2=NAME" in problems
    root = imported(file, six_images, class_names=["0=dog", "2=cat"], categories=["dog"])
    assert tracks_of(root) == [DOG]
    assert tracks_of(imported(file, six_images, categories=["2", "0"]))[0] == ("0", DOG[1])
    one = write(tmp_path / "a.csv", table.partition("0,2,2")[0])
    assert tracks_of(imported(one, six_images, categories=["dog"])) == [DOG]
    named = write(tmp_path / "a.csv", table.replace("class_id", "class"))
    assert [category["name"] for category in imported(named, six_images)["categories"]] == ["0", "2"]
    assert "classes are named by their numbers; --class-names names them" in notes_of(named, six_images)
    assert tracks_of(imported(named, six_images, class_names=["0=dog"]))[0] == DOG


@pytest.mark.parametrize(
    ("header", "values", "problem"),
    [
        ("vehicle_type", ("a", "b"), "the column vehicle_type may be the class. Call it class if it is"),
        ("name", ("a", "b"), "the column name may be the class"),
        ("videoTitle", ("a", "b"), "the column videoTitle may distinguish several videos. Call it video if it does"),
        ("angle", ("0", "0.5"), "has turned boxes (column angle). Write the upright boxes"),
        ("x3", ("0", "5"), "has turned boxes (column x3)"),
    ],
)
def test_columns_that_may_change_the_meaning(
    tmp_path: Path, six_images: Path, header: str, values: tuple[str, str], problem: str
) -> None:
    rows = "".join(f"{t},{t},1,2,8,9,{value}\n" for t, value in enumerate(values))
    file = write(tmp_path / "a.csv", f"frame,id,x,y,w,h,{header}\n{rows}")
    assert problem in problems_of(file, six_images, **BALL)
    write(file, file.read_text().replace(values[1], values[0]))  # one value says nothing
    assert len(imported(file, six_images, **BALL)["annotations"]) == 2


def test_two_columns_of_classes(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "a.csv", "frame,id,x,y,w,h,class,class_id\n0,1,1,2,8,9,dog,0\n0,2,9,9,9,9,cat,2\n")
    assert [name for name, _ in tracks_of(imported(file, six_images))] == ["dog", "cat"]
    write(file, file.read_text().replace("cat", "dog"))
    assert "the columns class and class_id are different classes. Keep the one" in problems_of(file, six_images)


def test_several_videos(tmp_path: Path, six_images: Path) -> None:
    table = "video,frame,id,x,y,w,h,class\nd/a.mp4,1,1,1,2,8,9,dog\nb.mp4,2,1,3,2,8,9,cat\n"
    file = write(tmp_path / "a.csv", table)
    problems = problems_of(file, six_images)
    assert "has rows of 2 videos (column video: a.mp4, b.mp4). Name the folder in which they lie" in problems
    write_images(tmp_path / "frames" / "a", length=1)
    assert "no video in" in problems_of(file, tmp_path / "frames")
    write_images(tmp_path / "frames" / "b" / "img1", length=2)
    root = imported(file, tmp_path / "frames")
    assert [(video["name"], video["length"]) for video in root["videos"]] == [("a", 1), ("b", 2)]
    assert tracks_of(root) == [("dog", [[1, 2, 8, 9]]), ("cat", [None, [3, 2, 8, 9]])]
    assert [annotation["video_id"] for annotation in root["annotations"]] == [1, 2]
    write(file, table + ",1,2,1,1,8,8,dog\n")
    assert "line 4: names no video" in problems_of(file, tmp_path / "frames")


def test_csv_does_not_guess_where_it_may_be_wrong(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "a.csv", "frame,id,x,y,w,h\n2,1,1,1,8,8\n4,1,1,1,8,8\n")
    problems = problems_of(file, six_images, categories=["dog"])
    assert "has frames 2 to 4 of 6, which may count from 0 or from 1. Say --first-frame 0 or" in problems
    root = imported(file, six_images, categories=["dog"], first_frame=1)
    assert tracks_of(root) == [("dog", [None, [1, 1, 8, 8], None, [1, 1, 8, 8], None, None])]
    assert problems_of(file, six_images, first_frame=1).count("has no class") == 1


def test_rows_without_a_track_or_a_class_are_left_out(tmp_path: Path, six_images: Path) -> None:
    rows = "".join(f"0,{track},1,1,8,8,dog\n" for track in ("", "-1", "-1.0", "nan", "None", "<NA>"))
    file = write(
        tmp_path / "a.csv", f"frame,id,x,y,w,h,class\n0,7.0,1,2,8,9,dog\n1,8,1,1,8,8,\n{rows}2,7,1,1,0,8,dog\n"
    )
    root = imported(file, six_images, categories=["dog"])
    assert tracks_of(root) == [DOG] and ids_of(root) == [(7, 7)]
    notes = notes_of(file, six_images)
    for note in ("6 boxes without a track were", "1 box without a class was", "1 box without a size was left out"):
        assert note in notes


def test_a_track_has_the_class_of_most_of_its_boxes(tmp_path: Path, six_images: Path) -> None:
    rows = "".join(f"{t},1,1,2,8,9,{name}\n" for t, name in enumerate(("cat", "dog", "dog", "cat", "dog")))
    file = write(tmp_path / "a.csv", f"frame,id,x,y,w,h,class\n{rows}")
    assert tracks_of(imported(file, six_images)) == [("dog", [[1, 2, 8, 9]] * 5 + [None])]
    assert "boxes with another class than most boxes of their track took that (2)" in notes_of(file, six_images)


FAULTS = {
    "csv": (
        "frame,id,x,y,w,h,class\n0,1,1,1,8,8,a\n0,1,1,1,8,8,a\n0.5,1,1,1,8,8,a\n1,2,9,1,-4,8,a\n"
        "6,1,1,1,8,8,a\n2,1,nan,1,8,8,a\n3,1,1\n",
        ["line 3: object 1 has a second", "line 4: frame 0.5", "line 5: the box is -4 x 8"]
        + ["line 6: frame 6 is not 0 to 5", "line 7: '2,1,nan,", "line 8: '3,1,1,,,,' lacks a number"],
    ),
    "csv quotes": ('frame,id,x,y,w,h\n0,"1,' + "a" * 140_000, ["line 2: cannot be read (field larger than"]),
    "csv no id": ("frame,x,y,w,h,id\n0,1,1,8,8\n0,1,1,8,8,nan\n", ["has no box track (2 boxes without a track were"]),
    "csv columns": ("frame,id,bbox,w,h\n", ["line 1: 'frame,id,bbox,w,h' names no left"]),
    "csv nothing": ("frame,id,x,y,w,h\n", ["file: has no box track. Give a file with tracks"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
