"""Results in BDD100K's two forms: they come back whole, and what has no place in them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bdd100k_files import HEIGHT, WIDTH, publish
from mfvis.data.bdd100k import load_bdd100k
from mfvis.data.bdd100k_results import write_bdd100k_results
from mfvis.data.bitmask import read_bitmask
from mfvis.data.rle import decode_mask, encode_mask
from mfvis.data.scalabel import read_scalabel
from mfvis.errors import DataError
from mfvis.types import Category, TrackResult, Video, VideoDataset


def results_of(dataset: VideoDataset) -> list[TrackResult]:
    """Two overlapping tracks in the video b-2: the second has the higher score and loses nothing."""
    lower, upper = np.zeros((2, HEIGHT, WIDTH), bool)
    lower[2:8, 2:8], upper[4:10, 4:10] = True, True
    video = dataset.videos[1]
    boxes_T4 = np.zeros((2, 4), np.float32)
    return [
        TrackResult(video.id, 7, 0.5, (encode_mask(lower), encode_mask(lower)), boxes_T4),
        TrackResult(video.id, 3, 0.75, (None, encode_mask(upper)), boxes_T4),
    ]


def test_results_as_rle(tmp_path: Path) -> None:
    publish(tmp_path)
    dataset = load_bdd100k(tmp_path)
    write_bdd100k_results(tmp_path / "results.json", dataset, results_of(dataset))
    written = read_scalabel(tmp_path / "results.json")
    assert [(frame.video, frame.name, frame.index) for frame in written] == [
        ("a-1", "a-1-0000001.jpg", 0),
        ("b-2", "b-2-0000001.jpg", 0),
        ("b-2", "b-2-0000002.jpg", 1),
    ]
    assert [[(label.id, label.category, label.score) for label in frame.labels] for frame in written] == [
        [],
        [("2", "motorcycle", 0.5)],
        [("1", "car", 0.75), ("2", "motorcycle", 0.5)],
    ]
    car, motorcycle = (decode_mask(label.segmentation, HEIGHT, WIDTH) for label in written[2].labels)
    assert car.sum() == 36 and motorcycle.sum() == 36 - 16 and not (car & motorcycle).any()
    assert written[2].labels[1].box == (2, 2, 8, 8)


def test_results_as_bitmasks(tmp_path: Path) -> None:
    publish(tmp_path)
    dataset = load_bdd100k(tmp_path)
    write_bdd100k_results(tmp_path / "out", dataset, results_of(dataset), form="bitmask")
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["a-1/a-1-0000001.png", "b-2/b-2-0000001.png", "b-2/b-2-0000002.png"]
    assert not any(channel.any() for channel in read_bitmask(tmp_path / "out" / files[0]))
    category_HW, attributes_HW, id_HW = read_bitmask(tmp_path / "out" / files[2])
    assert (id_HW == 1).sum() == 36 and (id_HW == 2).sum() == 20 and not attributes_HW.any()
    assert (category_HW[id_HW == 1] == 3).all() and (category_HW[id_HW == 2] == 7).all()
    with pytest.raises(DataError, match="exists and is not empty"):
        write_bdd100k_results(tmp_path / "out", dataset, [], form="bitmask")
    assert not list(tmp_path.glob(".out*"))


def test_a_frame_keeps_its_hundred_best(tmp_path: Path) -> None:
    video = Video(4, "crowd", 120, 2, 1, tmp_path / "crowd.mp4")
    dataset = VideoDataset(tmp_path, (Category(9, "person"),), (video,))
    masks = np.eye(120, dtype=bool)[:, None].repeat(2, 1)
    boxes_T4 = np.zeros((1, 4), np.float32)
    results = [TrackResult(4, 9, n / 120, (encode_mask(mask_HW),), boxes_T4) for n, mask_HW in enumerate(masks)]
    write_bdd100k_results(tmp_path / "results.json", dataset, results)
    (frame,) = read_scalabel(tmp_path / "results.json")
    assert frame.name == "crowd-0000001.jpg" and {label.category for label in frame.labels} == {"pedestrian"}
    assert [label.score for label in frame.labels] == [n / 120 for n in range(119, 19, -1)]


def test_results_of_other_classes_and_videos_are_refused(tmp_path: Path) -> None:
    dataset = VideoDataset(tmp_path, (Category(1, "dog"),), (Video(1, "a", 4, 4, 1, tmp_path / "a.mp4"),))
    result = TrackResult(1, 1, 0.5, (None,), np.zeros((1, 4), np.float32))
    other = TrackResult(2, 1, 0.5, (None,), np.zeros((1, 4), np.float32))
    with pytest.raises(DataError) as error:
        write_bdd100k_results(tmp_path / "results.json", dataset, [result, other])
    assert "category 1 is none of BDD100K's eight" in str(error.value) and "video 2 is unknown" in str(error.value)
    assert not list(tmp_path.iterdir())
