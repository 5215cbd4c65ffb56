"""Every published data set's format there and back: written, checked, trained on from boxes, predicted, evaluated."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from layouts import publish
from mfvis.cli import main
from mfvis.data.datasets import DATASETS, parse_spec
from mfvis.train.checkpoint import load_model

TINY = ["--preset", "test", "--train.steps", "2", "--clip.short-sides", "32"]


@pytest.mark.parametrize("name", list(DATASETS))
def test_check_train_predict_evaluate(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = publish(name, tmp_path)
    data = f"{name}:{tmp_path}"
    assert main(["data", "check", data]) == 0
    assert "no problem" in capsys.readouterr().out

    run = str(tmp_path / "run")
    assert main(["train", *TINY, "--data", data, "--out", run]) == 0
    _, categories, config = load_model(run)
    assert categories == DATASETS[name].categories and config.supervision == "boxes"

    found = tmp_path / "found"
    assert main(["predict", data, "--checkpoint", run, "--out", str(found), "--device", "cpu"]) == 0
    results = json.loads((found / "results.json").read_text())
    videos = parse_spec(data).load("valid").videos
    assert {result["video_id"] for result in results} == {video.id for video in videos}
    assert {result["category_id"] for result in results} <= {category.id for category in categories}
    with zipfile.ZipFile(found / "results.zip") as archive:
        assert archive.namelist() == ["results.json"]
    kind, other = ("image", "video") if name == "coco" else ("video", "image")
    overlays = {f"{video.name}.{'jpg' if name == 'coco' else 'mp4'}" for video in videos}
    assert {file.name for file in found.iterdir() if file.suffix in (".jpg", ".mp4")} == overlays
    printed = capsys.readouterr().out
    assert f"{len(videos)} overlay {kind}s to {found}" in printed and f"overlay {other}" not in printed
    assert (", bdd100k.json and" in printed) == (found / "bdd100k.json").exists() == (name == "bdd100k-mots")

    out = tmp_path / "metrics.json"
    assert main(["eval", str(found / "results.json"), "--data", str(answers), "--out", str(out)]) == 0
    assert "AP" in capsys.readouterr().out
    assert json.loads(out.read_text())
    if name == "bdd100k-mots":
        assert main(["eval", str(found / "bdd100k.json"), "--data", str(answers), "--out", str(out)]) == 0
        assert "mMOTSA" in capsys.readouterr().out


def test_what_is_published_without_annotations_cannot_be_evaluated_or_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("ovis", tmp_path)
    assert main(["train", *TINY, "--data", f"ovis:{tmp_path}@split=valid", "--out", str(tmp_path / "run")]) == 2
    assert "no video has a box" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[]")
    assert main(["eval", str(tmp_path / "results.json"), "--data", f"ovis:{tmp_path}"]) == 2
    assert "masks" in capsys.readouterr().err
