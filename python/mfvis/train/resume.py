"""Resuming a training: which checkpoints it has, whether they belong to it, and their state put back in place.

Every step is a function of the state before it, so a damaged checkpoint costs only time: an earlier one leads to the
same weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfvis.config import Config
from mfvis.data.clips import ClipSampler
from mfvis.data.jsonfile import is_integer
from mfvis.errors import CheckpointError, ConfigError
from mfvis.parsing import changed_keys, to_plain
from mfvis.train import checkpoint
from mfvis.train.checkpoint import TRAINING, WEIGHTS
from mfvis.weights.files import load_weights, read_state_dict

FREE_TO_CHANGE = {
    "out",
    "resume",
    "data",
    "frames",
    "init",
    "train.num_workers",
    "train.log_every",
    "train.keep_checkpoints",
}
"""What may differ when a training is resumed; everything else would make it another training."""


@dataclass(frozen=True)
class Resumed:
    """The state that a training continues from."""

    checkpoint: Path
    step: int
    """Optimizer steps done."""
    notes: tuple[str, ...]
    """Why newer checkpoints were not taken."""


def candidates(config: Config) -> list[Path]:
    """The checkpoints that a training may continue from, the preferred one first; none for a new training.

    Raises:
        ConfigError: `config.out` and `config.resume` do not fit, or the checkpoints are of a training with other
            settings.
        CheckpointError: there are checkpoints, and the description of none can be read.
    """
    found = checkpoint.all_of(config.out / "checkpoints")
    if not found:
        if config.resume:
            raise ConfigError(f"nothing to resume: {config.out} has no checkpoint; leave out --resume")
        return []
    description, problems = None, []
    for path in found:
        try:
            description = checkpoint.describe(path)
            break
        except CheckpointError as error:
            problems.append(str(error))
    if not config.resume:
        step = f" at step {description.step}" if description else ""
        raise ConfigError(f"{config.out} holds a training{step}; add --resume to continue, or choose another --out")
    if description is None:
        raise CheckpointError(_none_usable(config.out, problems))
    if changed := changed_keys(_comparable(description.config), _comparable(config), FREE_TO_CHANGE):
        lines = "\n".join(f"  {line}" for line in changed)
        raise ConfigError(
            f"{path} was trained with other settings:\n{lines}\n"
            f"Resume with the old ones, or start a new training from its weights: --init {path} with another --out"
        )
    return found


def restore(
    paths: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sampler: ClipSampler,
    scaler: torch.amp.GradScaler,
    batch_size: int,
) -> Resumed:
    """Put the state of the first checkpoint that is sound in place.

    Args:
        paths: from `candidates`.
        batch_size: clips per optimizer step.

    Raises:
        CheckpointError: none is sound.
        ConfigError: the data are not those of the training.
    """
    problems: list[str] = []
    for path in paths:
        try:
            step = checkpoint.describe(path).step
            load_weights(model, read_state_dict(path / WEIGHTS), str(path / WEIGHTS))
            state = checkpoint.read_tensors(path / TRAINING)
            apply_training(state, optimizer, sampler, scaler, step * batch_size, str(path / TRAINING))
        except CheckpointError as error:
            problems.append(str(error))
            continue
        notes = [f"{problem}\nIt is left out, and its steps are done again" for problem in problems]
        return Resumed(path, step, tuple(notes))
    raise CheckpointError(_none_usable(paths[0].parent.parent, problems))


def training_state(
    optimizer: torch.optim.Optimizer, sampler: ClipSampler, scaler: torch.amp.GradScaler
) -> dict[str, Any]:
    """State dicts to keep next to the weights. The learning rate and the random numbers follow from the step."""
    return {
        "optimizer": optimizer.state_dict(),
        "sampler": sampler.state_dict(),
        "scaler": scaler.state_dict(),
    }


def apply_training(
    state: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    sampler: ClipSampler,
    scaler: torch.amp.GradScaler,
    clips: int,
    source: str,
) -> None:
    """Put what `training_state` returned back in place.

    clips: how many had been trained on. Raises CheckpointError if the state is damaged or of another model.
    """
    try:
        used, videos = state["sampler"]["used"], state["sampler"]["videos"]
        counts = len(used) == len(videos) and all(is_integer(count) and count >= 0 for count in used)
        if not counts or sum(used) != clips:
            raise ValueError(f"the sampler has used {used} clips, expected {clips} in all")
        sampler.load_state_dict(state["sampler"])
        # The settings of the groups follow from the configuration; only the moments are state.
        groups = optimizer.state_dict()["param_groups"]
        moments = _checked_moments(state["optimizer"], optimizer)
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if scaler.is_enabled():
            scale = float(state["scaler"]["scale"])
            if not (math.isfinite(scale) and scale > 0):
                raise ValueError(f"the scale of the gradients is {scale}")
            scaler.load_state_dict(state["scaler"])
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: does not fit this training ({error!r}). Use another checkpoint") from error


def _checked_moments(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state of each parameter; ValueError where it has another shape, or holds NaN or infinity."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes != [len(group["params"]) for group in optimizer.param_groups] or indices != list(range(len(parameters))):
        raise ValueError(f"the optimizer has groups of {sizes} parameters")
    for index, values in state["state"].items():
        for name, value in values.items():
            if value.shape not in (parameters[index].shape, ()):
                raise ValueError(f"{name} of parameter {index} has shape {list(value.shape)}")
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} of parameter {index} is not finite")
    return state["state"]


def _none_usable(out: Path, problems: Sequence[str]) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems)
    return (
        f"no checkpoint of {out} can be resumed:\n{lines}\n"
        f"Delete {out / 'checkpoints'} to train from the start, or take over weights that are sound: --init "
        "CHECKPOINT with another --out"
    )


def _comparable(config: Config) -> dict[str, object]:
    """The configuration, and of its data sets everything but where they lie."""
    return to_plain(config) | {"data sets": [to_plain(replace(spec, path=Path())) for spec in config.specs]}
