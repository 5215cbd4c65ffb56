"""Errors about malformed data sets: every problem, with file, record and remedy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mfvis.cli import main
from mfvis.data.check import check_file
from mfvis.data.results import read_results
from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames, video_writer
from mfvis.data.ytvis import load_dataset
from mfvis.errors import DataError, VideoError
from mfvis.text import counted
from PIL import ExifTags, Image

SOUND: dict[str, Any] = {
    "videos": [{"id": 7, "width": 40, "height": 30, "length": 2, "file_names": ["cat/0.png", "cat/1.png"]}],
    "annotations": [{"id": 3, "video_id": 7, "category_id": 1, "bboxes": [[5, 5, 10, 10], None]}],
    "categories": [{"id": 1, "name": "cat"}],
}


def rle(area: int, height: int = 30, width: int = 40) -> dict[str, Any]:
    return {"size": [height, width], "counts": [0, area, height * width - area]}


def change(part: str, **fields: Any) -> Callable[[dict], dict]:
    """The valid file with some fields of the first record of a part changed; None removes them."""

    def apply(root: dict) -> dict:
        root[part][0] |= fields
        root[part][0] = {name: value for name, value in root[part][0].items() if value is not None}
        return root

    return apply


def again(part: str) -> Callable[[dict], dict]:
    return lambda root: root | {part: root[part] * 2}


STRUCTURE = {
    "a list at the top": (lambda root: [root], ["top level", "is a list, expected an object"]),
    "no videos": (lambda root: {"categories": []}, ["top level", "has no 'videos'"]),
    "videos as object": (lambda root: root | {"videos": {}}, ["'videos' is an object, expected a list"]),
    "video as text": (lambda root: root | {"videos": ["cat"]}, ["videos[0]", "is a text, expected an object"]),
    "no id": (change("videos", id=None), ["videos[0]", "has no 'id'"]),
    "id as text": (change("videos", id="seven"), ["videos[0]", "id is 'seven', expected an integer"]),
    "id between integers": (change("videos", id=7.5), ["videos[0]", "id is 7.5, expected an integer"]),
    "no width": (change("videos", width=None), ["videos[0]", "has no 'width'"]),
    "height of zero": (change("videos", height=0), ["video 7", "height is 0", "size of the images"]),
    "a trillion pixels": (
        change("videos", width=10**6, height=10**6),
        ["video 7", "an image of 1000000 x 1000000 pixels is more than can be worked with", "Write the true size"],
    ),
    "no file_names": (change("videos", file_names=None), ["video 7", "file_names is not a list of file names"]),
    "length against file_names": (change("videos", length=3), ["video 7", "length is 3 but file_names has 2"]),
    "a film without length": (change("videos", file_names=["a.mp4"], length=None), ["video 7", "a.mp4 but no length"]),
    "a film of a million hours": (change("videos", length=10**12), ["video 7", "length is 1000000000000"]),
    "video twice": (again("videos"), ["videos[1]", "video id 7 is a duplicate"]),
    "category twice": (again("categories"), ["categories[1]", "category id 1 is a duplicate"]),
    "annotation twice": (again("annotations"), ["annotations[1]", "annotation id 3 is a duplicate"]),
    "no categories": (lambda root: root | {"categories": None}, ["has no 'categories'"]),
    "unknown video": (change("annotations", video_id=8), ["annotation 3", "video 8 is unknown"]),
    "unknown category": (change("annotations", category_id=5), ["annotation 3", "category 5 is unknown, known are 1"]),
    "no boxes": (change("annotations", bboxes=None), ["annotation 3", "has no bboxes", "or null per frame"]),
    "masks only": (
        change("annotations", bboxes=None, segmentations=[rle(4), None]),
        ["annotation 3", "has masks but no bboxes", "boxes=masks"],
    ),
    "too few boxes": (
        change("annotations", bboxes=[None]),
        ["annotation 3", "bboxes has 1 entry, the video 2 frames"],
    ),
    "too many masks": (
        change("annotations", segmentations=[None] * 3),
        ["annotation 3", "segmentations has 3 entries, the video 2 frames"],
    ),
    "too many areas": (change("annotations", areas=[1, 2, 3]), ["annotation 3", "areas has 3 entries"]),
    "box of three": (
        change("annotations", bboxes=[[1, 2, 3], None]),
        ["annotation 3, frame 0", "the box is [1, 2, 3]"],
    ),
    "box of texts": (
        change("annotations", bboxes=[None, ["a"] * 4]),
        ["annotation 3, frame 1", "[x, y, width, height]"],
    ),
    "box of NaN": (change("annotations", bboxes=[[1, 2, float("nan"), 4], None]), ["frame 0", "is not finite"]),
    "box of negative size": (
        change("annotations", bboxes=[[1, 2, -3, 4], None]),
        ["annotation 3, frame 0", "the box [1, 2, -3, 4] has a negative size", "[x, y, width, height]"],
    ),
    "boxes as shares": (
        change("annotations", bboxes=[[0.1, 0.2, 0.3, 0.8], [0, 0, 1, 1]]),
        ["video 7", "no box is as large as a pixel: are these shares of the image? Multiply by its size"],
    ),
    "box outside": (
        change("annotations", bboxes=[[35, 2, 10, 4], None]),
        ["annotation 3, frame 0", "the box [35, 2, 10, 4] reaches outside the image, 40 x 30", "Clip it"],
    ),
    "box far outside": (
        change("annotations", bboxes=[[99, 2, 10, 4], None]),
        ["frame 0", "reaches outside the image"],
    ),
    "crowd of two": (change("annotations", iscrowd=2), ["annotation 3", "iscrowd is 2, expected 0 or 1"]),
}

# What published files and common converters write: read, with a note of what was made of it.
READABLE = {
    # all annotations of YouTube-VIS 2019, whatever the video's length
    "length of 1": (
        change("annotations", length=1),
        ["annotations whose length is not that of their video, which counts (1)"],
    ),
    "size of another": (
        change("annotations", width=1, height=2),
        [f"annotations whose {side} is not that of their video, which counts (1)" for side in ("width", "height")],
    ),
    "the video's fields": (change("annotations", length=2, width=40, height=30), []),
    "ids of floats": (change("annotations", id=3.0, video_id=7.0, category_id=1.0), []),
    "sizes of floats": (change("videos", width=40.0, height=30.0, length=2.0), []),
    "ids as texts": (
        change("annotations", id="3", video_id="7"),
        ["ids and sizes that are texts, read as the numbers that they say (2)"],
    ),
    "iscrowd of null": (change("annotations", iscrowd=False), []),
    "fps of zero": (change("videos", fps=0), ["videos whose fps is not a positive number, which is not used (1)"]),
    "category without name": (change("categories", name=None), ["categories without a name, called by their ids (1)"]),
    "absent as zeros": (
        change("annotations", bboxes=[[5, 5, 10, 10], [0, 0, 0, 0]]),
        ["boxes without size, taken as absent (1)"],
    ),
    "absent as NaN": (
        change("annotations", bboxes=[[5, 5, 10, 10], [float("nan")] * 4]),
        ["boxes of NaN, taken as absent (1)"],
    ),
    "absent as nothing": (change("annotations", bboxes=[[5, 5, 10, 10], []]), []),
    "null lists": (change("annotations", segmentations=None, areas=None), []),
    "other keys": (change("annotations", tracker="x", attributes={"a": []}), []),
    "backslashes": (
        change("videos", file_names=["cat\\0.png", "cat\\1.png"]),
        ["videos whose file names have backslashes, read as folders (1)"],
    ),
    "annotation of id 0": (change("annotations", id=0), ["annotations of id 0: number them from 1"]),
}

TEXTS = {
    "empty": ("", ["is empty", "Write the file again"]),
    "not JSON": ("id,x,y\n1,2,3", ["is not JSON (line 1, column 1", "mfvis data import makes one"]),
    "COCO-VID": (
        json.dumps({"videos": [{"id": 1, "name": "a"}], "images": [{"id": 1, "video_id": 1}], "annotations": []}),
        ["is COCO-VID, whose images name their videos", "mfvis data import"],
    ),
    "cut off": (json.dumps(SOUND)[:90], ["ends in the middle of the JSON"]),
    "a comma too many": ('{"videos": [],}', ["is not JSON (line 1"]),
    "not text": (b"\xff\xd8\xff\xe0\x00", ["is not a text file in UTF-8"]),
}

MASKS = {
    "a number": (5, "the mask is a number, expected polygons or an RLE"),
    "no counts": ({"size": [30, 40]}, "expected polygons or an RLE with size and counts"),
    "another size": (rle(4, 40, 30), "the mask's size is [40, 30], the video's is [30, 40] (height, width)"),
    "runs too short": ({"size": [30, 40], "counts": [0, 5]}, "the RLE runs are damaged or not of 30 x 40 pixels"),
    "negative runs": ({"size": [30, 40], "counts": [-5, 1205]}, "the RLE runs are damaged"),
    "string cut off": ({"size": [30, 40], "counts": "`h"}, "the RLE string's runs are damaged"),
    "string of another alphabet": ({"size": [30, 40], "counts": "ä!"}, "the RLE string's runs are damaged"),
    "string that overshoots": ({"size": [30, 40], "counts": "oooooo1"}, "the RLE string's runs are damaged"),
    "counts as number": ({"size": [30, 40], "counts": 7}, "counts are a number"),
    "polygon of two points": ([[1, 2, 3, 4]], "no polygon has three or more points"),
    "polygon of half a point": ([[1, 2, 3, 4, 5, 6, 7]], "polygon 0 is not a list of points"),
    "polygons far beyond": (
        [[s * 1e7 for k in range(200) for s in ((-1) ** k, (-1) ** (k // 2))]],
        "the outlines of its polygons are longer than 2097152 pixels, too long to be drawn. Clip",
    ),
    "many polygons beyond": ([[-9e4, -9e4, 9e4, -9e4, 9e4, 9e4]] * 6, "are longer than 2097152 pixels"),
    "polygon of NaN": ([[1, 2, 3, 4, 5, float("nan")]], "polygon 0 is not"),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_malformed_annotations(tmp_path: Path, case: str) -> None:
    make, fragments = STRUCTURE[case]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(make(copy.deepcopy(SOUND))))
    with pytest.raises(DataError) as error:
        load_dataset(path)
    assert len(error.value.problems) == 1, "one fault, one problem"
    for fragment in [str(path), *fragments]:
        assert fragment in str(error.value)
    assert error.value.problems[0] in check_file(path)


@pytest.mark.parametrize("case", READABLE)
def test_what_published_files_have_is_read_and_noted(tmp_path: Path, case: str) -> None:
    make, notes = READABLE[case]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(make(copy.deepcopy(SOUND))))
    dataset = load_dataset(path)
    (video,) = dataset.videos
    assert (video.id, video.width, video.height, video.length, video.name, video.fps) == (7, 40, 30, 2, "cat", None)
    assert video.frames == (tmp_path / "cat/0.png", tmp_path / "cat/1.png")
    (track,) = video.tracks
    assert track.boxes_T4.tolist() == [[5, 5, 15, 15], [0, 0, 0, 0]] and track.category_id == 1
    assert len(dataset.notes) == len(notes)
    assert all(note in line for note, line in zip(notes, dataset.notes, strict=True))


def test_some_boxes_outside_are_clipped_and_noted_but_most_are_a_mistake(tmp_path: Path) -> None:
    """Boxes of whole objects, seen or not, reach outside here and there; boxes of two corners nearly all do."""
    root = copy.deepcopy(SOUND)
    root["videos"][0]["file_names"] = [f"cat/{t}.png" for t in range(4)]
    boxes = [[30, 20, 20, 5], [5, 5, 10, 10], [6, 5, 10, 10], [60, 5, 10, 10]]
    root["videos"][0]["length"] = 4
    root["annotations"][0]["bboxes"] = [*boxes[:3], None]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(root))
    dataset = load_dataset(path)
    assert dataset.videos[0].tracks[0].boxes_T4[0].tolist() == [30, 20, 40, 25]
    assert dataset.notes == (f"{path}: boxes that reached outside their image, clipped to it (1)",)
    root["annotations"][0]["bboxes"] = boxes
    path.write_text(json.dumps(root))
    with pytest.raises(DataError, match="2 problems") as error:
        load_dataset(path)
    assert [problem.record for problem in error.value.problems] == ["annotation 3, frame 0", "annotation 3, frame 3"]
    assert load_dataset(path, lenient=True).videos[0].tracks[0].present_T.tolist() == [True, True, True, False]


@pytest.mark.parametrize("case", TEXTS)
def test_malformed_files(tmp_path: Path, case: str) -> None:
    text, fragments = TEXTS[case]
    path = tmp_path / "instances.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        load_dataset(path)
    assert all(fragment in str(error.value) for fragment in [str(path), *fragments])


def test_file_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "none.json")
    (tmp_path / "some.json").write_text(json.dumps(SOUND))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_dataset(tmp_path / "some.json", tmp_path / "nowhere")


@pytest.mark.parametrize("case", MASKS)
def test_malformed_masks(case: str) -> None:
    segmentation, fragment = MASKS[case]
    with pytest.raises(DataError) as error:
        decode_mask(segmentation, 30, 40, file="f.json", record="annotation 3, frame 0")
    assert fragment in str(error.value)
    assert "f.json: annotation 3, frame 0" in str(error.value)


def test_all_problems_come_together(tmp_path: Path) -> None:
    root = copy.deepcopy(SOUND)
    root["videos"].append({"id": 8, "width": 40, "height": 0, "file_names": ["a/0.png"]})
    root["annotations"][0] |= {"bboxes": [[1, 1, -2, 1], [90, 1, 5, 5]], "category_id": 9}
    # The video of this one is broken itself, which is reported there and not here again.
    root["annotations"].append({"id": 4, "video_id": 8, "category_id": 1, "bboxes": [None]})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(root))
    with pytest.raises(DataError) as error:
        load_dataset(path)
    records = [problem.record for problem in error.value.problems]
    assert records == ["video 8", "annotation 3", "annotation 3, frame 0", "annotation 3, frame 1"]
    assert "4 problems" in str(error.value)
    assert all(problem.remedy for problem in error.value.problems)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A valid data set with its two images."""
    (tmp_path / "cat").mkdir()
    for frame in range(2):
        noise = np.random.default_rng(frame).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"cat/{frame}.png")
    (tmp_path / "instances.json").write_text(json.dumps(SOUND))
    return tmp_path / "instances.json"


