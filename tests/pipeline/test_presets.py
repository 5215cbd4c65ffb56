"""Every preset that is shipped, on its own and merged with others: it parses, builds, and prints its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mfvis.cli import main
from mfvis.data.datasets import DATASETS, parse_spec
from mfvis.errors import ConfigError
from mfvis.models.config import BackboneConfig
from mfvis.models.video_model import build_model
from mfvis.parsing import PRESETS, build, load_preset
from mfvis.text import counted
from mfvis.train.config import Config
from mfvis.train.optim import learning_rate
from mfvis.train.plan import estimate
from mfvis.train.step import autocast

OTHER_COMMANDS = {"demo", "demo-label"}
SHIPPED = sorted({path.stem for path in PRESETS.glob("*.yaml")} - OTHER_COMMANDS)
# For each published schedule: steps, and the steps at which the learning rate drops.
SCHEDULES = {
    "ytvis2019": (6000, [4000]),
    "ytvis2021": (8000, [5500]),
    "ytvis2022": (8000, [5500]),
    "ovis": (8000, [5500]),
    "bdd100k-mots": (8000, [5500]),
    "coco": (368750, [327778, 355092]),
    "ytvis2019-coco": (6000, [4000]),
    "ytvis2021-coco": (8000, [5500]),
    "ovis-coco": (8000, [5500]),
}


def configure(preset: str) -> Config:
    return build(Config, {"data": "ytvis2019:datasets/ytvis_2019"} | load_preset(preset), preset)


def test_there_is_one_for_every_data_set() -> None:
    assert set(SCHEDULES) <= set(SHIPPED)
    assert {parse_spec(text).name for name in SCHEDULES for text in configure(name).data} == set(DATASETS)


@pytest.mark.parametrize(
    "preset",
    [*SHIPPED, "ytvis2021,swin-l,masks", "ovis-coco,r101,reference-code", "paper,r50", "ytvis2019,r50,seqformer"],
)
def test_dry_run(preset: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = [] if "data" in load_preset(preset) else ["--data", "ytvis2019:datasets/ytvis_2019"]
    assert main(["train", "--preset", preset, *data, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    config = configure(preset)
    assert f"batch {config.train.batch_size} = {counted(config.train.batch_size_per_device, 'clip')} x" in printed
    assert f"x {config.train.steps} steps" in printed and "learning rate" in printed
    for spec in config.specs:
        assert f"{spec.path} is not there: {spec.info.num_videos} videos" in printed
    assert f"classes {len(config.specs[0].info.categories)}" in printed
    assert "parameters" in printed and "memory about" in printed and "GiB per process" in printed
    assert ("padded to one size" in printed) == (config.train.batch_size_per_device > 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_published_ones(name: str) -> None:
    train = configure(name).train
    steps, drops = SCHEDULES[name]
    assert (train.steps, train.batch_size, train.lr, train.backbone_lr_multiplier, train.clip_norm) == (
        steps,
        16,
        1e-4,
        0.1,
        0.01,
    )
    for place, drop in enumerate(drops):
        assert learning_rate(train, drop - 1) == pytest.approx(0.1**place)
        assert learning_rate(train, drop) == pytest.approx(0.1 ** (place + 1))


def test_presets_are_laid_over_one_another() -> None:
    config = configure("ytvis2021,swin-l,masks,reference-code")
    assert config.data == ("ytvis2021:datasets/ytvis_2021",) and config.train.steps == 8000
    assert (config.model.backbone.name, config.model.num_queries) == ("swin-l", 200)
    assert config.supervision == "masks" and config.loss.released_code
    assert configure("masks,reference-code").clip.frames == 3 and configure("reference-code,masks").clip.frames == 2
    assert configure("ytvis2019-coco,test").model == configure("test").model, "a tiny model proves that it would run"
    assert configure("reference-code,paper") == configure("paper"), "the search of the paper, all of it"
    with pytest.raises(ConfigError, match="no preset 'swinl', did you mean swin-l?"):
        load_preset("ytvis2021,swinl")


def test_a_part_of_a_joint_batch_is_what_it_says() -> None:
    specs = configure("ytvis2019-coco").specs
    assert [spec.name for spec in specs] == ["ytvis2019", "coco"]
    assert sum(spec.share for spec in specs) == pytest.approx(1)


@pytest.mark.parametrize("amp", ["no", "bf16"])
@pytest.mark.parametrize(
    ("name", "backbone"), [("mask2former", "tiny"), ("mask2former", "swin-t"), ("seqformer", "tiny")]
)
def test_memory_counts_what_a_backward_pass_keeps(amp: str, name: str, backbone: str) -> None:
    """The estimate against the tensors that a real forward pass keeps."""
    config = build(Config, load_preset("test") | {"data": "x", "clip": {"frames": 2, "short_sides": [64]}}, "test")
    config = replace(config, train=replace(config.train, amp=amp))
    config = replace(config, model=replace(config.model, name=name, backbone=BackboneConfig(backbone)))
    memory = estimate(config, 3)
    model = build_model(config.model, 3).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def held() -> int:
        return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)

    frames = torch.zeros(config.train.batch_size_per_device, 2, 3, 64, 128, dtype=torch.uint8)
    with autocast("cpu", amp), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = model(frames)
    activations = held()
    assert memory.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert memory.state == 16 * memory.parameters
    assert memory.activations == pytest.approx(activations, rel=0.02)
    # Of 6 queries; the estimate is for 10 objects, or as many as there are queries.
    every_query = torch.arange(6).expand(len(prediction.logits_LBQK), 6)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        masks = [prediction.masks.select(clip, every_query) for clip in range(len(frames))]
    one_layer = prediction.masks.all_queries(0, 0).nbytes if name == "mask2former" else 0
    expected = one_layer + 2 * sum(mask.nbytes for mask in masks) + held() - activations
    assert memory.logits == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"box_prompts": True}, "box_prompts is True; expected False, as model seqformer makes no queries from boxes"),
        ({"decoder_layers": 0}, "decoder_layers is 0; expected 1 to 100"),
    ],
)
def test_sizes_that_seqformer_does_not_have(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Config, {"data": "x", "model": {"name": "seqformer"} | given}, "test")
    with pytest.raises(ConfigError, match="model.name is 'seqforme'"):
        build(Config, {"data": "x", "model": {"name": "seqforme"}}, "test")


def test_seqformer_goes_over_any_data_set_and_backbone() -> None:
    config = configure("ytvis2021,swin-l,seqformer")
    assert config.model.name == "seqformer" and config.model.backbone.name == "swin-l"
    assert config.model.num_queries == 300 and config.train.steps == 8000 and config.supervision == "boxes"
    assert (config.loss.projection, config.loss.pairwise.weight, config.loss.temporal.weight) == (5, 5, 0.5)
    assert (config.loss.boxes.l1, config.loss.boxes.giou, config.loss.match.boxes.l1) == (5, 2, 5)
    images = configure("coco,r50,seqformer")
    assert images.clip.frames == 1 and images.loss.temporal.weight == 0
    masks = configure("ytvis2019,r50,seqformer,seqformer-masks")
    assert masks.supervision == "masks" and masks.loss.masks.dense and masks.clip.range == 10
    assert (masks.loss.masks.bce, masks.loss.masks.dice) == (2, 5) and masks.loss.boxes.absent_as_corner
