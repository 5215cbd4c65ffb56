"""Training configuration, composed of the components' configurations, and the quantities derived from it."""

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
from mfvis.errors import ConfigError
from mfvis.losses.config import LossConfig
from mfvis.models.config import ModelConfig
from mfvis.text import counted
from mfvis.train.optim_config import OptimConfig

Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb"]


@dataclass(frozen=True)
class TrainConfig(OptimConfig):
    """Training loop: batch, optimizer, precision, logging, and checkpoints."""

    batch_size: int = 16
    """Clips per optimizer step, over all processes."""
    batch_size_per_device: int = 2
    """Clips per forward pass and process; gradients are accumulated to reach `batch_size`."""
    seed: int = 0
    """Random seed. Step n is reproducible from (seed, n, process)."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the model; losses always accumulate in float32."""
    device: Literal["auto", "cpu"] = "auto"
    """auto uses a GPU if there is one and the operators were built for it."""
    prompt_probability: float = 0.0
    """Share of steps in which queries are made from the given boxes (with --model.box-prompts)."""
    num_workers: int = 4
    """Data loading processes, at most one per CPU core; 0 loads clips in the training process."""
    log_every: int = 20
    """Steps between log lines."""
    log_with: tuple[Tracker, ...] = ()
    """Experiment trackers that get the log too, by accelerate's names. log.jsonl is always written, and TensorBoard's
    files are if it is installed."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep."""

    def rules(self) -> dict[str, tuple[bool, str]]:
        """Rules for the fields of the optimizer and the training loop."""
        positive = ("batch_size", "batch_size_per_device", "log_every", "checkpoint_every", "keep_checkpoints")
        least = dict.fromkeys(positive, 1) | {"seed": 0, "num_workers": 0}
        bounds = {name: (getattr(self, name) >= bound, f"{bound} or more") for name, bound in least.items()}
        return super().rules() | bounds | {"prompt_probability": (0 <= self.prompt_probability <= 1, "0 to 1")}


@dataclass(frozen=True)
class Config:
    """Train a model from box tracks."""

    data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Training data; boxes are sufficient. JSON files in the layout of YouTube-VIS or COCO, or NAME:FOLDER "
            f"of a published data set, with NAME one of {DATASET_NAMES}. Several data sets are mixed in every batch, "
            "with the classes of the first. Options follow an @: @0.25 (share of the batch), @length=3 (frames per "
            "clip), @supervision=masks, @split=valid, @boxes=masks."
        ),
    ]
    frames: Path | None = None
    """Directory of the frames of a single JSON; by default JPEGImages next to it, else its own directory."""
    out: Path = Path("runs/train")
    """Directory for checkpoints and logs."""
    supervision: Literal["boxes", "masks"] = "boxes"
    """"boxes" never reads masks; "masks" trains the mask-supervised twin for comparison. Data sets can override it."""
    init: Path | None = None
    """Initial weights: a checkpoint, or weights of a whole model or a backbone in any format that `mfvis convert` reads
    (a file, or a model of the Hugging Face hub). The class head is loaded only if the classes are the same."""
    resume: bool = False
    """Resume from the last checkpoint in `out`."""
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
        sampling_ratios(self.specs)

    @cached_property
    def specs(self) -> tuple[DatasetSpec, ...]:
        """Data sets named by `data`. ConfigError if it is empty or a name is invalid."""
        if not self.data:
            raise ConfigError("data names no data set; write FILE.json or NAME:FOLDER")
        return tuple(map(parse_spec, self.data))


@dataclass(frozen=True)
class ReplayConfig:
    """Re-run the batch on which training failed."""

    path: Annotated[Path, tyro.conf.Positional]
    """Directory named in the error message of the training."""


def accumulation_steps(train: TrainConfig, processes: int) -> int:
    """Forward passes per optimizer step. ConfigError if `batch_size` cannot be divided evenly."""
    at_a_time = train.batch_size_per_device * processes
    if train.batch_size % at_a_time:
        raise ConfigError(
            f"train.batch_size is {train.batch_size}, which is not a multiple of {at_a_time} "
            f"(train.batch_size_per_device {train.batch_size_per_device} x {processes} processes); "
            "set one of them so that it is"
        )
    return train.batch_size // at_a_time


def sampling_ratios(specs: Sequence[DatasetSpec]) -> list[float]:
    """Share of each data set in every batch; the shares add up to 1.

    Data sets without a share divide the remainder equally. ConfigError if nothing remains for them.
    """
    specified = sum(spec.share or 0 for spec in specs)
    without = [spec for spec in specs if spec.share is None]
    if without and specified >= 1:
        raise ConfigError(
            f"data {without[0].path}: the shares of the others add up to {specified:g}; nothing is left for it"
        )
    rest = (1 - specified) / len(without) if without else 0.0
    total = 1.0 if without else specified
    return [(rest if spec.share is None else spec.share) / total for spec in specs]


def summarize_schedule(config: Config, processes: int, videos: Sequence[int]) -> list[str]:
    """Quantities derived from the configuration, each with its origin. videos: number of videos in each data set."""
    train = config.train
    passes = accumulation_steps(train, processes)
    per_device, kept = train.batch_size_per_device, train.keep_checkpoints
    clips = train.batch_size * train.steps
    drops = ", ".join(str(round(fraction * train.steps)) for fraction in train.lr_milestones)
    course = f"x 0.1 at step {drops}" if train.schedule == "step" and drops else train.schedule
    backbone = f"backbone {train.lr * train.backbone_lr_multiplier:g} = {train.lr:g} x {train.backbone_lr_multiplier:g}"
    sampling = "" if train.sampling_lr_multiplier == 1 else f", sampling x {train.sampling_lr_multiplier:g}"
    checkpoints = math.ceil(train.steps / train.checkpoint_every)
    lines = [
        f"batch {train.batch_size} = {counted(per_device, 'clip')} x {counted(processes, 'process')} x "
        + counted(passes, "forward pass"),
        f"clips {clips} = batch {train.batch_size} x {counted(train.steps, 'step')}",
    ]
    if len(config.specs) == 1:
        lines.append(
            f"epochs {clips / max(videos[0], 1):.1f} = {counted(clips, 'clip')} / {counted(videos[0], 'video')}"
        )
    else:
        for text, share, count in zip(config.data, sampling_ratios(config.specs), videos, strict=True):
            epochs = share * clips / max(count, 1)
            lines.append(
                f"epochs {epochs:.1f} of {text} = {counted(clips, 'clip')} x {share:.3g} / {counted(count, 'video')}"
            )
    return [
        *lines,
        f"learning rate {train.lr:g}, {backbone}{sampling}; {course}",
        f"checkpoints {checkpoints} = {train.steps} steps / {train.checkpoint_every}, the newest {kept} kept",
    ]
