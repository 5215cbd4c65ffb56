"""Mixed precision on a model of a few thousand parameters; the same lines run on a GPU."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mfvis.data.clips import ClipRequest, collate
from mfvis.errors import TrainingError
from mfvis.losses.criterion import Criterion
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train import checkpoint, replay
from mfvis.train.config import Config
from mfvis.train.engine import clip_datasets, train
from mfvis.train.step import forward
from test_train import assert_same_checkpoint, configure


def mixed(data: Path, out: Path, amp: str, **changes: object) -> Config:
    config = configure(data, out)
    return replace(config, train=replace(config.train, amp=amp, **changes))


def weighted(config: Config, classification: float) -> Config:
    """The gradients of the class scores, in the precision of the model, made as large as one likes."""
    return replace(config, loss=replace(config.loss, classification=classification))


def read_log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def scaler_state(kept: Path) -> dict[str, float]:
    return checkpoint.read_tensors(kept / "training.pt")["scaler"]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_resume_equals_uninterrupted_bit_for_bit(amp: str, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(mixed(demo_data[0], whole, amp))
    shutil.copytree(whole, halves, symlinks=True)
    shutil.rmtree(halves / "checkpoints" / "000006")
    (halves / "checkpoints" / "last").unlink()
    (halves / "checkpoints" / "last").symlink_to("000003")
    last = train(replace(mixed(demo_data[0], halves, amp), resume=True))
    assert_same_checkpoint(last, whole / "checkpoints" / "000006")
    assert scaler_state(last) == scaler_state(whole / "checkpoints" / "000006")
    assert [record["total"] for record in read_log(halves)] == [record["total"] for record in read_log(whole)]


def test_a_step_whose_scaled_gradient_overflows_is_skipped(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = weighted(mixed(demo_data[0], tmp_path, "fp16", steps=1), 100.0)
    trained, categories, _ = checkpoint.load_model(train(config))
    torch.manual_seed(config.train.seed)
    born = VideoMask2Former(config.model, len(categories)).state_dict()
    assert all(torch.equal(value, born[name]) for name, value in trained.state_dict().items())
    assert scaler_state(tmp_path / "checkpoints" / "000001")["scale"] == 2**15
    assert read_log(tmp_path)[0]["skipped"] == 1 and read_log(tmp_path)[0]["grad_norm"] == 0

    train(replace(config, out=tmp_path / "longer", train=replace(config.train, steps=12)))
    skipped = [record["skipped"] for record in read_log(tmp_path / "longer")]
    assert skipped[0] == 1 and 0 in skipped[-4:], "it scales less until most steps do not overflow"
    assert all((record["grad_norm"] > 0) != record["skipped"] for record in read_log(tmp_path / "longer"))


def test_a_gradient_that_overflows_without_a_scale_stops(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = weighted(mixed(demo_data[0], tmp_path, "fp16", steps=40), 1e30)
    with pytest.raises(TrainingError, match=r"step 16: the gradient is not finite.*\n.*mfvis replay"):
        train(config)


def test_a_loss_that_is_not_finite_is_found_again_by_replay(
    demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It overflows only in float16, so a replay in another precision would find nothing."""
    config = mixed(demo_data[0], tmp_path, "fp16", lr=1e3, clip_norm=0.0, backbone_lr_multiplier=1.0, steps=30)
    with pytest.raises(TrainingError, match="loss is not finite") as stopped:
        train(config)
    kept = Path(str(stopped.value).split("mfvis replay ")[1].split("\n")[0])
    assert not torch.isfinite(replay.run(replay.ReplayConfig(kept)).total)
    assert "weights that are not finite: none" in capsys.readouterr().out
    description = json.loads((kept / "checkpoint.json").read_text())
    description["config"]["train"]["amp"] = "no"
    (kept / "checkpoint.json").write_text(json.dumps(description))
    assert torch.isfinite(replay.run(replay.ReplayConfig(kept)).total)


def gradients_of_a_step(data: Path, out: Path, amp: str) -> dict[str, torch.Tensor]:
    config = configure(data, out)
    clips = clip_datasets(config)[0]
    torch.manual_seed(0)
    model = VideoMask2Former(config.model, len(clips.dataset.categories)).train()
    batch = collate([clips[ClipRequest(0, seed=0, epoch=0, position=0)]])
    forward(model, Criterion(config.loss, len(clips.dataset.categories)), batch, 10, False, amp).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_loses_no_gradient(amp: str, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    """It keeps the weights that it casts; those first cast for something without a gradient must be trained as well."""
    kept = gradients_of_a_step(demo_data[0], tmp_path, amp)
    torch.set_autocast_cache_enabled(False)
    try:
        cast_again = gradients_of_a_step(demo_data[0], tmp_path, amp)
    finally:
        torch.set_autocast_cache_enabled(True)
    assert all(torch.equal(kept[name], gradient) for name, gradient in cast_again.items())


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_gradient_is_that_of_float32(amp: str, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    """Compares all gradients as one vector. Those of single parameters are unstable, in float32, too: weights moved by
    1e-4 of their size change the sign on which a query's attention depends, and turn some gradients by half."""
    of = {name: gradients_of_a_step(demo_data[0], tmp_path, name) for name in ("no", amp)}
    exact, mixed = (torch.cat([gradient.flatten() for gradient in of[name].values()]) for name in ("no", amp))
    assert torch.cosine_similarity(exact, mixed, dim=0) > 0.95
    assert 0.9 < mixed.norm() / exact.norm() < 1.1
