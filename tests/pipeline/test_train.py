"""The training loop on a model of a few thousand parameters: resume, kill, replay, supervision."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mfvis.data.clips import ClipRequest, collate
from mfvis.errors import CheckpointError, ConfigError, DataError, TrainingError
from mfvis.parsing import build, load_preset
from mfvis.train import checkpoint, replay
from mfvis.train.config import Config, accumulation_steps, summarize_schedule
from mfvis.train.engine import clip_datasets, train
from mfvis.train.optim import learning_rate, make_optimizer
from mfvis.train.optim_config import OptimConfig
from mfvis.train.step import box_prompts
from mfvis.types import Batch, ClipOrigin
from safetensors.torch import load_file
from tiny import every_mask
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

import mfvis_ext


def configure(data: Path, out: Path, **changes: object) -> Config:
    return replace(build(Config, load_preset("test") | {"data": data, "out": out}, "test"), **changes)


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Weights and optimizer equal bit for bit."""
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    first, second = (checkpoint.read_tensors(path / "training.pt") for path in (a, b))
    assert first["sampler"] == second["sampler"]
    states = [state["optimizer"]["state"] for state in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, moments in states[0].items():
        for name, value in moments.items():
            assert torch.equal(value, states[1][key][name]), (key, name)


@pytest.fixture(scope="module")
def uninterrupted(demo_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints after three and six."""
    out = tmp_path_factory.mktemp("uninterrupted")
    train(configure(demo_data[0], out))
    return out


def test_writes_checkpoints_and_log(uninterrupted: Path) -> None:
    checkpoints = uninterrupted / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000003", "000006", "last"]
    assert (checkpoints / "last").resolve().name == "000006"
    records = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    terms = ("classification", "projection", "pairwise", "temporal", "background", "mask_bce", "mask_dice")
    for record in records:
        assert record["total"] == pytest.approx(sum(record[name] for name in terms), rel=1e-5)
        assert record["mask_bce"] == record["mask_dice"] == record["background"] == 0
        assert record["projection"] > 0 and record["step_seconds"] > 0


def test_the_first_step_is_printed_at_once(
    demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(demo_data[0], tmp_path)
    train(replace(config, train=replace(config.train, log_every=4)))
    steps = [line.split("/")[0] for line in capsys.readouterr().err.splitlines() if "s/step" in line]
    assert steps == ["step 1", "step 4", "step 6"]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [4, 6], "which are the means of four steps and of two"


def test_trains_on_the_cpu_of_a_machine_with_a_gpu_and_says_why(
    demo_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mfvis_ext, "build_info", lambda: {"cuda": None})
    monkeypatch.setattr("mfvis.device.torch.cuda.is_available", lambda: True)
    pinned: list[bool] = []

    def loader(*given: object, pin_memory: bool, **options: object) -> DataLoader:
        pinned.append(pin_memory)
        return DataLoader(*given, **options)

    monkeypatch.setattr("mfvis.train.engine.DataLoader", loader)
    config = configure(demo_data[0], tmp_path / "run")
    train(replace(config, train=replace(config.train, device="auto", steps=1)))
    assert pinned == [False], "memory for the batches of a GPU"
    assert capsys.readouterr().err.count("computes on the CPU and not on the GPU") == 1


def test_what_the_loader_pins_is_the_batch(demo_data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch pins what has a method for it and leaves all else as it is, in silence."""
    clips = clip_datasets(configure(demo_data[0], Path("run")))[0]
    batch = collate([clips[ClipRequest(0, seed=0, epoch=0, position=0)]])
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    (moved,) = pin_memory([batch])
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) >= 5 and list(map(id, pinned)) == list(map(id, tensors.values()))
    for name, value in tensors.items():
        assert getattr(moved, name) is not value and torch.equal(getattr(moved, name), value)
    assert moved.masks_NTHW is None and moved.clips == batch.clips


def test_load_model_gives_the_trained_model(uninterrupted: Path, demo_data: tuple[Path, Path]) -> None:
    model, categories, config = checkpoint.load_model(uninterrupted)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) < 50_000
    assert config == configure(demo_data[0], uninterrupted)
    assert model.num_classes == len(categories)
    prediction = model(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    assert every_mask(prediction).shape == (2, 1, 6, 2, 8, 8)


def test_resume_equals_uninterrupted_bit_for_bit(
    uninterrupted: Path, demo_data: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path, symlinks=True, dirs_exist_ok=True)
    # As a process leaves it that was killed in its fifth step, while it wrote to the log.
    shutil.rmtree(tmp_path / "checkpoints" / "000006")
    (tmp_path / "checkpoints" / "last").unlink()
    (tmp_path / "checkpoints" / "last").symlink_to("000003")
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[:5]) + '{"step": 6, "to')
    last = train(configure(demo_data[0], tmp_path, resume=True))
    assert_same_checkpoint(last, uninterrupted / "checkpoints" / "000006")
    again = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in again] == [1, 2, 3, 4, 5, 6]
    assert [record["total"] for record in again] == [json.loads(line)["total"] for line in lines]


