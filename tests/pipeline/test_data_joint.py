"""Several data sets in one training: shares, clip lengths, supervision, pseudo-clips, and masks that are not used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import publish
from mfvis.data.augment import pan
from mfvis.data.clips import ClipDataset, ClipSampler, collate_by_kind
from mfvis.data.coco import load_coco
from mfvis.data.config import ClipConfig
from mfvis.data.datasets import parse_spec
from mfvis.data.rle import mask_box
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError
from mfvis.losses.criterion import Criterion
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import build, load_preset
from mfvis.train.checkpoint import load_model, read_tensors
from mfvis.train.config import Config, sampling_ratios, summarize_schedule
from mfvis.train.engine import clip_datasets, train
from mfvis.types import Clip


def configure(out: Path, *data: str, **changes: object) -> Config:
    preset = load_preset("test") | {"data": data, "out": out}
    return replace(build(Config, preset, "test"), **changes)


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``ytvis2019`` and ``coco`` with tiny data sets in them."""
    root = tmp_path_factory.mktemp("published")
    for name in ("ytvis2019", "coco"):
        publish(name, root / name)
    return root


# ---- Shares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a.json"], [1.0]),
        (["a.json", "b.json"], [0.5, 0.5]),
        (["a.json@0.2", "b.json", "c.json"], [0.2, 0.4, 0.4]),
        (["a.json@3", "b.json@1"], [0.75, 0.25]),
    ],
)
def test_shares(texts: list[str], expected: list[float]) -> None:
    assert sampling_ratios([parse_spec(text) for text in texts]) == pytest.approx(expected)


def test_a_data_set_that_would_get_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data b.json: the shares of the others add up to 1; nothing is left"):
        configure(tmp_path, "a.json@1", "b.json")
    with pytest.raises(ConfigError, match="frames is f, but there are 2 data sets"):
        configure(tmp_path, "a.json", "b.json", frames=Path("f"))


@pytest.mark.parametrize("together", [1, 2])
def test_every_batch_has_the_mixture(together: int) -> None:
    sampler = ClipSampler([3, 50], seed=1, shares=[0.75, 0.25], block_size=together)
    draws = list(islice(sampler, 64))
    for start in range(0, 64, 8 * together):
        batch = draws[start : start + 8 * together]
        assert Counter(draw.source for draw in batch) == {0: 6 * together, 1: 2 * together}
    if together == 2:
        assert all(a.source == b.source for a, b in zip(draws[::2], draws[1::2], strict=True)), (
            "alike in both processes"
        )
    own = [draw for draw in draws if draw.source == 0]
    assert all(sorted(d.video for d in own[n : n + 3]) == [0, 1, 2] for n in range(0, len(own) - 2, 3)), "epochs"
    sampler.advance(24)
    resumed = ClipSampler([3, 50], shares=[0.75, 0.25], block_size=together)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert list(islice(resumed, 40)) == draws[24:]


def test_the_epochs_of_each_data_set_are_printed(tmp_path: Path) -> None:
    config = configure(tmp_path, "ytvis2019:a@0.75", "coco:b@0.25")
    lines = summarize_schedule(config, 1, [3, 6])
    assert "epochs 3.0 of ytvis2019:a@0.75 = 12 clips x 0.75 / 3 videos" in lines
    assert "epochs 0.5 of coco:b@0.25 = 12 clips x 0.25 / 6 videos" in lines


# ---- Training ---------------------------------------------------------------------------------------------------


def test_a_batch_mixes_data_sets_lengths_and_supervision(published: Path, tmp_path: Path) -> None:
    """Videos from boxes, three frames a clip; images from masks, two frames a pseudo-clip; resumed to the same."""
    data = (f"ytvis2019:{published}/ytvis2019@0.5,length=3", f"coco:{published}/coco@0.5,supervision=masks,length=2")
    config = configure(tmp_path / "run", *data)
    config = replace(
        config, train=replace(config.train, batch_size=4, batch_size_per_device=4, steps=4, checkpoint_every=2)
    )
    parts = clip_datasets(config)
    assert [part.dataset.categories for part in parts] == [parts[0].dataset.categories] * 2
    draws = list(islice(ClipSampler([len(part) for part in parts], 0, [0.5, 0.5]), 4))
    alike = collate_by_kind([parts[draw.source][draw] for draw in draws])
    shapes = [(batch.frames_BTCHW.shape[:2], batch.masks_NTHW is None) for batch in alike]
    assert shapes == [((2, 3), True), ((2, 2), False)]

    last = train(config)
    log = records(config.out)
    for record in log:
        assert record["projection"] > 0 and record["mask_bce"] > 0, "both kinds of supervision in every step"
    (config.out / "checkpoints" / "last").unlink()
    (config.out / "checkpoints" / "last").symlink_to("000002")
    before = (last / "model.safetensors").read_bytes()
    assert (train(replace(config, resume=True)) / "model.safetensors").read_bytes() == before
    assert sum(read_tensors(last / "training.pt")["sampler"]["used"]) == 16
    changed = (data[0], data[1].replace("length=2", "length=3"))
    with pytest.raises(ConfigError, match="was trained with other settings"):
        train(replace(config, resume=True, data=changed))


