"""COCO-VID, whose images name their videos, and COCO of images whose annotations name their tracks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from import_helpers import check_problems, ids_of, imported, notes_of, problems_of, tracks_of, write, write_images


def coco_video(*boxes: Any, folder: str = "train/clip", order: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Three frames of one video, listed out of order; boxes are (frame, track, category, bbox)."""
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


def coco_images(*boxes: Any, names: tuple[str, ...] = ("000003.jpg", "000001.jpg", "000002.jpg")) -> dict[str, Any]:
    """As CVAT exports it: no videos, tracks among the attributes; boxes are (image, track, bbox, more attributes)."""
    return {
        "licenses": [],
        "info": {},
        "categories": [{"id": 1, "name": "dog", "supercategory": ""}],
        "images": [{"id": i, "width": 80, "height": 60, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "segmentation": [], "bbox": bbox, "iscrowd": 0}
            | {"attributes": {"occluded": False, "track_id": track, "keyframe": True} | attributes}
            for i, (image, track, bbox, attributes) in enumerate(boxes, 1)
        ],
    }


def test_coco_video(tmp_path: Path) -> None:
    root = coco_video((0, 1, 3, [1, 2, 8, 9]), (2, 1, 3, [2, 2, 8, 9]), (1, 5, 7, [0, 0, 5, 5]), order=(2, 0, 1))
    root["annotations"].append(root["annotations"][0] | {"track_id": 6, "iscrowd": 1})
    expected = [("dog", [[1, 2, 8, 9], None, [2, 2, 8, 9]]), ("cat", [None, [0, 0, 5, 5], None])]
    write_images(tmp_path / "frames" / "train" / "clip")
    file = write(tmp_path / "a.json", root)
    # below the data set's root, in a folder of videos, in the video's own: of its six images the three that are named
    for frames in ("frames", "frames/train", "frames/train/clip"):
        result = imported(file, tmp_path / frames)
        assert tracks_of(result) == expected
        names = [Path(name).name for name in result["videos"][0]["file_names"]]
        assert names == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert "1 box of a crowd was left out" in notes_of(file, tmp_path / "frames")
    for annotation in root["annotations"]:
        annotation["instance_id"] = annotation.pop("track_id")
    assert tracks_of(imported(write(file, root), tmp_path / "frames")) == expected
    assert tracks_of(imported(file, tmp_path / "frames", categories=["cat"])) == expected[1:]


def test_coco_of_images_with_tracks(tmp_path: Path, six_images: Path) -> None:
    root = coco_images((2, 0, [1, 2, 8, 9], {}), (1, 0, [2, 2, 8, 9], {"rotation": 0.0}), (3, 5, [20, 20, 10, 10], {}))
    root["annotations"][2]["attributes"]["rotation"] = 45.0
    file = write(tmp_path / "instances_default.json", root)
    result = imported(file, six_images)
    side = 10 * math.sqrt(2)
    assert tracks_of(result) == [
        ("dog", [[1, 2, 8, 9], None, [2, 2, 8, 9]]),
        ("dog", [None, pytest.approx([25 - side / 2, 25 - side / 2, side, side]), None]),
    ]
    assert ids_of(result) == [(1, 0), (2, 5)]
    for annotation in root["annotations"]:
        annotation |= {"track_id": annotation.pop("attributes")["track_id"]}
    root["annotations"][2]["track_id"] = -1
    root["annotations"] += [
        root["annotations"][0] | {"track_id": None},
        root["annotations"][0] | {"bbox": [1, 1, 0, 5]},
    ]
    root["categories"][0]["name"] = 7
    result = imported(write(file, root), six_images)
    assert tracks_of(result) == [("7", [[1, 2, 8, 9], None, [2, 2, 8, 9]])]
    notes = notes_of(file, six_images)
    assert "2 boxes without a track were left out" in notes and "1 box without a size was left out" in notes


def test_images_that_are_called_otherwise(tmp_path: Path, six_images: Path) -> None:
    boxes = [(1, 3, [1, 2, 8, 9], {})]
    names = tuple(f"frame_{t:06d}.PNG" for t in range(6))
    file = write(tmp_path / "a.json", coco_images(*boxes, names=names))
    assert tracks_of(imported(file, six_images))[0][1] == [[1, 2, 8, 9], None, None, None, None, None]
    assert "were matched in their order" in notes_of(file, six_images)
    file = write(tmp_path / "a.json", coco_images(*boxes, names=("000002.PNG", "000004.PNG")))
    assert [Path(name).name for name in imported(file, six_images)["videos"][0]["file_names"]] == [
        *("000002.jpg", "000004.jpg")
    ]
    for names in (("frame_000000.PNG", "frame_000001.PNG"), tuple(f"f{t}.png" for t in (0, 1, 2, 4, 5, 6))):
        file = write(tmp_path / "a.json", coco_images(*boxes, names=names))
        assert f"has no image {names[0]!r}" in problems_of(file, six_images)


def test_images_of_several_folders_are_videos(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / "frames" / name, length=1)
    names = ("clips\\a\\000001.jpg", "clips/b/000001.jpg")
    root = coco_images((1, 3, [1, 2, 8, 9], {}), (2, 3, [3, 2, 8, 9], {}), names=names)
    result = imported(write(tmp_path / "a.json", root), tmp_path / "frames")
    assert [video["name"] for video in result["videos"]] == ["a", "b"]
    assert tracks_of(result) == [("dog", [[1, 2, 8, 9]]), ("dog", [[3, 2, 8, 9]])]


FAULTS = {
    "coco-vid": (
        coco_video(
            (0, 1, 9, [1, 1, 5, 5]), (8, 1, 3, [1, 1, 5, 5]), (0, [], 3, [1, 1, 5, 5]), (0, 1, 3, [1, 1, None, 5])
        )
        | {"videos": [{"id": 4, "name": "clip"}, {"id": 4}, {"id": 5}, {}]},
        ["videos[1]: id 4 occurs twice", "videos[3]: has no id", "video 5: has no image"]
        + ["annotations[0]: category_id 9 names no", "annotations[1]: image_id 18 is not in images"]
        + ["annotations[2]: track_id is []", "annotations[3]: bbox is [1, 1, None, 5]"],
    ),
    "coco-vid lists": (
        {"videos": {}, "images": [{"id": 1, "video_id": []}]},
        ["videos: is an object", "[] is not in videos"],
    ),
    "coco-vid order": (
        coco_video() | {"images": [{"id": n, "video_id": 4, "file_name": "1.jpg", "frame_id": n} for n in (0, "1")]},
        ["video 4: frame_id of image '1' is '1'. Number all frames of the video, or none"],
    ),
    "coco-vid missing": (coco_video(order=(0, 8)), ["video 'clip': has no image '000009.jpg'"]),
    "coco-vid corners": (
        coco_video((0, 1, 3, [9, 1, -5, 5]), (1, 2, 3, [1, 1, 5, 5])),
        ["annotations[0]: the box is -5 x 5"],
    ),
    "coco-vid detections": (
        coco_video((0, None, 3, [1, 1, 5, 5])),
        ["has no box track (1 box without a track was left out)"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
