"""Label Studio: tracks of key frames, in every frame as its player shows them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from import_helpers import (
    LENGTH,
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


def key(at: int, x: float, enabled: bool = True, **more: Any) -> dict[str, Any]:
    sides = {"x": x, "y": 10, "width": 25, "height": 50}
    return {"frame": at, "enabled": enabled, "rotation": 0, "time": at / 25} | sides | more


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
def test_label_studio_key_frames(tmp_path: Path, six_images: Path, sequence: list[Any], expected: list[Any]) -> None:
    root = imported(write(tmp_path / "a.json", label_studio(*sequence)), six_images)
    assert left_sides(root) == expected
    ((category, bboxes),) = tracks_of(root)
    assert category == "Man" and all(bbox[1:] == [6, 20, 30] for bbox in bboxes if bbox)


def test_label_studio_turned_box(tmp_path: Path, six_images: Path) -> None:
    # 20 x 30 pixels, turned by 90 degrees clockwise about its upper left corner (40, 6): it lies to the left.
    root = imported(write(tmp_path / "a.json", label_studio(key(1, 50, False, rotation=90))), six_images)
    assert tracks_of(root)[0][1][0] == pytest.approx([10, 6, 30, 20])


def test_label_studio_tasks_and_short_form(tmp_path: Path) -> None:
    write_images(tmp_path / "frames" / "one")
    write_images(tmp_path / "frames" / "two", length=3)
    short = {"id": 6, "video": "s3://bucket/two.mp4", "annotator": 1}
    short["box"] = [{"framesCount": 4, "sequence": [key(3, 10)], "labels": ["Dog"]}]
    full = label_studio(key(6, 20))[0] | {"data": {"video": "https://host/one.mp4", "note": "indoors"}}
    root = imported(write(tmp_path / "a.json", [full, short]), tmp_path / "frames")
    assert [(video["name"], video["length"]) for video in root["videos"]] == [("one", 6), ("two", 3)]
    assert tracks_of(root) == [
        ("Man", [None] * 5 + [[16, 6, 20, 30]]),
        ("Dog", [None, None, [8, 6, 20, 30]]),
    ]


def test_angles_go_straight_from_one_to_the_next(tmp_path: Path, six_images: Path) -> None:
    keys = key(1, 50, rotation=350), key(3, 50, False, rotation=10)
    root = imported(write(tmp_path / "a.json", label_studio(*keys)), six_images)
    # in the middle 180 degrees about the upper left corner (40, 6), not 0
    assert tracks_of(root)[0][1][1] == pytest.approx([20, 0, 20, 6])


@pytest.mark.parametrize("value", [{}, {"labels": []}, {"labels": None}])
def test_one_category_is_the_class_of_regions_without_labels(
    tmp_path: Path, six_images: Path, value: dict[str, Any]
) -> None:
    task = label_studio(key(1, 10), labels=None)
    task[0]["annotations"][0]["result"][0]["value"].update(value)
    root = imported(write(tmp_path / "a.json", task), six_images, categories=["dog"])
    assert tracks_of(root)[0][0] == "dog" and ids_of(root) == [(1, "a")]
    other = label_studio(key(1, 10))[0]["annotations"][0]["result"][0] | {"id": "b"}
    task[0]["annotations"][0]["result"].append(other)
    file = write(tmp_path / "a.json", task)
    assert ids_of(imported(file, six_images, categories=["Man"])) == [(1, "b")]
    assert "1 region without a label was left out" in notes_of(file, six_images)


def test_attributes_of_a_region_repeat_its_key_frames(tmp_path: Path, six_images: Path) -> None:
    task = label_studio(key(1, 10), labels=None)
    results = task[0]["annotations"][0]["result"]
    value = results[0]["value"]
    results += [{"id": "a", "type": "labels", "value": value | {"labels": [7]}}]
    results += [{"id": "a", "type": "choices", "value": value | {"choices": ["red"]}}]
    results += [{"id": "b", "type": "videopolygon", "value": value}]
    file = write(tmp_path / "a.json", task)
    root = imported(file, six_images)
    assert tracks_of(root)[0][0] == "7" and ids_of(root) == [(1, "a")]
    assert "1 region of type 'videopolygon' was left out" in notes_of(file, six_images)


@pytest.mark.parametrize("form", ["task", "prediction", "result", "with annotations"])
def test_predictions(tmp_path: Path, six_images: Path, form: str) -> None:
    (task,) = label_studio(key(1, 10), labels=["Dog"])
    results = [{k: v for k, v in r.items() if k != "id"} for r in task["annotations"][0]["result"][:1]]
    prediction = {"model_version": "yolo", "result": results * 2}
    content: Any = {
        "task": [{"data": {"video": "clip.mp4"}, "predictions": [prediction]}],
        "prediction": [prediction],
        "result": results * 2,
        "with annotations": [task | {"predictions": [prediction] * 2}],
    }[form]
    file = write(tmp_path / "a.json", content)
    assert [name for name, _ in tracks_of(imported(file, six_images))] == ["Dog"] * (1 + (form != "with annotations"))
    assert ("its prediction was imported" in notes_of(file, six_images)) is (form == "task")
    if form == "task":
        content[0]["predictions"] *= 2
        assert "has 2 predictions of one video. Keep one" in problems_of(write(file, content), six_images)


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d={}.mp4",
        "/data/local-files/?d=clips%5C{}.mp4",
        "http://localhost:8080/data/local-files/?d=clips/{}.mp4",
        "D:\\clips\\{}.mp4",
        "https://bucket.s3.amazonaws.com/clips/{}.mp4?X-Amz-Signature=d%2F0",
        "/tasks/5/resolve/?fileuri=BASE64",
        "/data/upload/1/0123abcd-{}.mp4",
    ],
)
def test_names_of_videos(tmp_path: Path, address: str) -> None:
    tasks = []
    for name in ("my clip", "b"):
        write_images(tmp_path / "frames" / name)
        uri = base64.urlsafe_b64encode(f"s3://bucket/clips/{name}.mp4".encode()).decode().rstrip("=")
        tasks.append(label_studio(key(1, 10))[0] | {"data": {"video": address.format(name).replace("BASE64", uri)}})
    root = imported(write(tmp_path / "a.json", tasks), tmp_path / "frames")
    assert [video["name"] for video in root["videos"]] == ["my clip", "b"]


def test_key_frames_in_which_nothing_is_seen(tmp_path: Path, six_images: Path) -> None:
    nothing = {"y": 0, "width": 0, "height": 0}
    keys = key(1, 0, False, **nothing), key(2, 10.0, frame=2.0), key(3, 20, False), key(4, 0, False, **nothing)
    assert left_sides(imported(write(tmp_path / "a.json", label_studio(*keys)), six_images)) == [
        *(None, 8, 16, None, None, None)
    ]


FAULTS = {
    "label studio": (
        label_studio(key(0, 1), key(9, 1), key(1, 1, "yes"), key(2, 1, width=0), key(3, 1), key(3, 1), key(4, None)),
        ["sequence[0]: frame 0 is not 1 to 6", "sequence[1]: frame 9", "sequence[2]: is {", "[3]: the box is 0 x 50"]
        + ["sequence[5]: frame 3 occurs twice", "sequence[6]: is {"],
    ),
    "label studio count": (label_studio(key(1, 1), framesCount=9), ["framesCount is 9, the video has 6", "frame rate"]),
    "label studio labels": (label_studio(key(1, 1), labels=["a", "b"]), ["labels are ['a', 'b']"]),
    "label studio empty": (label_studio(), ["has no box track (1 region without a key frame was left out)"]),
    "label studio label": (
        label_studio(key(1, 1), labels=[]),
        ["has no class. Name the one class of all objects with"],
    ),
    "label studio result": ([{"data": {}, "annotations": [{"result": {}}]}], ["result is an object, expected a list"]),
    "label studio twice": (
        [label_studio(key(1, 1))[0] | {"annotations": label_studio(key(1, 1))[0]["annotations"] * 2}],
        ["task 5: has 2 annotations of one video"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_boxes(tmp_path: Path, six_images: Path, name: str) -> None:
    check_problems(tmp_path, six_images, *FAULTS[name])
