"""Reading and writing the YouTube-VIS layout."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.data.jsonfile import write_json
from mfvis.data.results import read_results, write_labeled, write_results
from mfvis.data.rle import decode_mask, encode_mask, mask_box, rle_box
from mfvis.data.ytvis import load_dataset
from mfvis.errors import DataError
from mfvis.types import TrackResult, VideoDataset
from pycocotools import mask as coco_mask


def flat(dataset: VideoDataset) -> list[tuple]:
    """Everything of a data set that box-only training sees."""
    return [
        (video.id, video.name, video.width, video.height, video.length, video.frames, video.fps)
        + tuple((track.id, track.category_id, track.boxes_T4.tolist(), track.iscrowd) for track in video.tracks)
        for video in dataset.videos
    ]


def rewritten(path: Path, change) -> Path:
    root = json.loads(path.read_text())
    change(root)
    copy = path.with_name(f"changed-{path.name}")
    copy.write_text(json.dumps(root))
    return copy


def test_what_is_read(demo_data: tuple[Path, Path]) -> None:
    root = json.loads(demo_data[0].read_text())
    dataset = load_dataset(demo_data[0])
    assert [category.name for category in dataset.categories] == [entry["name"] for entry in root["categories"]]
    assert [video.id for video in dataset.videos] == [entry["id"] for entry in root["videos"]]
    tracks = {track.id: track for video in dataset.videos for track in video.tracks}
    assert len(tracks) == len(root["annotations"])
    for annotation in root["annotations"]:
        track = tracks[annotation["id"]]
        for box, row, present in zip(annotation["bboxes"], track.boxes_T4, track.present_T, strict=True):
            assert present == (box is not None)
            x, y, w, h = box or (0, 0, 0, 0)
            assert row.tolist() == [x, y, x + w, y + h]
    assert all(path.is_file() for video in dataset.videos for path in video.frames)


def test_a_byte_order_mark_is_no_fault(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "val.json").write_bytes(b"\xef\xbb\xbf" + demo_data[1].read_bytes())
    assert load_dataset(tmp_path / "val.json").categories == load_dataset(demo_data[1]).categories


def test_garbage_in_masks_changes_nothing_for_boxes(demo_data: tuple[Path, Path]) -> None:
    def spoil(root: dict) -> None:
        for number, annotation in enumerate(root["annotations"]):
            garbage = [17, "x", {"size": "no", "counts": [-1]}, [[1, 2]], None, {"counts": "\0" * 99}]
            annotation["segmentations"] = [garbage[(number + t) % 6] for t in range(len(annotation["bboxes"]))]

    def strip(root: dict) -> None:
        for annotation in root["annotations"]:
            del annotation["segmentations"], annotation["areas"]

    valid = flat(load_dataset(demo_data[0]))
    assert flat(load_dataset(rewritten(demo_data[0], spoil))) == valid
    assert flat(load_dataset(rewritten(demo_data[0], strip))) == valid


@pytest.mark.parametrize("annotations", [{"annotations": None}, {}])
def test_unannotated_file(tmp_path: Path, annotations: dict) -> None:
    videos = [{"id": -4, "width": 8, "height": 6, "file_names": ["b/1.jpg"]}, {"id": 2, "width": 8, "height": 6}]
    videos[1] |= {"file_names": ["films/tour.MP4"], "length": 90, "fps": 29.97}
    write_json(tmp_path / "test.json", {"videos": videos} | annotations)
    (tmp_path / "JPEGImages").mkdir()
    first, second = load_dataset(tmp_path / "test.json").videos
    assert (first.id, first.name, first.length, first.tracks) == (-4, "b", 1, ())
    assert first.frames == (tmp_path / "JPEGImages/b/1.jpg",)
    assert (second.name, second.length, second.fps) == ("tour", 90, 29.97)
    assert second.frames == tmp_path / "JPEGImages/films/tour.MP4"
    assert load_dataset(tmp_path / "test.json", tmp_path).videos[0].frames == (tmp_path / "b/1.jpg",)


def test_order_ids_and_names(tmp_path: Path) -> None:
    write_json(
        tmp_path / "test.json",
        {
            "categories": [{"id": 30, "name": "dog"}, {"id": -1, "name": "cat"}],
            "annotations": [
                {"id": 5, "video_id": 9, "category_id": 30, "bboxes": [[-0.6, 0, 8.9, 6.5]], "iscrowd": 1},
                {"id": 2, "video_id": 1, "category_id": -1, "bboxes": [None]},
            ],
            "videos": [{"id": n, "width": 8, "height": 6, "file_names": [f"{n}/same/1.jpg"]} for n in (9, 1)],
        },
    )
    dataset = load_dataset(tmp_path / "test.json")
    assert [dataset.label_of(category) for category in (-1, 30)] == [0, 1]
    assert [video.name for video in dataset.videos] == ["same-9", "same-1"]
    crowd, absent = dataset.videos[0].tracks[0], dataset.videos[1].tracks[0]
    assert crowd.iscrowd and not absent.iscrowd
    assert crowd.boxes_T4.tolist() == [[0, 0, 8, 6]], "less than a pixel outside is rounding"
    assert not absent.present_T.any()


def test_boxes_from_masks(demo_data: tuple[Path, Path]) -> None:
    def strip(root: dict) -> None:
        for annotation in root["annotations"]:
            del annotation["bboxes"]

    path = rewritten(demo_data[0], strip)
    with pytest.raises(DataError, match="boxes=masks"):
        load_dataset(path)
    assert flat(load_dataset(path, boxes_from_masks=True)) == flat(load_dataset(demo_data[0]))


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.random((height, width)) < draw(st.sampled_from([0, 0.03, 0.5, 0.97, 1]))


@given(masks())
@settings(max_examples=60, deadline=None)
def test_rle_round_trip(mask_HW: np.ndarray) -> None:
    height, width = mask_HW.shape
    compressed = encode_mask(mask_HW)
    assert np.array_equal(decode_mask(compressed, height, width), mask_HW)
    assert np.array_equal(decode_mask(json.loads(json.dumps(compressed)), height, width), mask_HW)
    pixels = mask_HW.T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=False)).tolist()
    runs = np.diff([0, *edges, pixels.size]).tolist()
    assert np.array_equal(decode_mask({"size": [height, width], "counts": runs}, height, width), mask_HW)
    # pycocotools' own box, empty masks and full ones included.
    x, y, w, h = coco_mask.toBbox({"size": compressed["size"], "counts": compressed["counts"].encode()})
    assert mask_box(mask_HW).tolist() == ([x, y, x + w, y + h] if w else [0, 0, 0, 0])


@given(st.integers(1, 8), st.integers(1, 8), st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_string_is_decoded_or_refused(height: int, width: int, counts: str) -> None:
    try:
        assert decode_mask({"size": [height, width], "counts": counts}, height, width).shape == (height, width)
    except DataError as error:
        assert "the RLE string's runs are damaged" in str(error)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_box_of_runs_is_the_box_of_pixels(share: float) -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        height, width = random.integers(1, 9, 2).tolist()
        mask_HW = random.random((height, width)) < share
        np.testing.assert_array_equal(rle_box(encode_mask(mask_HW), height, width), mask_box(mask_HW))
    with pytest.raises(DataError, match="a.json: label 3: the RLE"):
        rle_box({"size": [2, 2], "counts": [5]}, 2, 2, file="a.json", record="label 3")


def test_polygons_and_absence() -> None:
    square = decode_mask([[2, 1, 6, 1, 6, 4, 2, 4]], 6, 8)
    assert mask_box(square).tolist() == [2, 1, 6, 4]
    both = decode_mask([[0, 0, 2, 0, 2, 2, 0, 2], [6, 4, 8, 4, 8, 6, 6, 6]], 6, 8)
    assert mask_box(both).tolist() == [0, 0, 8, 6] and both.sum() == 8
    assert not decode_mask(None, 6, 8).any() and not decode_mask([], 6, 8).any()
    one, line = [2, 1, 6, 1, 6, 4, 2, 4], [0, 0, 8, 6]
    assert np.array_equal(decode_mask(one, 6, 8), square), "one polygon without the list around it"
    assert np.array_equal(decode_mask([line, one, [3, 3]], 6, 8), square), "lines and points have no pixel"
    beyond = decode_mask([[-1000, -1000, 1000, -1000, 1000, 3, -1000, 3]], 6, 8)
    assert mask_box(beyond).tolist() == [0, 0, 8, 3]


def test_results_round_trip(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = load_dataset(demo_data[1])
    results = [
        TrackResult(video.id, track.category_id, 0.25, track.segmentations, track.boxes_T4, track.id if n else None)
        for video in dataset.videos
        for n, track in enumerate(video.tracks)
    ]
    write_results(tmp_path / "out/results.json", results)
    again = read_results(tmp_path / "out/results.json", dataset)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"], "no temporary file is left"
    for before, after in zip(results, again, strict=True):
        assert np.array_equal(before.boxes_T4, after.boxes_T4)
        assert before.segmentations == after.segmentations
        assert (before.video_id, before.category_id, before.score, before.track_id) == (
            after.video_id,
            after.category_id,
            after.score,
            after.track_id,
        )


def test_labeled_keeps_every_other_field(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    root = json.loads(demo_data[1].read_text())
    truth = [annotation["segmentations"] for annotation in root["annotations"]]
    areas = [annotation["areas"] for annotation in root["annotations"]]
    for annotation in root["annotations"]:
        del annotation["segmentations"], annotation["areas"]
    root["info"] = {"by": "hand"}
    root["annotations"][0]["note"] = ["anything"]
    write_json(tmp_path / "boxes.json", root)
    dataset = load_dataset(tmp_path / "boxes.json", demo_data[1].parent / "JPEGImages")
    masks = dict(zip((annotation["id"] for annotation in root["annotations"]), truth, strict=True))
    results = [
        TrackResult(video.id, track.category_id, 1.0, tuple(masks[track.id]), track.boxes_T4, track.id)
        for video in dataset.videos
        for track in video.tracks
    ]
    write_labeled(copy.deepcopy(root), tmp_path / "out" / "labeled.json", results, dataset)
    labeled = json.loads((tmp_path / "out" / "labeled.json").read_text())
    moved = load_dataset(tmp_path / "out" / "labeled.json")
    assert [[f.resolve() for f in video.frames] for video in moved.videos] == [list(v.frames) for v in dataset.videos]
    for record, old in zip(labeled["videos"], root["videos"], strict=True):
        record["file_names"] = old["file_names"]
    assert [annotation.pop("segmentations") for annotation in labeled["annotations"]] == truth
    assert [annotation.pop("areas") for annotation in labeled["annotations"]] == areas
    assert labeled == root
    stray = [TrackResult(99, 1, 1.0, (), np.zeros((0, 4), np.float32), 12)]
    with pytest.raises(DataError, match="track 12 of video 99: has no annotation"):
        write_labeled(root, tmp_path / "labeled.json", stray, dataset)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", [float("nan")])
    assert (tmp_path / "a.json").read_text() == "[1]"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.realdata
@pytest.mark.parametrize(("split", "videos", "tracks", "boxes"), [("train", 25, 28, 835), ("val", 9, 11, 330)])
def test_real_clips(real_data: Path, split: str, videos: int, tracks: int, boxes: int) -> None:
    dataset = load_dataset(real_data / "realvid" / f"{split}.json")
    all_tracks = [(video, track) for video in dataset.videos for track in video.tracks]
    assert (len(dataset.videos), len(all_tracks)) == (videos, tracks)
    assert sum(int(track.present_T.sum()) for _, track in all_tracks) == boxes
    for video, track in all_tracks:
        for segmentation, box in zip(track.segmentations or (), track.boxes_T4, strict=split == "val"):
            assert mask_box(decode_mask(segmentation, video.height, video.width)).tolist() == box.tolist()