def test_images_of_own_classes_train_by_themselves_and_with_others(published: Path, tmp_path: Path) -> None:
    """COCO's layout is not COCO's classes: any list is read, and joined with another by name."""
    content = json.loads((published / "coco/annotations/instances_train2017.json").read_text())
    names = {1: "person", 4: "sedan", 90: "pothole"}
    content["categories"] = [{"id": id, "name": name} for id, name in names.items()]
    used = {annotation["category_id"] for annotation in content["annotations"]}
    assert used <= names.keys()
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content))
    config = configure(tmp_path / "run", str(own), frames=published / "coco/train2017")
    train(replace(config, train=replace(config.train, steps=1)))
    _, categories, _ = load_model(tmp_path / "run/checkpoints/last")
    assert [category.name for category in categories] == ["person", "sedan", "pothole"]
    (own.parent / "images").symlink_to(published / "coco/train2017")
    parts = clip_datasets(configure(tmp_path, f"ytvis2019:{published}/ytvis2019", str(own)))
    joined = Counter(track.category_id for video in parts[1].dataset.videos for track in video.tracks)
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    assert joined == {new: counts[old] for old, new in ((1, 1), (4, 6)) if counts[old]}
    assert all(path.is_file() for video in parts[1].dataset.videos for path in video.frames)


def test_losses_of_a_mixed_batch_are_of_the_size_of_its_parts(published: Path, tmp_path: Path) -> None:
    """One data set, half of it named twice: the losses of two alike batches, each weighed by its clips."""
    data = f"ytvis2019:{published}/ytvis2019@length=2"
    together = configure(tmp_path / "a", data, f"{data},supervision=boxes")
    together = replace(together, train=replace(together.train, batch_size=2, batch_size_per_device=2, steps=1))
    train(together)
    apart = replace(together, out=tmp_path / "b", train=replace(together.train, batch_size_per_device=1))
    train(apart)
    terms = ("total", "projection", "pairwise", "classification")
    one, two = (records(config.out)[0] for config in (together, apart))
    # A batch of two divides by its objects, two of one by those of each, which differ a little in number.
    for term in terms:
        assert one[term] == pytest.approx(two[term], rel=0.1), term


def test_images_have_projection_and_pairwise_terms_only(published: Path, tmp_path: Path) -> None:
    config = configure(tmp_path, f"coco:{published}/coco@length=1")
    train(replace(config, train=replace(config.train, steps=2)))
    for record in records(tmp_path):
        assert record["projection"] > 0 and record["pairwise"] > 0
        assert record["temporal"] == record["mask_bce"] == 0


