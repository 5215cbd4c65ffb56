"""COCO's images as videos of one frame, and every way in which its file can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mfvis.data.coco import load_coco
from mfvis.errors import DataError
from mfvis.eval.ytvis import evaluate


def valid() -> dict[str, Any]:
    return {
        "images": [{"id": 9, "width": 40, "height": 30, "file_name": "9.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": 5,
                "image_id": 9,
                "category_id": 18,
                "bbox": [1, 2, 10, 12.5],
                "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]],
                "area": 118.5,
            },
            {"id": 6, "image_id": 9, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
    }


def load(tmp_path: Path, content: Any, **options: Any):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return load_coco(path, tmp_path, **options)


def test_a_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    dataset = load(tmp_path, valid())
    (video,) = dataset.videos
    assert (video.id, video.name, video.length, video.frames) == (9, "9", 1, (tmp_path / "9.jpg",))
    assert [category.id for category in dataset.categories] == [1, 18]
    dog, crowd = video.tracks
    assert dog.boxes_T4.tolist() == [[1, 2, 11, 14.5]] and dog.segmentations == ([[1, 2, 11, 2, 11, 14, 1, 14]],)
    assert crowd.iscrowd and crowd.segmentations is None
    assert dog.areas == (118.5,) and crowd.areas is None


def test_images_of_one_name_in_two_folders_are_distinguished(tmp_path: Path) -> None:
    """Their overlays lie in one folder."""
    images = [
        {"id": number, "width": 4, "height": 4, "file_name": name} for number, name in enumerate(["a/1.jpg", "b/1.jpg"])
    ]
    videos = load(tmp_path, {"images": images, "categories": []}).videos
    assert [video.name for video in videos] == ["1-0", "1-1"]


def test_areas_are_the_files_own_in_the_evaluation(tmp_path: Path) -> None:
    """COCO's areas are those of its polygons; the pixels of the masks, 10 x 12 here, are another number."""
    content = valid()
    del content["annotations"][1]
    content["annotations"][0] |= {"area": 128.0**2 + 1, "iscrowd": 0}  # "medium", which begins at 128 x 128
    dataset = load(tmp_path, content)
    metrics = evaluate(dataset, [])
    assert not any("no areas" in note for note in metrics.notes)
    assert metrics.ap_medium == 0 and metrics.ap_small == -1


def test_masks_need_not_be_kept(tmp_path: Path) -> None:
    (video,) = load(tmp_path, valid(), with_masks=False).videos
    assert all(track.segmentations is None for track in video.tracks)


def test_images_without_annotations_can_be_predicted(tmp_path: Path) -> None:
    assert load(tmp_path, {"images": valid()["images"], "categories": []}).videos[0].tracks == ()


def test_boxes_of_masks_on_request(tmp_path: Path) -> None:
    content = valid()
    del content["annotations"][0]["bbox"]
    with pytest.raises(DataError, match="annotation 5: has no bbox"):
        load(tmp_path, content)
    (video,) = load(tmp_path, content, boxes_from_masks=True).videos
    assert video.tracks[0].boxes_T4.tolist() == [[1, 2, 11, 14]]


def test_a_box_without_size_is_absent_and_noted(tmp_path: Path) -> None:
    content = valid()
    content["annotations"][0]["bbox"] = [3, 4, 5, 0]
    dataset = load(tmp_path, content)
    assert not dataset.videos[0].tracks[0].present_T.any()
    assert "boxes without size, taken as absent (1)" in dataset.notes[0]


def test_where_the_images_of_an_own_file_lie(tmp_path: Path) -> None:
    content = valid()
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_night.json"
    path.write_text(json.dumps(content))
    assert load_coco(path).videos[0].frames == (tmp_path / "annotations/9.jpg",), "next to the file if nowhere else"
    for folder in (".", "night", "images", "annotations/images"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "9.jpg").write_bytes(b"")
        assert load_coco(path).videos[0].frames[0].samefile(tmp_path / folder / "9.jpg"), folder
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_coco(path, tmp_path / "nowhere")


