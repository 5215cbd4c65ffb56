"""Segmentation tracking of BDD100K: the command in either form, and each fault of their files named."""

from __future__ import annotations

import json

import pytest
from mfvis.data.bdd100k import load_bdd100k
from mfvis.errors import DataError
from mfvis.eval.bitmask_tracks import read_bitmask_tracks
from mfvis.eval.config import EvalConfig
from mfvis.eval.mots import evaluate_mots
from mfvis.eval.run import run
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from mots_cases import A, B, Thing, flat, one_video, rectangle, scalabel_frames, write_bitmasks, write_scalabel
from PIL import Image
from pytest import approx


def test_the_command_takes_either_form_and_writes_all_numbers(tmp_path, capsys):
    case = one_video(([Thing(1, 3, A), Thing(2, 1, B)], [Thing(4, 3, A)]))
    annotated, predicted = write_scalabel(tmp_path, case)
    by_runs = run(EvalConfig(predicted, str(annotated), tmp_path / "metrics.json"))
    printed = capsys.readouterr().out
    assert "mMOTSA 12.5   mMOTSP 12.5   mIDF1 12.5   IDSw 0" in printed
    assert "HOTA" in printed
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["mMOTSA"] == written["mMOTA"] == written["BDD100K"]["MOTA"]["AVERAGE"] == 12.5
    assert written["BDD100K"]["MOTA"]["bus"] is None
    assert written["TrackEval"]["HOTA"]["car"] == 1
    assert written["TrackEval"]["HOTA(0)"]["cls_comb_cls_av"] == approx(1 / 8)
    annotated, predicted = write_bitmasks(tmp_path / "bits", case)
    by_images = run(EvalConfig(predicted, str(annotated)))
    assert flat(by_images) == approx(flat(by_runs), nan_ok=True)


def test_the_command_finds_the_labels_in_the_published_folders(tmp_path):
    case = one_video(([Thing(1, 3, A)], [Thing(4, 3, A)]))
    _, predicted = write_bitmasks(tmp_path, case)
    labels = tmp_path / "bdd100k" / "labels" / "seg_track_20"
    (labels / "bitmasks").mkdir(parents=True)
    (tmp_path / "annotated").rename(labels / "bitmasks" / "val")
    metrics = run(EvalConfig(predicted, f"bdd100k-mots:{tmp_path}"))
    assert metrics.clear["car"].MOTA == 100
    with pytest.raises(DataError, match="has no labels/seg_track_20/bitmasks/train"):
        run(EvalConfig(predicted, f"bdd100k-mots:{tmp_path}@split=train"))


def test_results_of_one_form_are_not_compared_with_annotations_of_another(tmp_path):
    case = one_video(([Thing(1, 3, A)], [Thing(4, 3, A)]))
    annotated, _ = write_scalabel(tmp_path, case)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match="are BDD100K's, the results are not"):
        run(EvalConfig(tmp_path / "results.json", str(annotated)))


def test_scalabel_frames_are_paired_by_their_index(tmp_path):
    case = one_video(([Thing(1, 3, A)], [Thing(1, 3, A)]), ([Thing(1, 3, B)], [Thing(1, 3, B)]))
    annotated, predicted = write_scalabel(tmp_path, case)
    predicted.write_text(json.dumps(scalabel_frames(case, 1)[::-1]))
    assert evaluate_mots(read_scalabel_tracks(predicted, annotated)).clear["car"].MOTA == 100


@pytest.mark.parametrize(
    ("side", "edit", "message"),
    [
        (1, lambda frames: frames[0]["labels"][0].update(category="dragon"), "category 'dragon' is unknown"),
        (1, lambda frames: frames[0]["labels"][0].update(id="x1"), "its id is not a whole number"),
        (0, lambda frames: frames[0]["labels"][0].update(id=str(2**31)), "does not fit into 32 bits"),
        (1, lambda frames: frames[0].update(videoName="other"), "video other: is not annotated"),
        (1, lambda frames: frames.pop(), "has 1 frame, 2 are annotated"),
        (1, lambda frames: frames[0].update(frameIndex=7), "or their frameIndex differ"),
        (0, lambda frames: frames[0].pop("videoName"), "has no videoName"),
        (1, lambda frames: frames[0]["labels"].append(frames[0]["labels"][0]), "occurs twice in this frame"),
        (1, lambda frames: frames[0]["labels"][0]["rle"].update(size=[32, 24]), r"the mask's size is \[32, 24\]"),
        (1, lambda frames: frames[0]["labels"][0]["rle"].update(counts="12"), "runs are damaged"),
        (
            0,
            lambda frames: frames[0]["labels"][0].update(
                rle=None, poly2d=[{"vertices": [[0, 0], [5, 0], [5, 5]], "types": "LLL", "closed": True}]
            ),
            "is a polygon",
        ),
    ],
)
def test_each_fault_of_scalabel_files_is_named(tmp_path, side, edit, message):
    case = one_video(([Thing(1, 3, A)], [Thing(1, 3, A)]), ([Thing(1, 3, A)], [Thing(1, 3, A)]))
    paths = write_scalabel(tmp_path, case)
    frames = json.loads(paths[side].read_text())
    edit(frames)
    paths[side].write_text(json.dumps(frames))
    with pytest.raises(DataError, match=message):
        read_scalabel_tracks(paths[1], paths[0])


