"""Scalabel, the format of BDD100K: a file of frames, or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from import_helpers import check_problems, imported, tracks_of, write, write_images


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
    write_images(tmp_path / "frames" / "one")
    write_images(tmp_path / "frames" / "two")
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


FAULTS = {
    "scalabel": (
        scalabel_frames({"x1": 1, "y1": 1, "x2": 5, "y2": 5}) * 2,
        ["names an image twice"],
    ),
    "scalabel missing": (
        [scalabel_frames(None)[0] | {"name": "x.jpg"}],
        ["video 'clip': has no image 'x.jpg'"],
    ),
    "scalabel size": (
        [scalabel_frames(None)[0] | {"size": {"width": 7, "height": 7}}],
        ["is (7, 7) (height, width), its images (60, 80)"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
