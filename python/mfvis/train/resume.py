"""Resuming a training: find its checkpoints, check that they belong to it, and restore their state.

Every step is a function of the state before it. A damaged checkpoint therefore costs only time: resuming from an
earlier one leads to the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfvis.data.clips import ClipDataset, ClipSampler
from mfvis.data.jsonfile import is_integer
from mfvis.errors import CheckpointError, ConfigError
from mfvis.parsing import changed_keys, to_plain
from mfvis.train import checkpoint
from mfvis.train.checkpoint import TRAINING, WEIGHTS
from mfvis.train.config import Config
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
"""Settings that may differ when a training is resumed; all others determine its result."""


@dataclass(frozen=True)
class Resumed:
    """State from which a training continues."""

    checkpoint: Path
    step: int
    """Optimizer steps done."""
    notes: tuple[str, ...]
    """Reasons why newer checkpoints were not used."""


def candidates(config: Config) -> list[Path]:
    """Checkpoints from which a training may continue, the preferred one first; empty for a new training.

    Raises:
        ConfigError: `config.out` and `config.resume` are inconsistent, or the checkpoints belong to a training with
            other settings.
        CheckpointError: there are checkpoints, but none of their descriptions can be read.
    """
    checkpoints = checkpoint.all_of(config.out / "checkpoints")
    if not checkpoints:
        if config.resume:
            raise ConfigError(f"nothing to resume: {config.out} has no checkpoint; leave out --resume")
        return []
    description, problems = None, []
    for path in checkpoints:
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
    return checkpoints


def restore(
    paths: Sequence[Path],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sampler: ClipSampler,
    scaler: torch.amp.GradScaler,
    batch_size: int,
    clips: Sequence[ClipDataset],
) -> Resumed:
    """Restore the state of the first valid checkpoint.

    Args:
        paths: from `candidates`.
        batch_size: clips per optimizer step.
        clips: the data of the training; a note says where they are not those of the checkpoint.

    Raises:
        CheckpointError: no checkpoint is valid.
        ConfigError: the data differ from those of the training.
    """
    problems: list[str] = []
    for path in paths:
        try:
            description = checkpoint.describe(path)
            step = description.step
            load_weights(model, read_state_dict(path / WEIGHTS), str(path / WEIGHTS))
            state = checkpoint.read_tensors(path / TRAINING)
            apply_training(state, optimizer, sampler, scaler, step * batch_size, str(path / TRAINING))
        except CheckpointError as error:
            problems.append(str(error))
            continue
        before, now = ([c.name for c in part] for part in (description.categories, clips[0].dataset.categories))
        if before != now:
            raise ConfigError(f"{path} was trained on the classes {before}, the data have {now}. Resume with the same")
        notes = [f"{problem}\nIt is left out, and its steps are done again" for problem in problems]
        hashes = zip(clips, state.get("data", ()), strict=False)
        notes += [
            f"{part.dataset.path}: boxes or frames are not those that {path.name} was trained on, so the result will "
            "not be that of an uninterrupted training"
            for part, before in hashes
            if before != hash_of_data(part)
        ]
        return Resumed(path, step, tuple(notes))
    raise CheckpointError(_none_usable(paths[0].parent.parent, problems))


def hash_of_data(clips: ClipDataset) -> str:
    """Hash of a data set's boxes, and of its frames as far as the sizes of their files tell."""
    digest = hashlib.sha256()
    for video in clips.videos:
        files = (video.frames,) if isinstance(video.frames, Path) else video.frames
        sizes = [path.stat().st_size for path in files]
        digest.update(repr((video.id, video.width, video.height, video.length, sizes)).encode())
        for track in video.tracks:
            digest.update(repr((track.id, track.category_id, track.iscrowd)).encode() + track.boxes_T4.tobytes())
    return digest.hexdigest()


def training_state(
    optimizer: torch.optim.Optimizer, sampler: ClipSampler, scaler: torch.amp.GradScaler, data: Sequence[str] = ()
) -> dict[str, Any]:
    """State to save next to the weights. The learning rate and the random numbers follow from the step.

    data: `hash_of_data` of each data set.
    """
    return {
        "data": list(data),
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
    """Restore the result of `training_state`.

    clips: number of clips trained on so far. CheckpointError if the state is damaged or of another model.
    """
    try:
        used, videos = state["sampler"]["used"], state["sampler"]["videos"]
        counts = len(used) == len(videos) and all(is_integer(count) and count >= 0 for count in used)
        if not counts or sum(used) != clips:
            raise ValueError(f"the sampler has used {used} clips, expected {clips} in all")
        sampler.load_state_dict(state["sampler"])
        # Only the moments are restored; the settings of the groups follow from the configuration.
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
    """State of each parameter; ValueError if its shape is wrong or it holds NaN or infinity."""
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
        f"Delete {out / 'checkpoints'} to train from the start, or start from valid weights: --init "
        "CHECKPOINT with another --out"
    )


def _comparable(config: Config) -> dict[str, object]:
    """The configuration without the locations of its data sets."""
    return to_plain(config) | {"data sets": [to_plain(replace(spec, path=Path())) for spec in config.specs]}
