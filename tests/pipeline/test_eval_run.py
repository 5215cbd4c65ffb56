"""The command: results files and labelled data sets, and each fault of theirs named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mfvis.errors import DataError
from mfvis.eval.run import EvalConfig, run
from PIL import Image
from pytest import approx
from ytvis_cases import rectangle, rle


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, dict]:
    """A data set of one video with masks on the disk, and a correct result for it."""
    mask = rectangle(2, 3, 9, 12)
    (tmp_path / "JPEGImages" / "a").mkdir(parents=True)
    for t in range(2):
        Image.new("RGB", (20, 20)).save(tmp_path / "JPEGImages" / "a" / f"{t:05d}.jpg")
    names = [f"a/{t:05d}.jpg" for t in range(2)]
    annotation = {"id": 1, "video_id": 4, "category_id": 2, "iscrowd": 0, "bboxes": [[2, 3, 7, 9], None]}
    annotation |= {"segmentations": [rle(mask), None], "areas": [63, None], "height": 20, "width": 20, "length": 2}
    content = {
        "videos": [{"id": 4, "width": 20, "height": 20, "length": 2, "file_names": names}],
        "categories": [{"id": 2, "name": "thing"}],
        "annotations": [annotation],
    }
    data = tmp_path / "val.json"
    data.write_text(json.dumps(content))
    good = {"video_id": 4, "category_id": 2, "score": 0.5, "segmentations": [rle(mask), None]}
    return data, tmp_path / "results.json", good


def test_eval_of_a_results_file_prints_the_table_and_writes_the_numbers(files, capsys, tmp_path):
    data, results, good = files
    results.write_text(json.dumps([good]))
    metrics = run(EvalConfig(results, str(data), tmp_path / "metrics.json"))
    assert metrics.ap == approx(1)
    printed = capsys.readouterr().out
    assert " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000" in printed
    assert "thing" in printed
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == approx(1)


def test_what_the_reference_program_would_stop_at_is_noted(files, capsys, tmp_path):
    data, results, good = files
    content = json.loads(data.read_text())
    del content["annotations"][0]["iscrowd"], content["annotations"][0]["areas"]
    data.write_text(json.dumps(content))
    results.write_text(json.dumps([good]))
    assert run(EvalConfig(results, str(data), tmp_path / "metrics.json")).ap == approx(1)
    assert "1 of 1 annotations have no iscrowd" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "metrics.json").read_text())["notes"]) == 2


def test_eval_of_a_labelled_data_set_prints_mean_j(files, capsys):
    data, results, _ = files
    results.write_text(data.read_text())
    assert run(EvalConfig(results, str(data))).j == 1
    assert "filled box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "high"}, "score is 'high', expected a number"),
        ({"score": float("nan")}, "score is nan"),
        ({"video_id": 5}, "video 5 is unknown"),
        ({"category_id": 0}, "category 0 is unknown"),
        ({"segmentations": [None]}, "segmentations has 1 entries, the video 2 frames"),
        ({"segmentations": [None, {"size": [5, 5], "counts": "0"}]}, r"frame 1: the mask's size is \[5, 5\]"),
        ({"segmentations": [None, {"counts": "0"}]}, "frame 1: the mask is an object, expected polygons or an RLE"),
        ({"segmentations": [None, {"size": [20, 20], "counts": "12"}]}, "frame 1: the RLE"),
        ({"segmentations": [None, [[0, 0, 5, 0, 5, 5]]]}, "frame 1: the mask is not a compressed RLE, but polygons"),
        (
            {"segmentations": [None, {"size": [20, 20], "counts": [0, 400]}]},
            "frame 1: the mask is not a compressed RLE",
        ),
    ],
)
@pytest.mark.parametrize("boxes", [{}, {"bboxes": [[2, 3, 7, 9], None]}])
def test_malformed_results(files, change, message, boxes):
    data, results, good = files
    results.write_text(json.dumps([good | boxes | change]))
    with pytest.raises(DataError, match=message):
        run(EvalConfig(results, str(data)))


def test_all_faults_of_a_results_file_are_reported_together(files):
    data, results, good = files
    results.write_text(json.dumps([good | {"score": None}, 7, {"score": 1}, good | {"video_id": 9, "category_id": 3}]))
    with pytest.raises(DataError) as caught:
        run(EvalConfig(results, str(data)))
    assert len(caught.value.problems) >= 5


def write_coco(folder: Path) -> None:
    """Annotations and results of a picture whose id is that of the video of `files`."""
    image = {"id": 4, "width": 20, "height": 20, "file_name": "a.jpg"}
    annotation = {"id": 1, "image_id": 4, "category_id": 1, "bbox": [2, 3, 7, 9], "area": 63, "iscrowd": 0}
    annotation |= {"segmentation": rle(rectangle(2, 3, 9, 12))}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "pictures.json").write_text(json.dumps([annotation | {"score": 1}]))


@pytest.mark.parametrize(
    ("results", "data", "message"),
    [
        ("pictures.json", "val.json", r"holds COCO results, .*val.json has videos. Give its results, .*coco:PATH"),
        ("instances.json", "val.json", "is COCO, with images and no videos. Write coco:"),
        ("pictures.json", "instances.json", "is COCO, with images and no videos. Write coco:.*instances.json if"),
        ("instances.json", "coco:instances.json", "is an object, expected a list: .* Give results: image_id"),
        ("pictures.json", "coco:val.json", "has videos, so that it is not COCO's. Write .*val.json without coco:"),
        ("results.json", "coco:instances.json", "segmentations has 2 entries"),
        ("results.json", "results.json", "is a list, expected an object. Give an annotation file, not results"),
        ("results.json", ".", "is a folder, expected the JSON of the true masks. Name the file, or NAME:"),
        ("JPEGImages", "val.json", "has neither bitmasks .PNG. nor Scalabel JSON in it. Name the file of the results"),
        ("val.zip", "val.json", "is not a text file in UTF-8. Give a JSON file"),
    ],
)
def test_a_file_of_the_wrong_kind_gets_one_problem(files, results, data, message, tmp_path, monkeypatch):
    _, path, good = files
    path.write_text(json.dumps([good | {"category_id": 2 if data == "val.json" else 1}]))
    write_coco(tmp_path)
    (tmp_path / "val.zip").write_bytes(b"PK\x03\x04\xff\xfe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        run(EvalConfig(Path(results), data))
    assert len(caught.value.problems) == 1


def test_labels_of_other_videos_are_not_measured(files):
    """Ids are counted from 1 in every file: by them alone any two would fit."""
    data, results, _ = files
    results.write_text(data.read_text().replace('"a/', '"b/'))
    with pytest.raises(DataError, match=r"results.json: video 4: is 'b', in .*val.json it is 'a'. Label the same"):
        run(EvalConfig(results, str(data)))


def test_a_byte_order_mark_does_not_hide_a_labelled_data_set(files):
    data, results, _ = files
    results.write_bytes(b"\xef\xbb\xbf" + data.read_bytes())
    assert run(EvalConfig(results, str(data))).j == 1


@pytest.mark.parametrize(
    ("text", "message"), [("[]", "holds no result"), ("{", "ends in the middle of the JSON"), (None, "does not exist")]
)
def test_a_results_file_that_holds_nothing_is_refused(files, text, message):
    data, results, _ = files
    if text is not None:
        results.write_text(text)
    with pytest.raises(DataError, match=message):
        run(EvalConfig(results, str(data)))
