"""BDD100K: bitmasks and labels are read as the field's programs read them, damage is named, results come back whole."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mfvis.data.bdd100k import CATEGORIES, FOLDERS, class_of, load_bdd100k
from mfvis.data.bdd100k_results import write_bdd100k_results
from mfvis.data.bitmask import CROWD, IGNORED, read_bitmask, write_bitmask
from mfvis.data.rle import decode_mask, encode_mask, mask_box, rle_box
from mfvis.data.scalabel import read_scalabel, videos_of
from mfvis.errors import DataError
from mfvis.types import Category, TrackResult, Video, VideoDataset
from PIL import Image


def bitmask() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame with ids 1, 256 (whose alpha is 0) and 65535, one of them an ignore region."""
    category_HW, attributes_HW = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    id_HW = np.zeros((6, 8), np.int32)
    for place, (number, category, attributes) in enumerate(((1, 3, 0), (256, 1, 4 | 8), (65535, 8, 2))):
        rows = slice(2 * place, 2 * place + 2)
        id_HW[rows, 1:5], category_HW[rows, 1:5], attributes_HW[rows, 1:5] = number, category, attributes
    return category_HW, attributes_HW, id_HW


def test_bitmask_round_trip_with_transparent_ids(tmp_path: Path) -> None:
    written = bitmask()
    write_bitmask(tmp_path / "frame.png", *written)
    for back, given in zip(read_bitmask(tmp_path / "frame.png"), written, strict=True):
        assert back.dtype == given.dtype
        np.testing.assert_array_equal(back, given)
    rgba = np.asarray(Image.open(tmp_path / "frame.png"))
    assert rgba[2, 1].tolist() == [1, 12, 1, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "frame.png"]


def png(depth: int, colour: int, row: bytes, width: int = 2) -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)), (b"IDAT", zlib.compress(row))]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SOUND_PNG = png(8, 6, b"\0" + bytes([1, 0, 0, 5, 0, 0, 0, 0]))


def damaged(place: int) -> bytes:
    return SOUND_PNG[:place] + bytes([SOUND_PNG[place] ^ 1]) + SOUND_PNG[place + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a", "is not a PNG"),
        (SOUND_PNG[:-6], "is cut off"),
        (SOUND_PNG + b"x", "goes on after its end"),
        (damaged(20), "checksum at byte 8 is wrong"),
        (damaged(45), "checksum at byte 33 is wrong"),
        (png(16, 6, b"\0" + bytes(16)), "16 bits and colour type 6"),
        (png(8, 2, b"\0" + bytes(6)), "8 bits and colour type 2, expected 8 bits and RGBA"),
        (png(8, 6, b"\0" + bytes(5)), "cannot be decoded"),
        (png(8, 6, b"\0" + bytes(8), width=2**31), "more than can be worked with"),
        (png(8, 6, b"\0" + bytes([1, 0, 0, 5, 2, 0, 0, 5])), "id 5: has class 1, attributes 0 and class 2"),
        (png(8, 6, b"\0" + bytes([1, 0, 0, 5, 1, 1, 0, 5])), "id 5: has class 1, attributes 0 and class 1"),
        (png(8, 6, b"\0" + bytes([9, 0, 1, 0, 0, 0, 0, 0])), "id 256: has class 9, expected 1 to 8"),
    ],
)
def test_bitmasks_that_would_be_misread_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "frame.png").write_bytes(data)
    with pytest.raises(DataError, match="frame.png") as error:
        read_bitmask(tmp_path / "frame.png")
    assert message in str(error.value)


