"""The command: results files and labeled data sets, and each fault of theirs named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mfvis.errors import DataError
from mfvis.eval.config import EvalConfig
from mfvis.eval.run import run
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


def test_eval_of_a_labeled_data_set_prints_mean_j(files, capsys):
    data, results, _ = files
    results.write_text(data.read_text())
    assert run(EvalConfig(results, str(data))).j == 1
    assert "filled box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "high"}, "score is 'high', expected a number"),
        ({"score": float("nan")}, "score is nan"),
        ({"score": 10**400}, "score is <an integer of 1329 bits>"),
        ({"score": True}, "score is True, expected a number"),
        ({"video_id": 5}, "video 5 is unknown"),
        ({"segmentations": [None]}, "segmentations has 1 entry, the video 2 frames"),
        ({"segmentations": [None, {"size": [5, 5], "counts": "0"}]}, r"frame 1: the mask's size is \[5, 5\]"),
        ({"segmentations": [None, {"counts": "0"}]}, "frame 1: the mask is an object, expected polygons or an RLE"),
        ({"segmentations": [None, {"size": [20, 20], "counts": "12"}]}, "frame 1: the RLE"),
        ({"segmentations": [None, [[0, 0, 5, 0, 5]]]}, "frame 1: polygon 0 is not a list of points"),
        ({"segmentations": [None, {"size": [20, 20], "counts": [0, 401]}]}, "frame 1: the RLE runs are damaged"),
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
    """Annotations and results of an image whose id is that of the video of `files`."""
    image = {"id": 4, "width": 20, "height": 20, "file_name": "a.jpg"}
    annotation = {"id": 1, "image_id": 4, "category_id": 2, "bbox": [2, 3, 7, 9], "area": 63, "iscrowd": 0}
    annotation |= {"segmentation": rle(rectangle(2, 3, 9, 12))}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "bicycle"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "images.json").write_text(json.dumps([annotation | {"score": 1}]))


@pytest.mark.parametrize(
    ("results", "data", "message"),
    [
        ("images.json", "val.json", r"holds COCO results, .*val.json has videos. Give its results, .* as --data"),
        ("instances.json", "val.json", "is COCO, with images and no videos. Give a YouTube-VIS JSON"),
        ("instances.json", "instances.json", "is an object, expected a list: .* Give results: image_id"),
        ("instances.json", "coco:instances.json", "is an object, expected a list: .* Give results: image_id"),
        ("images.json", "coco:val.json", "has videos, so that it is not COCO's. Write .*val.json without coco:"),
        ("results.json", "coco:instances.json", "segmentations has 2 entries"),
        ("results.json", "results.json", "is a list, expected an object. Give an annotation file, not results"),
        ("results.json", ".", "is a folder, expected the JSON of the true masks. Name the file, or NAME:"),
        ("JPEGImages", "val.json", "has neither bitmasks .PNG. nor Scalabel JSON in it. Name the file of the results"),
        ("val.zip", "val.json", "is not a text file in UTF-8. Give a JSON file"),
    ],
)
def test_a_file_of_the_wrong_kind_gets_one_problem(files, results, data, message, tmp_path, monkeypatch):
    _, path, good = files
    path.write_text(json.dumps([good]))
    write_coco(tmp_path)
    (tmp_path / "val.zip").write_bytes(b"PK\x03\x04\xff\xfe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        run(EvalConfig(Path(results), data))
    assert len(caught.value.problems) == 1


def test_images_in_coco_s_layout_are_evaluated_with_any_classes(files, tmp_path):
    """COCO's sizes tell its evaluation from that of videos: 63 pixels are small there, and so they are here."""
    write_coco(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["area"] = 40.0**2  # medium to COCO, small to YouTube-VIS
    named = run(EvalConfig(tmp_path / "images.json", f"coco:{tmp_path}/instances.json"))
    content["categories"] = [{"id": 2, "name": "pothole"}]
    (tmp_path / "own.json").write_text(json.dumps(content))
    metrics = run(EvalConfig(tmp_path / "images.json", str(tmp_path / "own.json")))
    assert metrics.ap == metrics.ap_medium == named.ap_small == approx(1) and metrics.ap_small == -1
    assert [entry.name for entry in metrics.classes] == ["pothole"]
    with pytest.raises(DataError, match="'pothole', in coco it is 'bicycle'. Name another data set, or none: --data"):
        run(EvalConfig(tmp_path / "images.json", f"coco:{tmp_path}/own.json"))


def test_results_of_unknown_categories_are_left_out_and_counted(files, capsys):
    """As the reference program drops them; YouTube-VIS' own ids begin with 1, and many write 0."""
    data, results, good = files
    results.write_text(json.dumps([good, good | {"category_id": 0}, good | {"category_id": 7}] * 2))
    metrics = run(EvalConfig(results, str(data)))
    assert metrics.ap == approx(1)
    assert metrics.notes[0] == (
        f"{results}: results of categories that {data} does not have (0, 7), left out as the field's programs do (4)"
    )
    results.write_text(json.dumps([good | {"category_id": 0}]))
    assert run(EvalConfig(results, str(data))).ap == 0
    assert "results of categories" in capsys.readouterr().out


def test_categories_match_by_name_where_the_results_have_names(files, capsys):
    data, results, good = files
    names = results.with_name("categories.json")

    def evaluated(*categories: tuple[int, str]) -> tuple[float, tuple[str, ...]]:
        names.write_text(json.dumps([{"id": id, "name": name} for id, name in categories]))
        metrics = run(EvalConfig(results, str(data)))
        return metrics.ap, metrics.notes

    results.write_text(json.dumps([good]))
    assert evaluated((2, "thing")) == (approx(1), ())
    # The id is that of another class here; the name counts.
    ap, notes = evaluated((2, "dog"), (5, "thing"))
    assert ap == 0 and "results of categories that" in notes[0] and "(2 dog), left out" in notes[0]
    ap, notes = evaluated((2, "Thing"), (1, "cat"))
    assert (ap, notes) == (approx(1), ())
    results.write_text(json.dumps([good | {"category_id": 7}, good | {"category_id": 2, "score": 0.1}]))
    ap, notes = evaluated((7, "thing"), (2, "dog"))
    assert ap == approx(1)
    assert notes[0].endswith(
        f"results whose category has another id in {data}, matched by name (7 thing is 2 there) (1)"
    )
    results.write_text(json.dumps([good]))
    ap, notes = evaluated((2, "Ding"))
    assert ap == approx(1) and "has none of" in notes[0] and "compared by their ids" in notes[0]
    names.write_text("{")
    assert "is damaged: categories are compared by their ids" in run(EvalConfig(results, str(data))).notes[0]


def test_an_annotation_of_id_0_is_a_false_positive_as_in_the_reference_and_noted(files, capsys):
    data, results, good = files
    data.write_text(data.read_text().replace('"id": 1,', '"id": 0,'))
    results.write_text(json.dumps([good]))
    assert run(EvalConfig(results, str(data))).ap == 0
    assert "annotations of id 0: number them from 1, as the field's programs" in capsys.readouterr().out


def test_of_thousands_of_classes_a_screen_is_printed_and_the_rest_written(files, capsys, tmp_path):
    data, results, good = files
    content = json.loads(data.read_text())
    content["categories"] += [{"id": n, "name": f"phrase {n}"} for n in range(3, 3000)]
    data.write_text(json.dumps(content))
    results.write_text(json.dumps([good, good | {"category_id": 77}]))
    metrics = run(EvalConfig(results, str(data), tmp_path / "metrics.json"))
    assert metrics.ap == approx(1) and len(metrics.classes) == 2998
    lines = capsys.readouterr().out.splitlines()
    assert lines[14].startswith(" thing ") and lines[15].startswith(" phrase 77 ")
    assert lines[17] == " 2996 classes have neither objects nor results: 2 of 2998 are used"
    assert len(lines) == 19 and lines[18] == " --out FILE.json writes the numbers of every class"
    assert len(json.loads((tmp_path / "metrics.json").read_text())["classes"]) == 2998
    results.write_text(json.dumps([good | {"category_id": n} for n in range(2, 503)]))
    run(EvalConfig(results, str(data)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == " 401 more classes than the 100 shown" and len(lines) == 12 + 2 + 100 + 4


def test_of_thousands_of_labeled_tracks_a_screen_is_printed(files, capsys, tmp_path):
    data, results, _ = files
    content = json.loads(data.read_text())
    content["annotations"] = [content["annotations"][0] | {"id": n} for n in range(1, 2001)]
    for path in (data, results):
        path.write_text(json.dumps(content))
    run(EvalConfig(results, str(data), tmp_path / "metrics.json"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 104 and lines[101].startswith(" all ")
    assert lines[-1] == " 1900 more tracks than the 100 shown; --out FILE.json writes all"
    assert len(json.loads((tmp_path / "metrics.json").read_text())["tracks"]) == 2000


def test_boxes_of_zeros_do_not_matter_where_masks_are_evaluated(files):
    data, results, good = files
    data.write_text(data.read_text().replace("[2, 3, 7, 9], null", "[0, 0, 0, 0], [0, 0, 0, 0]"))
    results.write_text(json.dumps([good | {"bboxes": [[0, 0, 0, 0]] * 2, "track_id": "a"}]))
    metrics = run(EvalConfig(results, str(data)))
    assert metrics.ap == approx(1) and metrics.notes == (f"{data}: boxes without size, taken as absent (2)",)


@pytest.mark.parametrize("mask", [[[2, 3, 9, 3, 9, 12, 2, 12]], "listed"])
def test_polygons_and_listed_runs_are_read_in_results_and_noted(files, mask):
    data, results, good = files
    runs = [2 * 20 + 3, *[9, 11] * 6, 9, 400 - 8 * 20 - 12]
    masks = [{"size": [20, 20], "counts": runs} if mask == "listed" else mask, None]
    results.write_text(json.dumps([good | {"segmentations": masks}]))
    metrics = run(EvalConfig(results, str(data)))
    assert metrics.ap == approx(1)
    assert "masks that are polygons or listed runs, which the field's programs refuse" in metrics.notes[0]


def test_labels_of_other_videos_are_not_measured(files):
    """Ids are counted from 1 in every file: by ids only, any two files would fit."""
    data, results, _ = files
    results.write_text(data.read_text().replace('"a/', '"b/'))
    with pytest.raises(DataError, match=r"results.json: video 4: is 'b', in .*val.json it is 'a'. Label the same"):
        run(EvalConfig(results, str(data)))


def test_a_byte_order_mark_does_not_hide_a_labeled_data_set(files):
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