def test_finished_run_resumes_to_itself(uninterrupted: Path, demo_data: tuple[Path, Path]) -> None:
    assert train(configure(demo_data[0], uninterrupted, resume=True)).name == "000006"


@pytest.mark.slow
def test_killed_run_resumes(uninterrupted: Path, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--preset", "test", "--data", str(demo_data[0]), "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mfvis", "train", *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    log, deadline = tmp_path / "log.jsonl", time.monotonic() + 120
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 4):
        assert time.monotonic() < deadline, "the training wrote no fourth step"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = train(configure(demo_data[0], tmp_path, resume=True))
    assert_same_checkpoint(last, uninterrupted / "checkpoints" / "000006")


def test_partial_checkpoint_is_never_taken_for_one(uninterrupted: Path, tmp_path: Path) -> None:
    model, categories, config = checkpoint.load_model(uninterrupted)
    description = checkpoint.CheckpointInfo(7, config, categories)
    half = tmp_path / f".000007.{platform.node()}-999999999_0.tmp"  # a process was killed while it wrote here
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    written = checkpoint.save(tmp_path, "000007", description, model)
    checkpoint.update_last_link(written, keep=1)
    assert checkpoint.describe(checkpoint.find(tmp_path)) == description
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000007", "last"]


def test_old_checkpoints_go(uninterrupted: Path, tmp_path: Path) -> None:
    model, categories, config = checkpoint.load_model(uninterrupted)
    for step in (1, 2, 3):
        written = checkpoint.save(tmp_path, f"{step:06}", checkpoint.CheckpointInfo(step, config, categories), model)
        checkpoint.update_last_link(written, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003", "last"]


def test_masks_supervise_the_twin(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = configure(demo_data[0], tmp_path, supervision="masks")
    config = replace(config, train=replace(config.train, steps=80, schedule="constant", lr=3e-3, checkpoint_every=80))
    train(config)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(record["projection"] == record["temporal"] == 0 for record in records)
    first, last = (sum(record["total"] for record in part) / 5 for part in (records[:5], records[-5:]))
    assert last < 0.8 * first


def test_box_training_never_decodes_a_mask(
    demo_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a mask was decoded")

    monkeypatch.setattr("mfvis.data.clips.decode_mask", refuse)
    config = configure(demo_data[0], tmp_path)
    assert train(replace(config, train=replace(config.train, steps=1))).name == "000001"


def test_masks_are_asked_for_where_there_are_none(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    content = json.loads(demo_data[0].read_text())
    for annotation in content["annotations"]:
        del annotation["segmentations"]
    boxes_only = tmp_path / "boxes.json"
    boxes_only.write_text(json.dumps(content))
    frames = demo_data[0].parent / "JPEGImages"
    with pytest.raises(DataError, match="has no segmentations"):
        train(configure(boxes_only, tmp_path / "run", frames=frames, supervision="masks"))


@pytest.mark.parametrize(
    ("prompted", "trained", "untouched"), [(1.0, "prompts.", "decoder.query"), (0.0, "decoder.query", "prompts.")]
)
def test_queries_from_boxes(
    prompted: float, trained: str, untouched: str, demo_data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Steps with prompts train the prompt encoder and leave the learned queries as they are, and conversely."""
    config = configure(demo_data[0], tmp_path)
    model = replace(config.model, box_prompts=True)
    config = replace(
        config, model=model, train=replace(config.train, prompt_probability=prompted, steps=2, checkpoint_every=1)
    )
    last = train(config)
    before, after = (load_file(last.with_name(name) / "model.safetensors") for name in ("000001", "000002"))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert [name for name in after if name.startswith(trained)], "there is something to train"
    assert {name for name in after if name.startswith(trained)} <= moved
    assert [name for name in after if name.startswith(untouched)]
    assert not {name for name in moved if name.startswith(untouched)}


def test_box_prompts_keep_the_order_of_the_objects() -> None:
    boxes = torch.arange(3 * 2 * 4, dtype=torch.float32).view(3, 2, 4)
    batch = Batch(
        frames_BTCHW=torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8),
        boxes_NT4=boxes,
        labels_N=torch.tensor([0, 1, 0]),
        video_index_N=torch.tensor([1, 0, 1]),
        masks_NTHW=None,
        sizes_B2=torch.full((2, 2), 32),
        clips=(ClipOrigin(1, (0, 1), (5,)), ClipOrigin(2, (0, 1), (6, 7))),
    )
    prompts, query_N = box_prompts(batch)
    assert query_N.tolist() == [0, 0, 1]
    assert prompts.valid_BQ.tolist() == [[True, False], [True, True]]
    assert torch.equal(prompts.boxes_BQT4[batch.video_index_N, query_N], boxes)


def test_loss_that_is_not_finite_is_kept_for_replay(
    demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(demo_data[0], tmp_path)
    config = replace(config, train=replace(config.train, lr=1e30, clip_norm=0.0, backbone_lr_multiplier=1.0))
    with pytest.raises(TrainingError, match=r"not finite.*\n.*mfvis replay .*failed") as stopped:
        train(config)
    kept = Path(str(stopped.value).split("mfvis replay ")[1].split("\n")[0])
    terms = replay.run(replay.ReplayConfig(kept))
    assert not torch.isfinite(terms.total)
    assert "not finite" in capsys.readouterr().out
    batch = checkpoint.read_tensors(kept / "batch.pt")
    changes = ({"part": None}, {"clips": [1]}, {"labels_N": batch["labels_N"] + 99}, {"boxes_NT4": torch.zeros(2)})
    for change in (*changes, {"surplus": 1}, {"frames_BTCHW": "none"}):
        checkpoint.save_tensors(kept / "batch.pt", batch | change)
        with pytest.raises(CheckpointError, match="not the batch of this training"):
            replay.run(replay.ReplayConfig(kept))
    (kept / "batch.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged"):
        replay.run(replay.ReplayConfig(kept))


def test_a_stop_is_reported_even_if_nothing_can_be_kept(
    demo_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        checkpoint, "save_tensors", Mock(side_effect=OSError(28, "No space left on device", "batch.pt"))
    )
    config = configure(demo_data[0], tmp_path)
    config = replace(config, train=replace(config.train, lr=1e30, clip_norm=0.0, backbone_lr_multiplier=1.0))
    with pytest.raises(TrainingError, match=r"not finite(.|\n)*could not be kept \(No space left on device: batch.pt"):
        train(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "add --resume"),
        ({"resume": True, "supervision": "masks"}, "supervision: boxes then, masks now"),
    ],
)
def test_refuses_to_overwrite_or_mix_runs(
    uninterrupted: Path, demo_data: tuple[Path, Path], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(configure(demo_data[0], uninterrupted, **changes))


def test_nothing_to_resume(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        train(configure(demo_data[0], tmp_path, resume=True))


def test_starts_from_another_checkpoint(uninterrupted: Path, demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = configure(demo_data[0], tmp_path, init=uninterrupted)
    config = replace(config, train=replace(config.train, steps=1, lr=1e-12))
    started, _, _ = checkpoint.load_model(train(config))
    source, _, _ = checkpoint.load_model(uninterrupted)
    for (name, a), b in zip(started.named_parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-12, rtol=1e-6, msg=name)


def test_learning_rate_follows_the_schedule() -> None:
    config = OptimConfig(steps=90, warmup=10, schedule="step", lr_milestones=(2 / 3,))
    assert [learning_rate(config, step) for step in (0, 9, 10, 59)] == pytest.approx([0.1, 1, 1, 1])
    assert [learning_rate(config, step) for step in (60, 89)] == pytest.approx([0.1, 0.1])
    linear, cosine = (replace(config, schedule=schedule) for schedule in ("linear", "cosine"))
    assert learning_rate(linear, 50) == pytest.approx(0.5)
    assert learning_rate(cosine, 50) == pytest.approx(0.5)
    assert learning_rate(cosine, 30) > learning_rate(linear, 30)
    assert learning_rate(replace(config, schedule="constant"), 89) == 1


def test_optimizer_groups(uninterrupted: Path) -> None:
    model, _, _ = checkpoint.load_model(uninterrupted)
    optimizer = make_optimizer(model, OptimConfig(lr=1.0, backbone_lr_multiplier=0.1, weight_decay=0.05))
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        assert group["lr"] == (0.1 if name.startswith("backbone.") else 1.0), name
        if "norm" in name or "embedding" in name or "query" in name:
            assert group["weight_decay"] == 0, name
    frozen = make_optimizer(model, OptimConfig(backbone_lr_multiplier=0.0))
    trained = {id(p) for group in frozen.param_groups for p in group["params"]}
    assert trained and not any(id(p) in trained for p in model.backbone.parameters())


def test_batch_is_dealt_out_and_derived_numbers_say_how(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = configure(demo_data[0], tmp_path)
    config = replace(config, train=replace(config.train, batch_size=16, batch_size_per_device=2))
    assert accumulation_steps(config.train, 4) == 2
    assert "batch 16 = 2 clips x 4 processes x 2 forward passes" in summarize_schedule(config, 4, [10])
    with pytest.raises(ConfigError, match="16, which is not a multiple of 6"):
        accumulation_steps(config.train, 3)
