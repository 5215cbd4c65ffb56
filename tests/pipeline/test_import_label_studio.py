"""Label Studio: tracks of key frames, in every frame as its player shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from importing import LENGTH, check_told, imported, left_sides, tracks_of, write, write_pictures


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
def test_label_studio_key_frames(tmp_path: Path, six_pictures: Path, sequence: list[Any], expected: list[Any]) -> None:
    root = imported(write(tmp_path / "a.json", label_studio(*sequence)), six_pictures)
    assert left_sides(root) == expected
    ((category, bboxes),) = tracks_of(root)
    assert category == "Man" and all(bbox[1:] == [6, 20, 30] for bbox in bboxes if bbox)


def test_label_studio_turned_box(tmp_path: Path, six_pictures: Path) -> None:
    # 20 x 30 pixels, turned by 90 degrees clockwise about its upper left corner (40, 6): it lies to the left.
    root = imported(write(tmp_path / "a.json", label_studio(key(1, 50, False, rotation=90))), six_pictures)
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


FAULTS = {
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
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_pictures: Path, name: str) -> None:
    check_told(tmp_path, six_pictures, *FAULTS[name])
