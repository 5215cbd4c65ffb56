"""`benchmarks/study.py`: lists of variants, runs that resume and are shared, measures and a report, of tiny models."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mfvis.cli import main
from mfvis.data.rle import decode_mask
from PIL import Image

FOLDER = Path(__file__).parents[2] / "benchmarks"
STUDIES = sorted((FOLDER / "studies").glob("*.yaml"))
TINY = """
preset: test
about: Nothing but that it runs.
seeds: [0]
reference: boxes
supervised: masks
start: {train: {steps: 1}}
settings: {train: {steps: 2, checkpoint_every: 1}, clip: {short_sides: [32]}}
variants:
- {name: boxes, settings: {loss: {temporal: {weight: 0}}}}
- {name: + TK}
- {name: masks, settings: {supervision: masks}}
- {name: half of them, videos: 0.5}
"""
SELF_TRAINING = """
preset: test
about: Nothing but that it runs.
seeds: [0]
reference: half
settings: {train: {steps: 2, checkpoint_every: 1}, clip: {short_sides: [32]}}
predict: {max_tracks: 2}
variants:
- {name: half, videos: 0.5, self_training: {score: 0}}
"""


def test_a_child_is_measured(study, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('said'); bytearray(60 << 20); sys.exit(3)"]
    with (tmp_path / "log").open("w") as log:
        status, cost = study._measured(command, log, {})
    assert status == 3 and (tmp_path / "log").read_text() == "said\n"
    assert cost["cpu_seconds"] > 0 and cost["peak_gib"] > 60 / 1024


@pytest.mark.usefixtures("in_process")
def test_a_study_trains_what_is_missing_and_reports_it(
    study, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import study_report

    (tmp_path / "tiny.yaml").write_text(TINY)
    # With the bootstrap's 1000 samples, the test would take twice as long.
    monkeypatch.setattr(study_report, "differences", partial(study_report.differences, draws=10))
    command = [
        "study.py",
        tmp_path / "tiny.yaml",
        "--data",
        data,
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    study.main()
    assert capsys.readouterr().out.count("done") == 6

    report = json.loads((tmp_path / "out" / "tiny.json").read_text())
    starts = {"start: filled boxes", "start: filled boxes, 50 %"}
    assert set(report["runs"]) == {"boxes", "+ TK", "masks", "half of them"} | starts
    assert 0 <= report["runs"]["masks"]["0"]["j"] <= 1 and report["cost"]["boxes"][0]["steps"] == 2
    assert set(report["differences"]) == {"+ TK", "masks", "half of them"} | starts
    text = (tmp_path / "out" / "tiny.md").read_text()
    assert "Nothing but that it runs." in text and "Unfinished" not in text and "Share of what `masks` reaches" in text
    assert "<polyline" in (tmp_path / "out" / "tiny_curves.svg").read_text()
    with Image.open(tmp_path / "out" / "tiny_frames.png") as sheet:
        assert sheet.width > 5 * 200

    # One run was killed behind its first step, of another the results are missing; the others stay as they are.
    folders = {run.variant: run.folder for run in study.runs_of(study.read_study(command[1]), data, None, command[5])}
    before = {name: (folder / "results.json").stat().st_mtime_ns for name, folder in folders.items()}
    shutil.rmtree(folders["boxes"] / "checkpoints" / "000002")
    last = folders["boxes"] / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("000001")
    whole = (folders["boxes"] / "results.json").read_bytes()
    (folders["boxes"] / "results.json").unlink()
    (folders["masks"] / "results.json").unlink()
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--known"])
    study.main()
    known = json.loads((tmp_path / "out" / "tiny.json").read_text())["known"]
    assert set(known) == set(report["runs"]) and len(known["masks"]) == len(report["runs"]["masks"])
    videos = {result["video_id"] for result in json.loads((folders["masks"] / "known.json").read_text())}
    assert videos <= {video["id"] for video in json.loads((data / "train_masks.json").read_text())["videos"]}
    assert "The same on the training videos" in (tmp_path / "out" / "tiny.md").read_text()
    after = {name: (folder / "results.json").stat().st_mtime_ns for name, folder in folders.items()}
    assert {name for name in before if before[name] != after[name]} == {"boxes", "masks"}
    assert (folders["boxes"] / "results.json").read_bytes() == whole


@pytest.mark.usefixtures("in_process")
def test_variants_train_from_the_masks_of_label_mode(
    study, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = (
        "label: {num_models: 1, shared_steps: 0, short_side: 32, clip: 2, overlays: false, "
        "optim: {steps: 1, warmup: 0}, backbone: {name: tiny, weights: null, frozen: false}, "
        "propagation: {weight: 0}, refine: {steps: 0}}\n"
    )
    head = TINY[: TINY.index("- {name: boxes")].replace("start: {train: {steps: 1}}\n", "")
    head = head.replace("reference: boxes", "reference: from labels")
    variant = "- {name: from labels, labels: true}\n"
    (tmp_path / "tiny.yaml").write_text(label + head + variant)
    read = study.read_study(tmp_path / "tiny.yaml")
    command = ["study.py", tmp_path / "tiny.yaml", "--data", data, "--runs", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    study.main()

    masks = read.labels(tmp_path / "runs")
    assert json.loads(masks.read_text())["videos"] == json.loads((data / "train.json").read_text())["videos"]
    labeled = json.loads(masks.read_text())["annotations"]
    given = json.loads((data / "train.json").read_text())["annotations"]
    assert [annotation["bboxes"] for annotation in labeled] == [annotation["bboxes"] for annotation in given]
    assert any(mask for annotation in labeled for mask in annotation["segmentations"])
    (run,) = runs(study, tmp_path / "tiny.yaml")
    folder = tmp_path / "runs" / run.folder.name
    assert json.loads((folder / "train.json").read_text())["annotations"] == labeled
    assert "supervision: masks" in (folder / "settings.yaml").read_text()

    # A second run finds the labels as they are.
    before = masks.stat().st_mtime_ns
    study.main()
    assert masks.stat().st_mtime_ns == before
    (tmp_path / "tiny.yaml").write_text(head + variant)
    with pytest.raises(ValueError, match="need the key `label`"):
        study.read_study(tmp_path / "tiny.yaml")


@pytest.mark.usefixtures("in_process")
def test_a_model_labels_the_videos_without_boxes_for_a_second_training(
    study, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SELF_TRAINING)
    monkeypatch.setattr(sys, "argv", ["study.py", str(file), "--data", str(data), "--runs", str(tmp_path / "runs")])
    study.main()
    assert capsys.readouterr().out.splitlines() == ["half: teacher, seed 0 done", "half, seed 0 done"]

    teacher, student = study.runs_of(study.read_study(file), data, None, tmp_path / "runs")
    boxes = json.loads((data / "train.json").read_text())
    first, second = (json.loads((run.folder / "train.json").read_text()) for run in (teacher, student))
    annotated = {video["id"] for video in first["videos"]}
    assert len(annotated) == 2 and second["videos"] == boxes["videos"] and len(second["videos"]) == 4
    kept = len(first["annotations"])
    assert second["annotations"][:kept] == first["annotations"]
    predicted = second["annotations"][kept:]
    results = json.loads(teacher.known_results.read_text())
    assert [entry["bboxes"] for entry in predicted] == [
        result["bboxes"] for result in results if result["video_id"] not in annotated and any(result["bboxes"])
    ]
    assert len({entry["id"] for entry in second["annotations"]}) == len(second["annotations"])

    # Killed behind its first step, the second training goes on with the same tracks.
    whole = student.results.read_bytes()
    student.results.unlink()
    shutil.rmtree(student.folder / "checkpoints" / "000002")
    last = student.folder / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("000001")
    study.main()
    assert capsys.readouterr().out.count("was done") == 1 and student.results.read_bytes() == whole
    assert json.loads((student.folder / "train.json").read_text()) == second

    file.write_text(SELF_TRAINING.replace("score: 0", "score: 1"))
    with pytest.raises(
        SystemExit, match=r"half, seed 0: no predicted track has a score of 1, the best has 0\.\d+; lower"
    ):
        study.main()
    teacher.results.unlink()
    teacher.known_results.unlink()
    with pytest.raises(RuntimeError, match="'half: teacher', which labels its other videos, is not finished"):
        study.complete(study.runs_of(study.read_study(file), data, None, tmp_path / "runs")[1], data, 1, None)


def test_only_confident_tracks_of_other_videos_become_annotations(study) -> None:
    from study_data import of_videos, with_predicted_videos

    root = {
        "videos": [{"id": id} for id in (1, 2, 3)],
        "annotations": [{"id": id, "video_id": id, "bboxes": [[0, 0, 1, 1]]} for id in (1, 2, 3)],
    }

    def track(video: int, score: float, box: list[int] | None) -> dict:
        return {
            "video_id": video,
            "category_id": 7,
            "score": score,
            "bboxes": [box],
            "segmentations": [{"counts": "x"}],
        }

    box = [1, 2, 3, 4]
    results = [track(1, 0.9, box), track(2, 0.5, box), track(2, 0.4, box), track(2, 0.9, None), track(3, 0.4, box)]
    both = with_predicted_videos(of_videos(root, {1}), root, results, 0.5)
    assert [video["id"] for video in both["videos"]] == [1, 2], "video 3 has no confident track"
    (given, predicted) = both["annotations"]
    assert given == root["annotations"][0]
    assert predicted["video_id"] == 2 and predicted["id"] == 4 and predicted["category_id"] == 7
    assert predicted["bboxes"] == [box] and predicted["segmentations"] == [{"counts": "x"}]
    with pytest.raises(ValueError, match=r"a score of 0\.95, the best has 0\.900"):
        with_predicted_videos(of_videos(root, {1}), root, results, 0.95)


def test_a_variant_labels_videos_with_the_run_of_the_same_share(study, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SELF_TRAINING.replace("seeds: [0]", "seeds: [0, 1]") + "- {name: plain, videos: 0.5}\n")
    found = runs(study, file)
    assert [(run.variant, run.seed) for run in found] == [("plain", 0), ("half", 0), ("plain", 1), ("half", 1)]
    assert [run.teacher and run.teacher.folder for run in found] == [None, found[0].folder, None, found[2].folder]
    groups = study._in_order(found)
    assert [[run.variant for run in group] for group in groups] == [["plain", "plain"], ["half", "half"]]
    for wrong, message in (
        ("{name: half, self_training: {score: 0.5}}", "set `videos` to a share below 1"),
        ("{name: half, videos: 0.5, self_training: {least: 0.5}}", "expected the least score of a track"),
        ("{name: half, videos: 0.5, self_training: {score: 5}}", "expected the least score of a track"),
    ):
        file.write_text(SELF_TRAINING[: SELF_TRAINING.index("- {")] + f"- {wrong}\n")
        with pytest.raises(ValueError, match=message):
            study.read_study(file)


@pytest.mark.usefixtures("in_process")
def test_a_run_that_another_process_trains_is_left_to_it(study, data: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "tiny.yaml").write_text(TINY)
    run = study.runs_of(study.read_study(tmp_path / "tiny.yaml"), data, None, tmp_path)[1]
    run.folder.mkdir()
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert study.complete(run, data, 1, None) == "is being trained by another process"
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_that_is_shipped_builds_its_runs(study, file: Path, tmp_path: Path) -> None:
    (tmp_path / "train_masks.json").touch()
    read = study.read_study(file)
    runs = study.runs_of(read, tmp_path, Path("weights.safetensors"), tmp_path)
    starts = [run for run in runs if run.filled]
    assert len({run.folder for run in runs}) == len(runs) == len(read.seeds) * len(read.variants) + len(starts)
    assert {run.start for run in runs} - {None} == {run.folder for run in starts}
    labeled = {variant.name for variant in read.variants if variant.labels}

    def data_of(run) -> Path:
        if run.variant in labeled:
            return read.labels(tmp_path)
        masks = run.config["supervision"] == "masks" and not run.filled
        return tmp_path / ("train_masks.json" if masks else "train.json")

    assert read.about and all(run.config["data"] == [str(data_of(run))] for run in runs)


def test_a_run_is_found_by_what_it_depends_on(study, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TINY)
    (tmp_path / "b.yaml").write_text(
        "{preset: test, about: x, reference: r, seeds: [0], variants: [{name: r, settings: {train: {steps: 2, "
        "checkpoint_every: 1}, clip: {short_sides: [32]}, loss: {temporal: {radius: 1}}}}], start: {train: {steps: 1}}}"
    )
    (with_tk,) = (run for run in runs(study, tmp_path / "a.yaml") if run.variant == "+ TK")
    start, same = runs(study, tmp_path / "b.yaml")
    assert same.folder == with_tk.folder and same.start == with_tk.start == start.folder
    assert with_tk.folder in [run.folder for run in runs(study, tmp_path / "a.yaml", Path("elsewhere"))]
    assert len({run.folder for run in runs(study, tmp_path / "a.yaml")}) == 6
    (tmp_path / "b.yaml").write_text((tmp_path / "b.yaml").read_text().replace("start: {train: {steps: 1}}", ""))
    (separate,) = runs(study, tmp_path / "b.yaml")
    assert separate.start is None and separate.folder != same.folder


def runs(study, file: Path, data: Path = Path("data")):
    return study.runs_of(study.read_study(file), data, None, Path("runs"))


def test_a_study_with_mistakes_is_refused(study, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(TINY.replace("reference: boxes", "reference: boxen"))
    with pytest.raises(ValueError, match="reference is 'boxen'; expected one of boxes"):
        study.read_study(file)
    file.write_text(TINY + "seed: 3\n")
    with pytest.raises(ValueError, match="unknown key seed"):
        study.read_study(file)
    file.write_text(TINY.replace("videos: 0.5", "video: 0.5"))
    with pytest.raises(ValueError, match="variant half of them: unknown key video; there are labels, name"):
        study.read_study(file)
    file.write_text(TINY.replace("name: masks", "name: boxes"))
    with pytest.raises(ValueError, match="two variants are called boxes"):
        study.read_study(file)


def test_paired_differences_draw_sources_not_videos(study) -> None:
    from mfvis.types import VideoDataset
    from study_measure import Truth, differences

    def run(gain: float) -> dict:
        matches = {"scores": [0.9], "matched": [[1]] * 10, "ignored": [[0]] * 10, "positives": 1}
        j = {1: 0.5, 2: 0.5, 3: 0.5 + gain}
        tracks = [{"video": video, "track": video, "j": value} for video, value in j.items()]
        return {"tracks": tracks, "matches": {str(video): matches for video in j}}

    sources = {1: "a", 2: "a", 3: "b"}
    truth = Truth(VideoDataset(Path(), (), ()), dict.fromkeys(sources, "all"), sources)
    found = differences([run(0.3), run(0.6)], [run(0.0), run(0.0)], truth, draws=200)
    assert found["j"].seeds == pytest.approx((0.1, 0.2)) and found["j"].mean == pytest.approx(0.15)
    # Of two sources either both, one twice or the other twice: the interval goes from none to all of the gain.
    assert (found["j"].low, found["j"].high) == pytest.approx((0, 0.45))
    assert found["j_sources"].mean == pytest.approx(0.225)
    assert found["agnostic_ap"] == type(found["j"])(0, 0, 0, (0, 0))
    assert np.isfinite(found["j"].mean)


def test_matches_of_a_moving_square_are_counted(study) -> None:
    """A textured object on a textured ground moves two cells; its box is twice as wide as the object."""
    import torch
    from mfvis.losses.temporal import TemporalConfig
    from study_matches import _pair, row

    texture = torch.Generator().manual_seed(0)
    ground, thing = (100 * torch.rand(3, 16, size, generator=texture) for size in (32, 4))
    lab, masks = ground.expand(1, 2, -1, -1, -1).clone(), torch.zeros(1, 2, 16, 32, dtype=torch.bool)
    for t, x in enumerate((10, 12)):
        lab[0, t, :, :, x : x + 4] = thing
        masks[0, t, :, x : x + 4] = True
    boxes = torch.tensor([[[8.0, 0, 16, 16], [10.0, 0, 18, 16]]])
    found = _pair(lab, masks, boxes, TemporalConfig(patch_size=1, radius=3, k=1, threshold=0.9))
    assert found["counted"] == 16 * 10 and found["object"] == 16 * 4 and found["background"] == 16 * 4
    # The object and the ground that stays in sight are found again; the two columns that it covers next are not.
    assert found["matched"] == found["matches"] == 16 * 8 and found["wrong"] == found["misled"] == 0
    assert found["static"] == 16 * 4
    assert found["supervised"] == 16 * 2  # columns 8 and 9, which the second box leaves out
    assert row("x", [found]) == "| x | 80.0 % | 0.0 % | 50.0 % | 50.0 % | 50.0 % | 0.0 % |"


def test_gradients_of_the_terms_against_the_true_masks(
    study, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from study_gradients import TERMS, gradients

    assert main(["train", "--preset", "test", "--data", str(data / "train.json"), "--out", str(tmp_path / "run")]) == 0
    found = gradients(tmp_path / "run", data / "train_masks.json", batches=1)
    assert sum(found["size"].values()) == pytest.approx(1)
    assert found["object"]["projection"] > 0.5, "a projection raises the logits of boxes that are not filled"
    assert all(-1 <= found[kind][term] <= 1 for kind in ("object", "background") for term in TERMS)


def test_boxes_are_filled_as_masks(study) -> None:
    from study_data import with_filled_boxes

    root = {
        "videos": [{"id": 1, "height": 6, "width": 8}],
        "annotations": [{"video_id": 1, "bboxes": [[1, 2, 3, 4], None]}],
    }
    filled = with_filled_boxes(root)
    first, absent = filled["annotations"][0]["segmentations"]
    mask = decode_mask(first, 6, 8, file="", record="")
    assert absent is None and mask.sum() == 12 and mask[2:6, 1:4].all()