def test_class_without_id_and_odd_class_of_ignore_region_are_fine(tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(png(8, 6, b"\0" + bytes([3, 0, 0, 0, 9, 1, 0, 7])))
    category_HW, _, id_HW = read_bitmask(tmp_path / "frame.png")
    assert id_HW.tolist() == [[0, 7]] and category_HW.tolist() == [[3, 9]]


def test_write_bitmask_refuses_what_does_not_fit(tmp_path: Path) -> None:
    blank = np.zeros((2, 3), np.int32)
    with pytest.raises(ValueError, match="id spans 0 to 65536, expected 0 to 65535"):
        write_bitmask(tmp_path / "frame.png", blank, blank, blank + np.eye(2, 3, dtype=np.int32) * 65536)
    with pytest.raises(ValueError, match="attributes has shape"):
        write_bitmask(tmp_path / "frame.png", blank, blank[:1], blank)
    assert not list(tmp_path.iterdir())


def test_names_of_classes() -> None:
    assert [category.name for category in CATEGORIES] == [
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    assert class_of("motor") == (7, False) and class_of("person") == (1, False) and class_of("van") == (3, False)
    assert class_of("other person") == (1, True) and class_of("trailer") == (4, True)
    assert class_of("traffic light") is None


def label(**fields: Any) -> dict[str, Any]:
    return {"id": "7", "category": "car", "box2d": {"x1": 10, "y1": 20.5, "x2": 30, "y2": 40}} | fields


def frames(*labels: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"name": "a-0000001.jpg", "videoName": "a", "frameIndex": 0, "labels": list(labels)} | fields]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_scalabel_label(tmp_path: Path) -> None:
    mask_HW = np.zeros((6, 8), bool)
    mask_HW[2:4, 3:6] = True
    attributes = {"crowd": True, "occluded": False, "truncated": True, "weather": "clear"}
    given = label(id=12, attributes=attributes, rle=encode_mask(mask_HW), score=0.25)
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(given)))
    assert (frame.name, frame.video, frame.index, frame.size) == ("a-0000001.jpg", "a", 0, None)
    (read,) = frame.labels
    assert (read.id, read.category, read.score) == ("12", "car", 0.25)
    assert read.box == (10, 20.5, 31, 41)
    assert (read.truncated, read.occluded, read.crowd, read.ignored) == (True, False, True, False)
    assert read.segmentation == encode_mask(mask_HW)


def test_scalabel_polygons_with_curves(tmp_path: Path) -> None:
    square = {"vertices": [[0, 0], [4, 0], [4, 4], [0, 4]], "types": "LLLL", "closed": True}
    arch = {"vertices": [[0, 4], [0, 0], [8, 0], [8, 4]], "types": "LCCC", "closed": True}
    (frame,) = read_scalabel(write(tmp_path / "a.json", frames(label(poly2d=[square, arch]))))
    straight, curved = frame.labels[0].segmentation
    assert straight == [0, 0, 4, 0, 4, 4, 0, 4]
    points = np.reshape(curved, (-1, 2))
    assert points[0].tolist() == [0, 4] and points[-1].tolist() == [8, 4]
    assert points[len(points) // 2].tolist() == [4, 1]  # the middle of the curve, not the control points' height
    assert points[:, 1].min() == 1


def test_scalabel_containers_and_order(tmp_path: Path) -> None:
    root = {
        "frames": frames(name="b2", videoName="b", frameIndex=2),
        "config": {"imageSize": {"width": 8, "height": 6}},
    }
    root["frames"] += frames(name="b0", videoName="b", frameIndex=None, labels=None, size={"width": 4, "height": 3})
    write(tmp_path / "2.json", root)
    write(tmp_path / "1.json", frames())
    videos = videos_of(read_scalabel(tmp_path))
    assert {name: [frame.name for frame in members] for name, members in videos.items()} == {
        "a": ["a-0000001.jpg"],
        "b": ["b0", "b2"],
    }
    assert [frame.size for frame in videos["b"]] == [(3, 4), (6, 8)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"videos": []}, "'frames' is null, expected a list"),
        (None, "is null, expected a list of frames"),
        (["x"], "frames[0]: is a text, expected an object"),
        (frames(name=None), "name is None, expected a text"),
        (frames(videoName=3), "videoName is 3, expected a text"),
        (frames(frameIndex=-1), "frameIndex is -1"),
        (frames(labels={}), "labels is an object, expected a list"),
        (frames(size={"width": 0, "height": 4}), "size is {'width': 0"),
        (frames(label(id=None)), "labels[0]: id is None"),
        (frames(label(category=None)), "category is None"),
        (frames(label(score="high")), "score is 'high'"),
        (frames(label(attributes={"crowd": "false"})), "truncated, occluded, crowd, ignored are None, None, 'false'"),
        (frames(label(box2d={"x1": 1, "y1": 2, "x2": 3})), "box2d is {'x1': 1"),
        (frames(label(box2d={"x1": 9, "y1": 2, "x2": 3, "y2": 4})), "its corners are swapped"),
        (frames(label(rle={"counts": [1, 2], "size": [6, 8]})), "rle is {'counts': [1, 2]"),
        (frames(label(rle={"counts": "0", "size": [6, "8"]})), "rle is {'counts': '0'"),
        (frames(label(poly2d=[{"vertices": [[0, 0], [1, 1]], "types": "LL", "closed": True}])), "vertices are"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LCC", "closed": True}])), "types are 'LCC'"),
        (frames(label(poly2d=[{"vertices": [[0, 0]] * 3, "types": "LLL", "closed": False}])), "a line has no area"),
    ],
)
def test_scalabel_problems_are_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match="a.json") as error:
        read_scalabel(write(tmp_path / "a.json", value))
    assert message in str(error.value)


