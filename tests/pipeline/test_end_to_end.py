"""The commands one after another, as a user types them, with a model of a few thousand parameters on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mfvis.cli import main
from mfvis.train.checkpoint import load_model


@pytest.mark.slow
def test_train_resume_predict_and_evaluate(
    demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_json, val_json = map(str, demo_data)
    run, found = tmp_path / "run", tmp_path / "found"
    train = ["train", "--preset", "test", "--data", train_json, "--out", str(run)]

    assert main(train) == 0
    last = run / "checkpoints" / "last"
    assert last.resolve().name == "000006"
    model, categories, config = load_model(run)
    assert sum(p.numel() for p in model.parameters()) < 50_000
    weights = (last / "model.safetensors").read_bytes()

    # As if killed between the two checkpoints: the second half is trained once more, to the same weights.
    last.unlink()
    last.symlink_to("000003")
    assert main([*train, "--resume"]) == 0
    assert last.resolve().name == "000006"
    assert (last / "model.safetensors").read_bytes() == weights

    predict = ["predict", val_json, "--checkpoint", str(run), "--out", str(found), "--infer.short-side", "64"]
    assert main(predict) == 0
    results = json.loads((found / "results.json").read_text())
    videos = {video["id"] for video in json.loads(Path(val_json).read_text())["videos"]}
    assert {result["video_id"] for result in results} == videos
    assert {result["category_id"] for result in results} <= {category.id for category in categories}
    assert list(found.glob("*.mp4"))

    capsys.readouterr()
    metrics = tmp_path / "metrics.json"
    assert main(["eval", str(found / "results.json"), "--data", val_json, "--out", str(metrics)]) == 0
    assert "AP" in capsys.readouterr().out
    assert 0 <= json.loads(metrics.read_text())["AP"] <= 1
    assert config.supervision == "boxes"
