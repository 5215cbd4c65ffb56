"""Flags, presets and checks: what one gets, and the error for every way to get it wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from mfvis.errors import ConfigError
from mfvis.parsing import PRESETS, build, load_preset, parse, to_plain, to_yaml
from mfvis.train.config import Config

DATA = ["--data", "train.json"]


def read(*argv: str, preset: str | None = "test") -> Config:
    return parse(Config, [*DATA, *argv], prog="mfvis train", preset=preset)


def test_defaults_are_the_papers() -> None:
    defaults, paper = read(preset=None), read("--preset", "paper,r50")
    assert defaults.loss == paper.loss
    assert defaults.clip == paper.clip
    assert defaults.train.lr_milestones == pytest.approx(paper.train.lr_milestones, abs=1e-4)
    for name in ("steps", "batch_size", "lr", "backbone_lr_multiplier", "weight_decay", "clip_norm", "schedule"):
        assert getattr(defaults.train, name) == getattr(paper.train, name), name


def test_the_papers_code_is_a_preset_of_its_own() -> None:
    config = read("--preset", "reference-code,r50")
    temporal = config.loss.temporal
    assert (temporal.radius, temporal.dilation, config.clip.frames, config.loss.released_code) == (1, 3, 3, True)


def test_flags_win_over_the_preset_over_the_defaults() -> None:
    config = read("--train.lr", "0.5", "--clip.short-sides", "16", "32")
    assert config.train.lr == 0.5 and config.clip.short_sides == (16, 32)
    assert config.model.hidden_dim == 16  # the preset's
    assert config.train.weight_decay == 0.05  # the default


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: int = 2


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(b=5))


def test_defaults_of_a_component_may_differ_where_it_is_used() -> None:
    assert parse(Outer, [], prog="x") == Outer(Inner(1, 5))
    assert parse(Outer, ["--inner.a", "7"], prog="x") == Outer(Inner(7, 5))
    assert build(Outer, {"inner": {"a": 7}}, "x") == Outer(Inner(7, 5))


def test_a_preset_file_is_a_way_to_write_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lr: 3e-4, steps: 7}\nsupervision: masks\ninit: a/b\n")
    written = read(f"--preset={file}")
    flags = read("--train.lr", "3e-4", "--train.steps", "7", "--supervision", "masks", "--init", "a/b", preset=None)
    assert written == flags
    assert written.train.lr == 3e-4 and written.init == Path("a/b")


def test_configuration_survives_being_written(tmp_path: Path) -> None:
    config = read("--train.lr-milestones", "0.5", "0.75")
    assert build(Config, to_plain(config), "json") == config
    assert build(Config, yaml.safe_load(to_yaml(config)), "yaml") == config
    (tmp_path / "all.yaml").write_text(to_yaml(config))
    assert parse(Config, ["--preset", str(tmp_path / "all.yaml")], prog="mfvis train") == config


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"trian": {}}, ["unknown key trian, did you mean train?"]),
        ({"train": {"lrr": 1}}, ["unknown key train.lrr, did you mean train.lr?"]),
        ({"train": {"lr": "fast"}}, ["train.lr is 'fast'; expected a finite number"]),
        ({"train": {"steps": 1.5}}, ["train.steps is 1.5; expected an integer"]),
        ({"train": {"steps": True}}, ["train.steps is True; expected an integer"]),
        ({"train": {"amp": "bf61"}}, ["train.amp is 'bf61', did you mean bf16?; expected one of 'no', 'bf16', 'fp16'"]),
        ({"train": 3}, ["train is 3; expected keys"]),
        ({"train": {"lr": -1}}, ["train.lr is -1.0; expected a positive number"]),
        ({"train": {"warmup": 9000}}, ["train.warmup is 9000; expected 0 to 6000, the number of steps"]),
        ({"train": {"lr_milestones": [2]}}, ["train.lr_milestones is (2.0,); expected fractions of the training"]),
        ({"train": {"batch_size": 0}}, ["train.batch_size is 0; expected 1 or more"]),
        ({"train": {"prompt_probability": 0.5}}, ["train.prompt_probability is 0.5, but the model takes no boxes"]),
        (
            {"loss": {"temporal": {"k": 122}}},
            ["loss.temporal.k is 122; expected 1 to 121, the candidates within radius 5"],
        ),
        ({"loss": {"temporal": {"patch_size": 2}}}, ["loss.temporal.patch_size is 2; expected an odd number"]),
        ({"loss": {"temporal": {"tube": "ring"}}}, ["loss.temporal.tube is 'ring'", "'cyclic', 'chain', 'dense'"]),
        (
            {"loss": {"pairwise": {"kernel_size": 4}}},
            ["loss.pairwise.kernel_size is 4; expected an odd number, 3 or more"],
        ),
        ({"loss": {"masks": {"importance": 2}}}, ["loss.masks.importance is 2.0; expected 0 to 1"]),
        ({"loss": {"match": {"box": -1}}}, ["loss.match.box is -1.0; expected 0 or more"]),
        ({"loss": {"projection": -5}}, ["loss.projection is -5.0; expected 0 or more"]),
        ({"model": {"hidden_dim": 30}}, ["model.hidden_dim is 30; expected a multiple of the 8 heads, and of 4"]),
        ({"model": {"backbone": {"name": "resnet5"}}}, ["model.backbone.name is 'resnet5', did you mean resnet50?"]),
        ({"clip": {"flip": 7}}, ["clip.flip is 7.0"]),
        ({"clip": {"short_sides": 360}}, ["clip.short_sides is 360; expected tuple[int, ...]"]),
        ({"supervision": "points"}, ["supervision is 'points'", "'boxes', 'masks'"]),
        ({"data": 5}, ["data is 5; expected tuple[str, ...]"]),
    ],
    ids=str,
)
def test_malformed_configuration(values: dict[str, object], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        build(Config, {"data": "x"} | values, "mine.yaml")
    for message in ["mine.yaml", *messages]:
        assert message in str(raised.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        read("--train.lr", "-1", "--train.batch-size", "0", "--model.num-queries", "0", "--loss.temporal.radius", "-1")
    text = str(raised.value)
    for problem in ("train.lr is -1", "train.batch_size is 0", "model.num_queries", "loss.temporal.radius is -1"):
        assert problem in text


def test_required_values_are_named() -> None:
    with pytest.raises(ConfigError, match="data is not given"):
        build(Config, {}, "mine.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {lr: 1", "cannot be read"),
        ("- train", "holds list; expected keys"),
        ("", "holds NoneType; expected keys"),
        ("train: {lrr: 1}", "unknown key train.lrr, did you mean train.lr"),
    ],
)
def test_malformed_preset_files(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read("--preset", str(file))


def test_unknown_presets_are_guessed() -> None:
    with pytest.raises(ConfigError, match="no preset 'papr', did you mean paper"):
        load_preset("papr")
    with pytest.raises(ConfigError, match="no preset file .*gone.yaml"):
        load_preset("gone.yaml")
    with pytest.raises(ConfigError, match="--preset names nothing"):
        read("--preset")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--trian.lr", "3"], "Perhaps you meant"),
        (["--train.lr", "fast"], "float"),
        (["--train.amp", "bf61"], "bf16"),
    ],
)
def test_malformed_flags_end_with_status_two(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read(*argv)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert message.lower() in (captured.err + captured.out).lower()


def test_every_preset_says_where_it_comes_from() -> None:
    for file in PRESETS.glob("*.yaml"):
        assert file.read_text().startswith("# "), file.name
