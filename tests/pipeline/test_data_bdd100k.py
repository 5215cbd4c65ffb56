"""BDD100K's published folders: whichever of their labels there are, the same tracks come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bdd100k_files import HEIGHT, WIDTH, frames, label, publish, write
from mfvis.data.bdd100k import CATEGORIES, FOLDERS, class_of, load_bdd100k
from mfvis.data.rle import decode_mask
from mfvis.errors import DataError


def test_names_of_classes() -> None:
    assert [category.name for category in CATEGORIES] == [
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    assert class_of("motor") == (7, False) and class_of("person") == (1, False) and class_of("van") == (3, False)
    assert class_of("other person") == (1, True) and class_of("trailer") == (4, True)
    assert class_of("traffic light") is None


@pytest.mark.parametrize(
    ("labels", "with_masks", "boxes"),
    [
        ("rles", True, True),
        ("rles", False, True),
        ("rles", False, False),
        ("bitmasks", True, True),
        (None, False, True),
    ],
)
def test_published_folders(tmp_path: Path, labels: Any, with_masks: bool, boxes: bool) -> None:
    publish(tmp_path / "bdd100k", boxes=boxes)
    dataset = load_bdd100k(tmp_path, "train", labels, with_masks=with_masks)
    assert dataset.categories == CATEGORIES
    assert [(video.id, video.name, video.length, video.fps) for video in dataset.videos] == [
        (1, "a-1", 1, 5.0),
        (2, "b-2", 2, 5.0),
    ]
    assert all(path.is_file() for video in dataset.videos for path in video.frames)
    assert [[track.id for track in video.tracks] for video in dataset.videos] == [[1], [2]]
    (track,) = dataset.videos[1].tracks
    assert track.category_id == 7
    assert track.boxes_T4.dtype == np.float32 and track.boxes_T4.tolist() == [[1, 2, 5, 6], [2, 2, 6, 6]]
    assert (track.segmentations is not None) == with_masks
    if with_masks:
        assert decode_mask(track.segmentations[1], HEIGHT, WIDTH)[2:6, 2:6].all()


def test_garbage_in_masks_changes_nothing_for_boxes(tmp_path: Path) -> None:
    publish(tmp_path)
    file = tmp_path / FOLDERS["rles"] / "train" / "b-2.json"
    root = json.loads(file.read_text())
    for frame in root["frames"]:
        for entry in frame["labels"]:
            entry["rle"] = {"counts": 7}
    clean = load_bdd100k(tmp_path)
    write(file, root)
    for video, same in zip(load_bdd100k(tmp_path).videos, clean.videos, strict=True):
        assert [track.boxes_T4.tolist() for track in video.tracks] == [track.boxes_T4.tolist() for track in same.tracks]
    with pytest.raises(DataError, match="rle is"):
        load_bdd100k(tmp_path, with_masks=True)


def test_box_tracks_and_polygons(tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS["boxes"]
    folder.mkdir(parents=True)
    (tmp_path / "images").mkdir()
    write(folder / "box_track_val.json", frames(label(category="bike")) + frames(label(id="8"), videoName="b"))
    dataset = load_bdd100k(tmp_path, "val")
    first = dataset.videos[0]
    assert (first.height, first.width) == (720, 1280)
    assert first.frames == (tmp_path / "images" / "track" / "val" / "a" / "a-0000001.jpg",)
    assert first.tracks[0].boxes_T4.tolist() == [[10, 20.5, 31, 41]] and first.tracks[0].category_id == 8
    (tmp_path / FOLDERS["polygons"] / "val").mkdir(parents=True)
    square = {"vertices": [[0, 0], [4, 0], [4, 5], [0, 5]], "types": "LLLL", "closed": True}
    write(tmp_path / FOLDERS["polygons"] / "val" / "a.json", frames(label(box2d=None, poly2d=[square])))
    assert load_bdd100k(tmp_path, "val").videos[0].tracks[0].boxes_T4.tolist() == [[0, 0, 4, 5]]


def test_boxes_outside_their_image_are_left_out_and_reported(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / FOLDERS["boxes"]).mkdir(parents=True)
    outside = label(id="8", box2d={"x1": 2000, "y1": 0, "x2": 2010, "y2": 9})
    write(tmp_path / FOLDERS["boxes"] / "box_track_train.json", frames(label(), outside))
    dataset = load_bdd100k(tmp_path)
    assert len(dataset.videos[0].tracks) == 1
    assert dataset.notes == ("1 box outside the image, left out",)


def test_a_video_in_two_files_and_all_problems_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = tmp_path / FOLDERS["boxes"] / "train"
    folder.mkdir(parents=True)
    write(folder / "1.json", frames(label()))
    write(folder / "2.json", frames(label(category="boat")))
    (folder / "3.json").write_text("[")
    with pytest.raises(DataError) as error:
        load_bdd100k(tmp_path)
    problems = [f"{Path(problem.file).name}: {problem.problem}" for problem in error.value.problems]
    assert problems[:2] == ["2.json: is in another file, too", "2.json: category is 'boat'"]
    assert len(problems) == 3 and problems[2].startswith("3.json: ends in the middle")


def test_class_change_makes_two_tracks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / FOLDERS["boxes"]).mkdir(parents=True)
    value = frames(label()) + frames(label(category="truck"), name="a-0000002.jpg", frameIndex=1)
    write(tmp_path / FOLDERS["boxes"] / "box_track_train.json", value)
    tracks = load_bdd100k(tmp_path).videos[0].tracks
    assert [(track.category_id, track.present_T.tolist()) for track in tracks] == [
        (3, [True, False]),
        (4, [False, True]),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (frames(label(category="boat")), "category is 'boat'. Expected one of pedestrian"),
        (frames(label(), label()), "two objects with id 7"),
        (frames(label(box2d=None)), "has neither box2d nor a mask"),
        (frames(label(box2d=None, rle={"size": [720, 1280], "counts": "5"})), "damaged or not of 720 x 1280"),
        (frames(label(), videoName=None), "has no videoName"),
        (frames() + frames(), "two frames of one name"),
        (frames(size={"width": 9, "height": 9}) + frames(name="x"), "has frames of 2 sizes"),
    ],
)
def test_problems_of_published_labels(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / FOLDERS["boxes"]).mkdir(parents=True)
    write(tmp_path / FOLDERS["boxes"] / "box_track_train.json", value)
    with pytest.raises(DataError, match="box_track_train.json") as error:
        load_bdd100k(tmp_path)
    assert message in str(error.value)


def test_test_split_has_images_only(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "images" / "seg_track_20" / "train").rename(tmp_path / "images" / "seg_track_20" / "test")
    dataset = load_bdd100k(tmp_path, "test")
    assert [(video.id, video.name, video.length, video.tracks) for video in dataset.videos] == [
        (1, "a-1", 1, ()),
        (2, "b-2", 2, ()),
    ]
    with pytest.raises(DataError, match="has no labels of split 'val' in labels/seg_track_20/rles, "):
        load_bdd100k(tmp_path, "val")