def test_lvis_names_its_images_by_their_addresses(tmp_path: Path) -> None:
    content = valid()
    content["images"][0] = {
        "id": 9,
        "width": 40,
        "height": 30,
        "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [],
    }
    content["annotations"] = [{key: value for key, value in content["annotations"][0].items() if key != "iscrowd"}]
    dataset = load(tmp_path, content)
    assert dataset.videos[0].frames == (tmp_path / "train2017/000000000009.jpg",)
    assert dataset.videos[0].tracks[0].iscrowd is False
    assert "files of LVIS: evaluated as COCO" in dataset.notes[0]


def test_what_exporters_write_is_read(tmp_path: Path) -> None:
    """Numbers that are texts or floats, an iscrowd of null, categories called by numbers, or by nothing."""
    content = valid()
    content["images"][0] |= {"id": "9", "width": 40.0, "license": None}
    content["annotations"][0] |= {"image_id": "9", "id": 5.0, "iscrowd": None, "attributes": {"occluded": False}}
    content["annotations"][1]["image_id"] = 9
    content["categories"] = [{"id": 18, "name": 7}, {"id": 1, "supercategory": "none"}]
    dataset = load(tmp_path, content)
    assert [category.name for category in dataset.categories] == ["1", "7"]
    assert [track.id for track in dataset.videos[0].tracks] == [5, 6] and dataset.videos[0].width == 40
    assert [note.split(": ")[1] for note in dataset.notes] == [
        "categories without a name, called by their ids (1)",
        "ids and sizes that are texts, read as the numbers that they say (2)",
    ]


def test_shares_of_the_image_are_not_taken_for_pixels(tmp_path: Path) -> None:
    content = valid()
    content["annotations"][0]["bbox"], content["annotations"][1]["bbox"] = [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]
    with pytest.raises(DataError, match="images: no box is as large as a pixel: are these shares of the image?"):
        load(tmp_path, content)
    content["annotations"][1]["bbox"] = [3, 4, 5, 6]
    assert load(tmp_path, content).videos[0].tracks[0].present_T.all(), "a tiny box among others is a box"


@pytest.mark.parametrize(
    ("key", "change", "messages"),
    [
        ("images", {"file_name": None}, ["image 9", "file_name is None"]),
        ("images", {"width": 0}, ["image 9", "width is 0"]),
        ("images", {"height": "tall"}, ["images[0]", "height is 'tall', expected an integer"]),
        ("images", {"height": 10**6, "width": 10**6}, ["image 9", "1000000 x 1000000 pixels is more than can be"]),
        ("annotations", {"image_id": 8}, ["annotation 5", "image 8 is unknown"]),
        ("annotations", {"category_id": 2}, ["annotation 5", "category 2 is unknown"]),
        ("annotations", {"bbox": [1, 2, 3]}, ["annotation 5", "the box is [1, 2, 3]"]),
        ("annotations", {"id": 6}, ["annotations[1]", "annotation id 6 is a duplicate"]),
        ("annotations", {"iscrowd": 2}, ["annotation 5", "iscrowd is 2"]),
        ("annotations", {"area": "12"}, ["annotation 5", "area is '12', expected a number of pixels"]),
        ("annotations", {"area": -1}, ["annotation 5", "area is -1"]),
        ("annotations", {"area": float("nan")}, ["annotation 5", "area is nan"]),
    ],
)
def test_malformed_annotations(key: str, change: dict[str, Any], messages: list[str], tmp_path: Path) -> None:
    content = valid()
    content[key][0] |= change
    with pytest.raises(DataError) as raised:
        load(tmp_path, content)
    for message in messages:
        assert message in str(raised.value)


@pytest.mark.parametrize("content", [[], None, {"images": {}}, {"images": [5]}, {}, {"images": [], "annotations": [7]}])
def test_malformed_content(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load(tmp_path, content)
