"""MOTChallenge's ground truth, and what trackers and tools write like it."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_helpers import (
    MOT,
    check_problems,
    ids_of,
    imported,
    notes_of,
    problems_of,
    tracks_of,
    write,
    write_images,
)

NONE = [None] * 5
BALL = {"categories": ["ball"]}


def test_ground_truth(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "MOT17-02" / "gt" / "gt.txt", MOT)
    root = imported(file, six_images)
    assert tracks_of(root) == [
        ("pedestrian", [[10, 20, 30, 20], None, [11, 21, 30, 20], None, None, None]),
        ("car", [[70, 0, 10, 20], *NONE]),
    ]
    assert [category["name"] for category in root["categories"]] == ["car", "pedestrian"]
    assert root["videos"][0]["name"] == "MOT17-02" and ids_of(root) == [(1, 1), (2, 2)]
    notes = notes_of(file, six_images)
    assert "pixels are counted from 1; --first-pixel 0" in notes and "MOTChallenge's list; --class-names" in notes
    assert "1 box that the file marks as ignored was left out" in notes
    assert tracks_of(imported(file, six_images, first_pixel=0))[0][1][0] == [11, 21, 30, 20]


def test_exports_of_cvat_and_datumaro_count_pixels_from_zero(tmp_path: Path, six_images: Path) -> None:
    write(tmp_path / "gt" / "labels.txt", "dog\ncat\n")
    file = write(tmp_path / "gt" / "gt.txt", "2,1,1.0,20.5,8.0,8.0,1,2,1.0\n1,2,3,3,9,9,1,-1,1\n")
    root = imported(file, six_images, categories=["cat"])
    assert tracks_of(root) == [("cat", [None, [1, 20.5, 8, 8], None, None, None, None])]
    assert "1 box without a class was left out" in notes_of(file, six_images)
    write(file, "2,1,1,1,8,8,1,3,1\n")
    assert "has class 3 without a name. Name them: --class-names 3=NAME" in problems_of(file, six_images)


@pytest.mark.parametrize(
    "row",
    [
        "1,7,1,1,8,8,0.7,-1,-1,-1",
        "1 7 1 1 8 8 -1 -1 -1 0 ",  # Yolov5_StrongSORT: '%g ' * 10
        "1 7 1 1 8 8 -1 -1 -1 -1 0",  # PathTrack
        "1, 7, 1, 1, 8, 8, 1, -1, -1, -1,",
        "1;7;1;1;8;8;1.000000;-4.5;2.25;0",  # a place in the world
        "1.0\t7.00\t1e0\t1\t8\t8",
    ],
)
def test_results_of_trackers_count_pixels_from_zero(tmp_path: Path, six_images: Path, row: str) -> None:
    text = f"\ufeff# frame, id, ...\r\n{row}\r\n\r\n{row.replace('1', '2', 1)}\r\n"
    root = imported(write(tmp_path / "clip.txt", text), six_images, **BALL)
    assert tracks_of(root) == [("ball", [[1, 1, 8, 8], [1, 1, 8, 8], None, None, None, None])]
    assert ids_of(root) == [(7, 7)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_detections_without_a_track_are_left_out(tmp_path: Path, six_images: Path, encoding: str) -> None:
    text = "1,-1,1,1,8,8,0.7,-1,-1,-1\n1,,1,1,8,8,0.7\n2,9,1,1,8,8,0.7\n2,nan,1,1,8,8,0.7\n3,9,1,1,0,8,0.7\n"
    file = write(tmp_path / "clip.txt", text.encode(encoding))
    assert tracks_of(imported(file, six_images, **BALL)) == [("ball", [None, [1, 1, 8, 8], None, None, None, None])]
    notes = notes_of(file, six_images, **BALL)
    assert "3 boxes without a track were left out" in notes and "1 box without a size was left out" in notes
    message = problems_of(write(file, text.partition("2,9")[0]), six_images, **BALL)
    assert "no box track (pixels are counted from 0; --first-pixel 1 overrides it; 2 boxes without a track" in message


def test_ids_of_any_size_are_kept(tmp_path: Path, six_images: Path) -> None:
    big = 2**60 + 1
    file = write(tmp_path / "clip.txt", "".join(f"1,{i},1,1,8,8,1,-1,-1,-1\n" for i in (9, 12345678, 11)))
    assert ids_of(imported(file, six_images, **BALL)) == [(9, 9), (12345678, 12345678), (11, 11)]
    file = write(tmp_path / "clip.txt", f"1,{big},1,1,8,8\n1,{big + 1},1,1,8,8\n")
    assert ids_of(imported(file, six_images, **BALL)) == [(1, big), (2, big + 1)]


def test_classes_of_other_benchmarks_are_not_motchallenges(tmp_path: Path, six_images: Path) -> None:
    scores = write(tmp_path / "clip.txt", "1,1,1,1,8,8,0.75,2,-1\n1,2,9,9,8,8,0.5,0,-1\n")
    message = problems_of(scores, six_images, **BALL)
    assert "has classes 0, 2 without names. Name them: --class-names 0=NAME 2=NAME" in message
    root = imported(scores, six_images, class_names=["0=person", "2=car"])
    assert tracks_of(root) == [("car", [[1, 1, 8, 8], *NONE]), ("person", [[9, 9, 8, 8], *NONE])]
    names = write(tmp_path / "coco.txt", "person\nbicycle\ncar\n")
    assert tracks_of(imported(scores, six_images, class_names=[str(names)])) == tracks_of(root)
    # flags, but a class that MOTChallenge does not have; ten columns with a class, also with VisDrone's last two
    for text in (
        "1,1,1,1,8,8,1,0,1\n1,2,9,9,8,8,1,2,1\n",
        "1,1,1,1,8,8,1,14,-1,-1\n1,2,1,1,8,8,1,2,-1,-1\n",
        "1,1,1,1,8,8,0.5,4,0,1\n1,2,1,1,8,8,0.5,9,0,0\n",
    ):
        assert "without names" in problems_of(write(tmp_path / "gt.txt", text), six_images, **BALL)
    assert "classes that are not whole" in problems_of(write(scores, "1,1,1,1,8,8,1,0.5,1\n"), six_images, **BALL)


def test_a_score_of_zero_is_no_flag(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "clip.txt", "1,1,1,1,8,8,0,-1,-1,-1\n2,1,1,1,8,8,0.5,-1,-1,-1\n")
    assert tracks_of(imported(file, six_images, **BALL))[0][1][:2] == [[1, 1, 8, 8]] * 2


def test_frames_that_a_tracker_counts_from_zero(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "clip.txt", "0,1,1,1,8,8,0.7,-1,-1,-1\n5,1,2,1,8,8,-1,-1,-1,-1\n")
    root = imported(file, six_images, first_frame=0, **BALL)
    assert tracks_of(root) == [("ball", [[1, 1, 8, 8], None, None, None, None, [2, 1, 8, 8]])]
    assert "frame 0 is not 1 to 6. Give the frames of this video, or the index" in problems_of(file, six_images, **BALL)


def test_sequences_with_their_frame_rate(tmp_path: Path) -> None:
    for name in ("MOT17-02", "MOT17-04"):
        write_images(tmp_path / "train" / name / "img1", length=2)
        write(tmp_path / "train" / name / "gt" / "gt.txt", "2,5,2,2,8,8,1,1,0.5\n")
        write(tmp_path / "train" / name / "det" / "det.txt", "2,-1,2,2,8,8,1\n")
        write(
            tmp_path / "train" / name / "seqinfo.ini",
            f"[Sequence]\nname={name}\nframeRate=14\nseqLength=2\nimWidth=80\n",
        )
    one, all_frames = tmp_path / "train" / "MOT17-02", tmp_path / "train"
    for file, frames in ((one, one), (one, one / "img1"), (one / "gt" / "gt.txt", one), (one, all_frames)):
        root = imported(file, frames)
        assert tracks_of(root) == [("pedestrian", [None, [1, 1, 8, 8]])]
        assert [(video["name"], video["fps"]) for video in root["videos"]] == [("MOT17-02", 14)]
        assert root["videos"][0]["file_names"][0].endswith("img1/000001.jpg")
    root = imported(all_frames, all_frames)
    assert [video["name"] for video in root["videos"]] == ["MOT17-02", "MOT17-04"] and len(root["annotations"]) == 2
    for line, fault in (("imWidth=1920", "imwidth is 1920, that of the frames 80"), ("seqLength=3", "seqlength is 3")):
        write(one / "seqinfo.ini", f"[Sequence]\n{line}\n")
        assert f"seqinfo.ini: {fault}" in problems_of(one, one)
    assert "cannot be read" in problems_of(write(one / "seqinfo.ini", "name").parent, one)


def test_a_folder_of_results_is_a_video_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / "frames" / name, length=1)
        write(tmp_path / "results" / "data" / f"{name}.txt", "1,5,2,2,8,8,0.5,-1,-1,-1\n")
    write(tmp_path / "results" / "data" / "summary.txt", "HOTA 0.5\n")
    root = imported(tmp_path / "results", tmp_path / "frames", **BALL)
    assert [video["name"] for video in root["videos"]] == ["a", "b"]
    assert tracks_of(root) == [("ball", [[2, 2, 8, 8]])] * 2
    assert "1 file of other formats was left out" in notes_of(tmp_path / "results", tmp_path / "frames", **BALL)


def test_boxes_in_shares_of_the_image(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "clip.txt", "1,1,0.1,0.2,0.3,1,0.9,-1,-1,-1\n2,1,0.1,0.2,0.3,0.5,0.9,-1,-1,-1\n")
    assert "no box is as large as a pixel" in problems_of(file, six_images, **BALL)
    file = write(tmp_path / "clip.txt", "1,1,100,2,3,4,0.9,-1,-1,-1\n")
    message = problems_of(file, six_images, **BALL)
    assert "1 of 1 boxes lie outside the images. Give the frames that were annotated" in message


FAULTS = {
    "mot": (
        "1,1,1,1,8\n0,1,1,1,8,8,1,1,1\n1.5,1,1,1,8,8\n1,1,nan,1,8,8\n1,1,1,1,-2,8,1,1,1\n1,a,1,1,8,8,1\n",
        ["line 1: '1,1,1,1,8' is not 6 to 11", "line 2: frame 0 is not 1 to 6", "line 3: frame 1.5 and id 1 are not"]
        + ["line 4: '1,1,nan", "line 6: frame 1 and id a are not whole"],
    ),
    "mot twice": (
        "1,1,1,1,8,8,1,1,0.5\n" * 2 + "2,1,1,1,8,8,1,3,1\n3,2,1,1,-8,8,1,1,1\n",
        ["line 2: object 1 has a second box", "'car' here and 'pedestrian' elsewhere", "line 4: the box is -8 x 8"],
    ),
    "mot class": ("1,1,1,1,8,8\n2,2,1,1,8,8\n", ["line 1: has no class. Name the one class of all objects with"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