def only_problem(path: Path) -> str:
    problems = check_file(path)
    assert len(problems) == 1
    return str(problems[0])


def test_check_sound(images: Path) -> None:
    assert check_file(images) == []


def test_check_missing_frame(images: Path) -> None:
    (images.parent / "cat/1.png").unlink()
    assert "1.png: video 7, frame 1: the frame's file does not exist" in only_problem(images)


def test_check_no_frames_at_all(images: Path) -> None:
    for frame in range(2):
        (images.parent / f"cat/{frame}.png").unlink()
    assert "none of its 2 frame files exists. Copy them there, or name the right frames folder" in only_problem(images)


def test_check_frame_cut_off(images: Path) -> None:
    file = images.parent / "cat/0.png"
    file.write_bytes(file.read_bytes()[:600])
    assert "0.png: video 7, frame 0: the image cannot be decoded" in only_problem(images)


def test_check_frame_of_another_size(images: Path) -> None:
    Image.new("RGB", (30, 40)).save(images.parent / "cat/1.png")
    assert "the image is 30 x 40, the video is declared 40 x 30" in only_problem(images)


def test_check_frame_that_its_exif_turns(images: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    Image.new("RGB", (40, 30)).save(images.parent / "cat/1.png", exif=exif)
    assert "the image is 30 x 40 (turned as its EXIF says), the video is declared 40 x 30" in only_problem(images)
    with pytest.raises(VideoError, match="frame 1 is 30 x 40 pixels, but video cat is 40 x 30"):
        read_frames(load_dataset(images).videos[0], [1])


def test_check_frame_of_32_bits(images: Path) -> None:
    Image.new("F", (40, 30)).save(images.parent / "cat/1.tiff")
    images.write_text(images.read_text().replace("cat/1.png", "cat/1.tiff"))
    assert "1.tiff: video 7, frame 1: the image has 32 bits a pixel. Save it with 8" in only_problem(images)


def test_check_film(images: Path) -> None:
    root = change("videos", file_names=["film.mp4"])(copy.deepcopy(SOUND))
    images.write_text(json.dumps(root))
    assert "film.mp4: video 7: the video file does not exist" in only_problem(images)
    (images.parent / "film.mp4").write_bytes(b"no film at all")
    assert "film.mp4: video 7: not a video file, or a damaged one" in only_problem(images)


@pytest.mark.parametrize(
    ("frames", "remedy"), [(1, "give the whole video"), (2, None), (3, "cut the file to the frames that have entries")]
)
def test_check_length_of_a_film(images: Path, frames: int, remedy: str | None) -> None:
    images.write_text(json.dumps(change("videos", file_names=["film.mp4"])(copy.deepcopy(SOUND))))
    with video_writer(images.parent / "film.mp4", 10, (30, 40)) as write:
        for _ in range(frames):
            write(np.zeros((30, 40, 3), np.uint8))
    if remedy is None:
        assert check_file(images) == []
    else:
        problem = f"the video file has {counted(frames, 'frame')}, the video is declared to have 2"
        assert f"film.mp4: video 7: {problem}. Correct length, or {remedy}" in only_problem(images)


@pytest.mark.parametrize(
    ("segmentations", "fragment"),
    [
        ([{"size": [3, 4], "counts": [12]}, None], "annotation 3, frame 0: the mask's size is [3, 4]"),
        ([rle(3), None], "the box [5.0, 5.0, 10.0, 10.0] and the mask's box [0.0, 0.0, 1.0, 3.0] disagree"),
        (
            [[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], None],
            "frame 0: the polygons hold no pixel, but the box is [5.0, 5.0, 10.0, 10.0]. Write points",
        ),
        ([None, rle(3)], "annotation 3, frame 1: has a mask but no box. Write the mask's box, [0.0, 0.0, 1.0, 3.0]"),
    ],
)
def test_check_masks(images: Path, segmentations: list, fragment: str) -> None:
    images.write_text(json.dumps(change("annotations", segmentations=segmentations)(copy.deepcopy(SOUND))))
    assert fragment in only_problem(images)


@pytest.mark.parametrize(
    ("results", "fragment"),
    [
        (SOUND, "is an object, expected a list"),
        ([{"video_id": 9, "category_id": 1}], "results[0]: video 9 is unknown"),
        ([{"video_id": 7, "category_id": 1}], "results[0]: score is None"),
        ([{"video_id": 7, "category_id": 1, "score": 0.5}], "results[0]: has no segmentations"),
        (
            [{"video_id": 7, "category_id": 1, "score": 0.5, "segmentations": [None]}],
            "has 1 entry, the video 2 frames",
        ),
        (
            [{"video_id": 7, "category_id": 1, "score": 0.5, "segmentations": [3, None]}],
            "frame 0: the mask is a number",
        ),
    ],
)
def test_malformed_results(images: Path, results: Any, fragment: str) -> None:
    path = images.with_name("results.json")
    path.write_text(json.dumps(results))
    with pytest.raises(DataError) as error:
        read_results(path, load_dataset(images))
    assert len(error.value.problems) == 1
    assert fragment in str(error.value)


def test_check_command(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(images)]) == 0
    assert "1 video, 1 track, 1 box, no problem" in capsys.readouterr().out
    (images.parent / "cat/0.png").unlink()
    (images.parent / "cat/1.png").write_text("no image")
    assert main(["data", "check", str(images)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "frame 0: the frame's file does not exist" in lines[0] and "frame 1: the image cannot" in lines[1]
    assert lines[2:] == ["2 problems"]


def test_demo_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--videos", "1", "--val-videos", "1", "--frames", "2", "--height", "32", "--width", "48"]
    assert main(["data", "demo", str(tmp_path / "demo"), *flags]) == 0
    assert "train.json (1 video)" in capsys.readouterr().out
    assert check_file(tmp_path / "demo/val.json") == []
    assert main(["data", "demo", str(tmp_path), "--height", "3", "--min-objects", "5"]) == 2
    message = capsys.readouterr().err
    assert (
        "height is 3; expected 32 or more" in message
        and "max_objects is 4; expected min_objects, 5, or more" in message
    )


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "a.mp4", 1, 7, 10**400, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "size"]), inner, max_size=2),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.integers(0, 60), JUNK), min_size=1, max_size=3), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_gets_past_the_reader(tmp_path: Path, damage: list[tuple[int, Any]], from_masks: bool) -> None:
    """Whatever stands at any place of the file: a valid data set, or a DataError; no other exception."""
    root = copy.deepcopy(SOUND)
    root["annotations"][0] |= {"segmentations": [rle(4), [[1, 1, 5, 1, 5, 5]]], "areas": [4, 1], "length": 2}
    root["videos"][0] |= {"length": 2, "fps": 5}
    for place, junk in damage:
        nodes = list(places(root))
        holder, key = nodes[place % len(nodes)]
        holder[key] = junk
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(root))
    try:
        dataset = load_dataset(path, boxes_from_masks=from_masks)
    except DataError as error:
        assert error.problems
        return
    for video in dataset.videos:
        for track in video.tracks:
            assert track.boxes_T4.shape == (video.length, 4) and np.isfinite(track.boxes_T4).all()
            assert (track.boxes_T4 >= 0).all() and (track.boxes_T4[:, 2:] <= [video.width, video.height]).all()
            dataset.label_of(track.category_id)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) of a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from places(inner)