@pytest.mark.slow
def test_two_processes_train_on_alike_batches(published: Path, tmp_path: Path) -> None:
    """Were the parts of a batch not the same in both, they would wait for each other for ever."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    data = [f"ytvis2019:{published}/ytvis2019@length=3", f"coco:{published}/coco@supervision=masks,length=2"]
    flags = ["--preset", "test", "--data", *data, "--out", str(tmp_path), "--clip.short-sides", "32"]
    flags += ["--train.batch-size", "8", "--train.batch-size-per-device", "2", "--train.steps", "2"]
    done = subprocess.run([*launch, "-m", "mfvis", "train", *flags], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "batch 8 = 2 clips x 2 processes x 2 forward passes" in done.stderr
    assert all(torch.isfinite(p).all() for p in load_model(tmp_path)[0].parameters())
    assert all(record["projection"] > 0 and record["mask_bce"] > 0 for record in records(tmp_path))


# ---- Masks that are not used -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ytvis2019", "coco"])
def test_garbage_in_masks_changes_nothing(name: str, tmp_path: Path) -> None:
    """Training from boxes: with true masks, with garbage, and with none the losses are the same, bit for bit."""
    publish(name, tmp_path)
    file = tmp_path / {"ytvis2019": "train.json", "coco": "annotations/instances_train2017.json"}[name]
    field = {"ytvis2019": "segmentations", "coco": "segmentation"}[name]
    content = json.loads(file.read_text())
    logs, weights = [], []
    for kind, garbage in enumerate((None, {"size": [1, 1], "counts": "\u00e9~~~"}, "drop")):
        for annotation in content["annotations"]:
            if garbage == "drop":
                del annotation[field]
            elif garbage is not None:
                per_frame = isinstance(annotation[field], list) and name == "ytvis2019"
                annotation[field] = [garbage for _ in annotation[field]] if per_frame else garbage
        file.write_text(json.dumps(content))
        config = configure(tmp_path / f"run{kind}", f"{name}:{tmp_path}")
        last = train(replace(config, train=replace(config.train, steps=2)))
        logs.append(
            [{key: record[key] for key in ("total", "projection", "grad_norm")} for record in records(config.out)]
        )
        weights.append((last / "model.safetensors").read_bytes())
    assert logs[0] == logs[1] == logs[2]
    assert weights[0] == weights[1] == weights[2]


def test_the_losses_of_a_batch_do_not_see_garbage(demo_data: tuple[Path, Path]) -> None:
    """One batch, once with masks that are noise: every term of the losses from boxes is equal to the last bit."""
    config = build(Config, load_preset("test") | {"data": "x"}, "test")
    clips = ClipDataset(load_dataset(demo_data[0]), config.clip)
    (batch,) = collate_by_kind([clips[draw] for draw in islice(ClipSampler([len(clips)]), 2)])
    frames, height, width = batch.frames_BTCHW.shape[1], *batch.frames_BTCHW.shape[-2:]
    noise = torch.rand(len(batch.labels_N), frames, height, width) > 0.5
    classes = len(clips.dataset.categories)
    model = VideoMask2Former(config.model, classes).eval()
    criterion = Criterion(config.loss, classes, with_masks=False)
    terms = [criterion(model(b.frames_BTCHW), b, 5).as_dict() for b in (batch, replace(batch, masks_NTHW=noise))]
    assert all(torch.equal(value, terms[1][name]) for name, value in terms[0].items())


# ---- Pseudo-clips -----------------------------------------------------------------------------------------------


def image(height: int, width: int, boxes: list[list[float]], with_masks: bool = True) -> Clip:
    """One frame; objects are ellipses that fill their boxes, each bright in a channel of its own."""
    y, x = np.mgrid[:height, :width] + 0.5
    frame = np.full((3, height, width), 40, np.uint8)
    masks = []
    for place, (x1, y1, x2, y2) in enumerate(boxes):
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        frame[place, inside] = 240
        masks.append(inside)
    masks_NTHW = torch.from_numpy(np.array(masks))[:, None] if with_masks else None
    tensor = torch.tensor(boxes)[:, None]
    ids = tuple(range(1, len(boxes) + 1))
    return Clip(torch.from_numpy(frame)[None], tensor, torch.zeros(len(boxes)).long(), masks_NTHW, 1, (0,), ids)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_what_turns_in_the_image(seed: int) -> None:
    """Without masks, the boxes of turned ellipses are exact, and the same as those of the turned masks."""
    boxes = [[70.0, 60.0, 130.0, 90.0], [140.0, 70.0, 160.0, 130.0]]
    draw = {"rotation": 20.0, "smallest_crop": 0.9}
    blind, seeing = (
        pan(image(200, 240, boxes, masks), 4, np.random.default_rng(seed), **draw) for masks in (False, True)
    )
    assert blind.frames_TCHW.shape[0] == 4 and torch.equal(blind.frames_TCHW, seeing.frames_TCHW)
    assert blind.frame_indices == (0, 0, 0, 0) and blind.track_ids == seeing.track_ids == (1, 2)
    assert (blind.boxes_NT4 - seeing.boxes_NT4).abs().max() <= 1.5
    for n in range(2):
        for t, frame in enumerate(seeing.frames_TCHW):
            painted = mask_box((frame[n] > 140).numpy())
            assert np.abs(painted - blind.boxes_NT4[n, t].numpy()).max() <= 1.5


def test_angles_and_window_move_one_way() -> None:
    clip = pan(
        image(200, 240, [[100.0, 90.0, 140.0, 110.0]]), 5, np.random.default_rng(2), rotation=0.0, smallest_crop=0.6
    )
    left = clip.boxes_NT4[0, :, 0]
    steps = left.diff()
    assert (steps >= 0).all() or (steps <= 0).all()
    assert steps.abs().max() - steps.abs().min() < 1.1, "evenly"
    still = pan(image(20, 24, [[3.0, 4.0, 9.0, 9.0]]), 3, np.random.default_rng(0), rotation=0.0, smallest_crop=1.0)
    assert torch.equal(still.frames_TCHW, image(20, 24, [[3.0, 4.0, 9.0, 9.0]]).frames_TCHW.expand(3, -1, -1, -1))


def test_a_data_set_of_images_gives_pseudo_clips(published: Path) -> None:
    dataset = load_coco(
        published / "coco" / "annotations" / "instances_train2017.json", published / "coco" / "train2017"
    )
    clips = ClipDataset(dataset, ClipConfig(frames=3, short_sides=(32,)), with_masks=True)
    made = [clips[draw] for draw in islice(ClipSampler([len(clips)]), 6)]
    assert all(clip.frames_TCHW.shape[0] == 3 for clip in made)
    assert any(not torch.equal(clip.frames_TCHW[0], clip.frames_TCHW[1]) for clip in made)
    for clip in made:
        boxes = [[mask_box(mask.numpy()) for mask in masks] for masks in clip.masks_NTHW]
        assert np.allclose(np.array(boxes).reshape(-1, 4), clip.boxes_NT4.reshape(-1, 4), atol=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rotation": -1}, "rotation is -1"), ({"smallest_pan": 0}, "smallest_pan is 0; expected more than 0")],
)
def test_settings_of_pseudo_clips(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipConfig(**changes)