def test_scalabel_reports_all_problems_of_all_files(tmp_path: Path) -> None:
    write(tmp_path / "1.json", frames(label(id=None), label(category=1)))
    (tmp_path / "2.json").write_text('[{"name": "x"')
    with pytest.raises(DataError) as error:
        read_scalabel(tmp_path)
    assert len(error.value.problems) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no JSON file"):
        read_scalabel(tmp_path / "empty")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_box_of_runs_is_the_box_of_pixels(share: float) -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        height, width = random.integers(1, 9, 2).tolist()
        mask_HW = random.random((height, width)) < share
        np.testing.assert_array_equal(rle_box(encode_mask(mask_HW), height, width), mask_box(mask_HW))
    with pytest.raises(DataError, match="a.json: label 3: the RLE"):
        rle_box({"size": [2, 2], "counts": [5]}, 2, 2, file="a.json", record="label 3")


HEIGHT, WIDTH = 12, 16


def publish(root: Path, *, boxes: bool = True, masks: bool = True) -> None:
    """Two videos of two frames in the published folders: labels as RLE, polygons, bitmasks and boxes alike."""
    blank = np.zeros((HEIGHT, WIDTH), np.int32)
    for video, length in (("b-2", 2), ("a-1", 1)):
        frames = []
        for t in range(length):
            name = f"{video}-{t + 1:07d}"
            labels, category_HW, attributes_HW, id_HW = [], blank.copy(), blank.copy(), blank.copy()
            # id, name, bitmask class and attributes, x1 y1 x2 y2
            objects = [("11", "motor", 7, 0, (1 + t, 2, 5 + t, 6)), ("12", "trailer", 4, IGNORED, (8, 8, 16, 12))]
            objects += [("13", "person", 1, CROWD, (9, 0, 12, 3))] if t == 0 else []
            for number, category, place, bits, (x1, y1, x2, y2) in objects:
                mask_HW = np.zeros((HEIGHT, WIDTH), bool)
                mask_HW[y1:y2, x1:x2] = True
                entry = {"id": number, "category": category, "attributes": {"crowd": bits == CROWD}}
                entry |= {"box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}} if boxes else {}
                entry |= {"rle": encode_mask(mask_HW)} if masks else {}
                labels.append(entry)
                id_HW[mask_HW], category_HW[mask_HW], attributes_HW[mask_HW] = int(number), place, bits
            frames.append({"name": f"{name}.jpg", "videoName": video, "frameIndex": t, "labels": labels})
            write_bitmask(
                root / FOLDERS["bitmasks"] / "train" / video / f"{name}.png", category_HW, attributes_HW, id_HW
            )
            picture = root / "images" / "seg_track_20" / "train" / video / f"{name}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
        file = root / FOLDERS["rles"] / "train" / f"{video}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, {"frames": frames, "config": {"imageSize": {"width": WIDTH, "height": HEIGHT}}})


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


def test_boxes_outside_their_picture_are_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / FOLDERS["boxes"]).mkdir(parents=True)
    outside = label(id="8", box2d={"x1": 2000, "y1": 0, "x2": 2010, "y2": 9})
    write(tmp_path / FOLDERS["boxes"] / "box_track_train.json", frames(label(), outside))
    dataset = load_bdd100k(tmp_path)
    assert len(dataset.videos[0].tracks) == 1
    assert dataset.notes == ("1 boxes outside their picture, left out",)


def test_a_video_in_two_files_and_all_problems_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = tmp_path / FOLDERS["boxes"] / "train"
    folder.mkdir(parents=True)
    write(folder / "1.json", frames(label()))
    write(folder / "2.json", frames(label(category="boat")))
    (folder / "3.json").write_text("[")
    with pytest.raises(DataError) as error:
        load_bdd100k(tmp_path)
    told = [f"{Path(problem.file).name}: {problem.problem}" for problem in error.value.problems]
    assert told[:2] == ["2.json: is in another file, too", "2.json: category is 'boat'"]
    assert len(told) == 3 and told[2].startswith("3.json: ends in the middle")


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


def test_test_split_has_pictures_only(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "images" / "seg_track_20" / "train").rename(tmp_path / "images" / "seg_track_20" / "test")
    dataset = load_bdd100k(tmp_path, "test")
    assert [(video.id, video.name, video.length, video.tracks) for video in dataset.videos] == [
        (1, "a-1", 1, ()),
        (2, "b-2", 2, ()),
    ]
    with pytest.raises(DataError, match="has no labels of split 'val' in labels/seg_track_20/rles, "):
        load_bdd100k(tmp_path, "val")


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
