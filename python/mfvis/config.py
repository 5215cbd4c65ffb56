"""The configuration of a training, composed of its components' own, and the numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.data.config import ClipConfig
from mfvis.data.datasets import DATASET_NAMES, DatasetSpec, parse_spec
from mfvis.errors import ConfigError, require
from mfvis.losses.config import LossConfig
from mfvis.models.config import ModelConfig


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule; the defaults are the paper's."""

    steps: int = 6000
    """Optimizer steps."""
    lr: float = 1e-4
    """Learning rate of everything but the backbone."""
    backbone_lr_multiplier: float = 0.1
    """Factor on the learning rate for the backbone; 0 freezes it."""
    weight_decay: float = 0.05
    """Not applied to norms and embeddings."""
    clip_norm: float = 0.01
    """Largest gradient norm over all parameters; 0 does not clip."""
    warmup: int = 0
    """Steps in which the learning rate rises linearly from 0."""
    schedule: Literal["step", "linear", "cosine", "constant"] = "step"
    """After the warm-up: drops by ten at `lr_milestones`, or falls to 0 along a line or half a cosine."""
    lr_milestones: tuple[float, ...] = (2 / 3,)
    """Fractions of `steps` at which "step" multiplies the learning rate by 0.1."""

    def __post_init__(self) -> None:
        require(self, self.wanted())

    def wanted(self) -> dict[str, tuple[bool, str]]:
        """For each field whether it is good, and what is expected of it."""
        return {
            "steps": (self.steps >= 1, "1 or more"),
            "lr": (math.isfinite(self.lr) and self.lr > 0, "a positive number"),
            "backbone_lr_multiplier": (
                math.isfinite(self.backbone_lr_multiplier) and self.backbone_lr_multiplier >= 0,
                "0 or more",
            ),
            "weight_decay": (math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or more"),
            "clip_norm": (math.isfinite(self.clip_norm) and self.clip_norm >= 0, "0 or more"),
            "warmup": (0 <= self.warmup <= max(self.steps, 0), f"0 to {self.steps}, the number of steps"),
            "lr_milestones": (
                all(0 < share <= 1 for share in self.lr_milestones),
                "fractions of the training, above 0 and up to 1",
            ),
        }


@dataclass(frozen=True)
class TrainConfig(OptimConfig):
    """The training loop: batch, steps, learning rate, precision, what is written when."""

    batch_size: int = 16
    """Clips per optimizer step, over all processes."""
    batch_size_per_device: int = 2
    """Clips that one process holds at a time; what is missing to `batch_size` is accumulated."""
    seed: int = 0
    """Every random number of step n follows from this, n and the process."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the model; the losses accumulate in float32 anyway."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes the GPU where there is one and the operators were built for it."""
    prompt_probability: float = 0.0
    """Share of the steps in which the queries are made from the given boxes (with --model.box-prompts)."""
    num_workers: int = 4
    """Processes that read clips, at most one per CPU core; 0 reads them in the training process."""
    log_every: int = 20
    """Steps between progress lines."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always makes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on the disk."""

    def wanted(self) -> dict[str, tuple[bool, str]]:
        """As for the optimizer."""
        positive = ("batch_size", "batch_size_per_device", "log_every", "checkpoint_every", "keep_checkpoints")
        least = dict.fromkeys(positive, 1) | {"seed": 0, "num_workers": 0}
        own = {name: (getattr(self, name) >= bound, f"{bound} or more") for name, bound in least.items()}
        return super().wanted() | own | {"prompt_probability": (0 <= self.prompt_probability <= 1, "0 to 1")}


@dataclass(frozen=True)
class Config:
    """Train a model from box tracks."""

    data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="What to train on; boxes are enough. JSON files in the layout of YouTube-VIS or COCO, or NAME:FOLDER "
            f"of a published data set, with NAME one of {DATASET_NAMES}. Several are mixed in every batch, in the "
            "classes of the first. Options follow an @: @0.25 (share of the batch), @length=3 (frames of a clip), "
            "@supervision=masks, @split=valid, @boxes=masks."
        ),
    ]
    frames: Path | None = None
    """Directory of the frames of a single JSON; by default JPEGImages beside it, else its own directory."""
    out: Path = Path("runs/train")
    """Directory for checkpoints and logs."""
    supervision: Literal["boxes", "masks"] = "boxes"
    """"boxes" never looks at a mask; "masks" trains the fully supervised twin for comparison. A data set may differ."""
    init: Path | None = None
    """What the training starts from: a checkpoint, or weights as `mfvis convert` reads them, a file or a model of the
    Hugging Face hub, of a whole model or a backbone. The class head is taken only if the classes are the same."""
    resume: bool = False
    """Go on from the last checkpoint in `out`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.train.prompt_probability > 0 and not self.model.box_prompts:
            raise ConfigError(
                f"train.prompt_probability is {self.train.prompt_probability}, but the model takes no boxes; "
                "set model.box_prompts too"
            )
        if self.frames is not None and len(self.specs) > 1:
            raise ConfigError(f"frames is {self.frames}, but there are {len(self.specs)} data sets; name their folders")
        shares(self.specs)

    @cached_property
    def specs(self) -> tuple[DatasetSpec, ...]:
        """The data sets that `data` names. ConfigError if it names none, or one wrongly."""
        if not self.data:
            raise ConfigError("data names no data set; write FILE.json or NAME:FOLDER")
        return tuple(map(parse_spec, self.data))


@dataclass(frozen=True)
class ReplayConfig:
    """Compute the losses of a batch that stopped a training once more."""

    path: Annotated[Path, tyro.conf.Positional]
    """The directory that the message of the training named."""


def accumulation(train: TrainConfig, processes: int) -> int:
    """Forward passes per optimizer step. ConfigError if `batch_size` cannot be dealt out evenly."""
    at_a_time = train.batch_size_per_device * processes
    if train.batch_size % at_a_time:
        raise ConfigError(
            f"train.batch_size is {train.batch_size}, which is no multiple of {at_a_time} "
            f"(train.batch_size_per_device {train.batch_size_per_device} x {processes} processes); "
            "set one of them so that it is"
        )
    return train.batch_size // at_a_time


def shares(specs: Sequence[DatasetSpec]) -> list[float]:
    """The part of every batch that each data set has; they add up to 1.

    Data sets without a share divide what the others leave, equally. ConfigError if nothing is left for them.
    """
    given = sum(spec.share or 0 for spec in specs)
    without = [spec for spec in specs if spec.share is None]
    if without and given >= 1:
        raise ConfigError(
            f"data {without[0].path}: the shares of the others add up to {given:g}; nothing is left for it"
        )
    rest = (1 - given) / len(without) if without else 0.0
    total = 1.0 if without else given
    return [(rest if spec.share is None else spec.share) / total for spec in specs]


def derived(config: Config, processes: int, videos: Sequence[int]) -> list[str]:
    """The numbers that follow from the configuration, each with its origin. videos: how many each data set has."""
    train = config.train
    passes = accumulation(train, processes)
    per_device, kept = train.batch_size_per_device, train.keep_checkpoints
    clips = train.batch_size * train.steps
    drops = ", ".join(str(round(fraction * train.steps)) for fraction in train.lr_milestones)
    course = f"x 0.1 at step {drops}" if train.schedule == "step" and drops else train.schedule
    backbone = f"backbone {train.lr * train.backbone_lr_multiplier:g} = {train.lr:g} x {train.backbone_lr_multiplier:g}"
    checkpoints = math.ceil(train.steps / train.checkpoint_every)
    lines = [
        f"batch {train.batch_size} = {per_device} clips x {processes} processes x {passes} forward passes",
        f"clips {clips} = batch {train.batch_size} x {train.steps} steps",
    ]
    if len(config.specs) == 1:
        lines.append(f"epochs {clips / max(videos[0], 1):.1f} = {clips} clips / {videos[0]} videos")
    else:
        for text, share, count in zip(config.data, shares(config.specs), videos, strict=True):
            epochs = share * clips / max(count, 1)
            lines.append(f"epochs {epochs:.1f} of {text} = {clips} clips x {share:.3g} / {count} videos")
    return [
        *lines,
        f"learning rate {train.lr:g}, {backbone}; {course}",
        f"checkpoints {checkpoints} = {train.steps} steps / {train.checkpoint_every}, the newest {kept} kept",
    ]
