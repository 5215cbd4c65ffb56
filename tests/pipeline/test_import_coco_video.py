"""COCO-VID: images that name their videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from importing import check_told, imported, tracks_of, write, write_pictures


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


FAULTS = {
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
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_pictures: Path, name: str) -> None:
    check_told(tmp_path, six_pictures, *FAULTS[name])