def test_all_faults_are_reported_together(tmp_path):
    paths = write_scalabel(tmp_path, one_video(([Thing(1, 3, A)], [Thing(1, 3, A), Thing(2, 3, B)])))
    frames = json.loads(paths[1].read_text())
    frames[0]["labels"][0]["rle"]["counts"] = "12"
    frames[0]["labels"][1]["category"] = "dragon"
    paths[1].write_text(json.dumps(frames))
    with pytest.raises(DataError) as caught:
        read_scalabel_tracks(paths[1], paths[0])
    assert len(caught.value.problems) == 2


def test_bitmasks_that_do_not_fit_are_named(tmp_path):
    frame = ([Thing(1, 3, A)], [Thing(1, 3, A)])
    annotated, predicted = write_bitmasks(tmp_path, {"a": [frame, frame], "b": [frame]})
    (predicted / "a" / "a-0000002.png").unlink()
    Image.new("RGBA", (8, 8)).save(predicted / "b" / "b-0000001.png")
    with pytest.raises(DataError, match=r"a-0000002.png.*all-zero PNG"):
        read_bitmask_tracks(predicted, annotated)
    Image.new("RGBA", (32, 24)).save(predicted / "a" / "a-0000002.png")
    with pytest.raises(DataError, match=r"is \(8, 8\), the annotation \(32, 24\)"):
        read_bitmask_tracks(predicted, annotated)
    (predicted / "b" / "b-0000001.png").unlink()
    with pytest.raises(DataError, match="has 1 video, the annotations 2; in one only: b"):
        read_bitmask_tracks(predicted, annotated)


def test_hidden_files_are_no_bitmasks(tmp_path):
    """A Mac leaves a ``._NAME`` next to each file of an archive, and file managers leave thumbnails."""
    annotated, predicted = write_bitmasks(tmp_path, one_video(([Thing(1, 3, A)], [Thing(1, 3, A)])))
    for folder in (annotated, predicted, predicted / ".thumbnails"):
        (folder / "video").mkdir(parents=True, exist_ok=True)
        (folder / "video" / "._video-0000001.png").write_bytes(b"\0\5\x16\7Mac OS X")
        (folder / ".x.png").write_bytes(b"")
    (predicted / ".thumbnails" / "video" / "a.png").write_bytes(b"")
    metrics = run(EvalConfig(predicted, str(annotated)))
    assert metrics.clear["car"].MOTA == 100
    published = tmp_path / "bdd100k/labels/seg_track_20/bitmasks"
    published.mkdir(parents=True)
    annotated.rename(published / "train")
    (published / "train" / ".video").mkdir()
    (published / "train" / ".video" / "a.png").write_bytes(b"")
    dataset = load_bdd100k(tmp_path, labels="bitmasks")
    assert [(video.name, video.length, len(video.tracks)) for video in dataset.videos] == [("video", 1, 1)]


def test_more_than_a_hundred_predicted_ids_are_refused(tmp_path):
    many = [Thing(n + 1, 3, rectangle(n % 32, n // 32, n % 32 + 1, n // 32 + 1)) for n in range(101)]
    annotated, predicted = write_bitmasks(tmp_path, one_video(([], many)))
    with pytest.raises(DataError, match="has 101 ids, at most 100"):
        read_bitmask_tracks(predicted, annotated)
    annotated, predicted = write_bitmasks(tmp_path / "b", one_video(([], many[:100])))
    assert evaluate_mots(read_bitmask_tracks(predicted, annotated)).clear["car"].FP == 100
