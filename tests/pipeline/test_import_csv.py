"""Tables of boxes, whatever their columns are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from importing import check_told, imported, problems_of, tracks_of, write

CSV = """frame,"Track ID",x,y,w,h,class,score
0,7,1,2,8,9,dog,0.5
2,7,1.5,2,8,9,dog,0.5
0,b,5,5,10,10,"cat, fat",1

"""


def test_csv(tmp_path: Path, six_pictures: Path) -> None:
    tracks = [
        ("dog", [[1, 2, 8, 9], None, [1.5, 2, 8, 9], None, None, None]),
        ("cat, fat", [[5, 5, 10, 10], None, None, None, None, None]),
    ]
    assert tracks_of(imported(write(tmp_path / "a.csv", CSV), six_pictures)) == tracks
    corners = "class_name;y_max;y_min;x_max;x_min;frame_index;tracker_id\r\ndog;11;2;9;1;6;7\r\n"
    root = imported(write(tmp_path / "a.csv", corners), six_pictures)  # the sixth frame of six: it counts from 1
    assert tracks_of(root) == [("dog", [None, None, None, None, None, [1, 2, 8, 9]])]


def test_csv_does_not_guess_where_it_may_be_wrong(tmp_path: Path, six_pictures: Path) -> None:
    file = write(tmp_path / "a.csv", "frame,id,x,y,w,h\n2,1,1,1,8,8\n4,1,1,1,8,8\n")
    told = problems_of(file, six_pictures, categories=["dog"])
    assert "has frames 2 to 4 of 6, which may count from 0 or from 1. Say --first-frame 0 or" in told
    root = imported(file, six_pictures, categories=["dog"], first_frame=1)
    assert tracks_of(root) == [("dog", [None, [1, 1, 8, 8], None, [1, 1, 8, 8], None, None])]
    assert problems_of(file, six_pictures, first_frame=1).count("has no class") == 1


FAULTS = {
    "csv": (
        "frame,id,x,y,w,h,class\n0,1,1,1,8,8,a\n0,1,1,1,8,8,a\n0.5,1,1,1,8,8,a\n0,-1,1,1,8,8,a\n1,2,1,1,0,8,a\n"
        "6,1,1,1,8,8,a\n2,1,nan,1,8,8,a\n3,1,1\n",
        ["line 3: object 1 has a second", "line 4: frame 0.5", "line 5: id '-1'", "line 6: the box is 0 x 8"]
        + ["line 7: frame 6 is not 0 to 5", "line 8: '2,1,nan,", "line 9: '3,1,1' lacks a number"],
    ),
    "csv quotes": ('frame,id,x,y,w,h\n0,"1,' + "a" * 140_000, ["line 2: cannot be read (field larger than"]),
    "csv no id": ("frame,x,y,w,h,id\n0,1,1,8,8\n0,1,1,8,8,nan\n", ["line 2: id '' stands", "line 3: id 'nan' stands"]),
    "csv columns": ("frame,id,cx,cy,w,h\n", ["line 1: 'frame,id,cx,cy,w,h' names no left"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_pictures: Path, name: str) -> None:
    check_told(tmp_path, six_pictures, *FAULTS[name])
