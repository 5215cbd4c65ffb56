"""Checkpoints: a directory per step, written atomically.

    checkpoints/005000/model.safetensors   weights and buffers
                       checkpoint.json     step, configuration, categories, versions
                       training.pt         optimiser, sampler position, gradient scaler; tensors and plain values only
    checkpoints/last -> 005000

A directory is written under another name and renamed when it is complete, then `last` is replaced, then old ones go; a
process may be killed between any two of these. The random state needs no file: it follows from seed and step.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mfvis.config import Config
from mfvis.data.clips import ClipSampler
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.weights import load_weights, read_state_dict, read_weights, save_safetensors
from mfvis.parsing import build, to_plain
from mfvis.types import Category
from mfvis.writing import atomic_write

FORMAT = 1
WEIGHTS, DESCRIPTION, TRAINING = "model.safetensors", "checkpoint.json", "training.pt"


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself."""

    step: int
    """Optimiser steps done."""
    config: Config
    categories: tuple[Category, ...]


def save(
    checkpoints: Path,
    name: str,
    description: Description,
    model: nn.Module,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write ``checkpoints/name`` in one piece and return it. `training`: state dicts for `restore`."""
    content = {
        "format": FORMAT,
        "step": description.step,
        "torch": torch.__version__,
        "categories": [{"id": category.id, "name": category.name} for category in description.categories],
        "config": to_plain(description.config),
    }
    final = checkpoints / name
    with atomic_write(final) as partial:
        partial.mkdir()
        save_safetensors(partial / WEIGHTS, model.state_dict())
        (partial / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if training is not None:
            save_tensors(partial / TRAINING, training)
        shutil.rmtree(final, ignore_errors=True)  # left by a run that was killed before it moved `last`
    return final


def save_tensors(path: Path, content: Any) -> None:
    """Write tensors and plain values, for `read_tensors`; the file appears once it is complete."""
    # Through a file of Python's, or torch hides what the file system says.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def point_last(checkpoint: Path, keep: int) -> None:
    """Make ``last`` point to `checkpoint`, in one move, and remove all but the newest `keep` checkpoints."""
    checkpoints = checkpoint.parent
    link = checkpoints / ".last.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint.name)
    os.replace(link, checkpoints / "last")
    paths = {int(path.name): path for path in checkpoints.iterdir() if re.fullmatch("[0-9]+", path.name)}
    for step in sorted(step for step in paths if step <= int(checkpoint.name))[:-keep]:
        shutil.rmtree(paths[step])


def find(path: str | Path) -> Path:
    """The checkpoint that `path` means: a checkpoint's directory, or that of a run, which means its last one."""
    if found := locate(path):
        return found
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint. Name a directory such as runs/train/checkpoints/last")
    raise CheckpointError(
        f"{path}: no checkpoint, it has no {DESCRIPTION}. Name a run's directory or one of its checkpoints"
    )


def locate(path: str | Path) -> Path | None:
    """As `find`; None where there is no checkpoint."""
    path = Path(path)
    candidates = (path, path / "checkpoints" / "last", path / "last")
    return next((place.resolve() for place in candidates if (place / DESCRIPTION).is_file()), None)


def describe(checkpoint: Path) -> Description:
    """Step, configuration and categories of a checkpoint. CheckpointError if it is damaged."""
    file = checkpoint / DESCRIPTION
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{file}: format {content['format']!r}; this version reads format {FORMAT}. Use the mfvis that wrote it"
            )
        categories = tuple(Category(id=int(c["id"]), name=str(c["name"])) for c in content["categories"])
        return Description(int(content["step"]), build(Config, content["config"], str(file)), categories)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{file}: not readable as JSON ({error}). The checkpoint is damaged; use another"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: {error!r} where a checkpoint's description was expected; use another"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{error}\nThe checkpoint was written by another version or edited by hand") from error


def load_model(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[VideoMask2Former, tuple[Category, ...], Config]:
    """The model of a checkpoint in eval mode, the categories of its labels, and the configuration it was trained with.

    path: a checkpoint's directory or a run's. Raises CheckpointError with what is wrong and where.
    """
    checkpoint = find(path)
    description = describe(checkpoint)
    model = VideoMask2Former(description.config.model, len(description.categories), pretrained=False)
    load_weights(model, read_state_dict(checkpoint / WEIGHTS), str(checkpoint / WEIGHTS))
    return model.to(device).eval(), description.categories, description.config


def restore(checkpoint: Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights of a checkpoint into `model` and return the state dicts that `save` was given as `training`."""
    load_weights(model, read_state_dict(checkpoint / WEIGHTS), str(checkpoint / WEIGHTS))
    return read_tensors(checkpoint / TRAINING)


def read_tensors(file: Path) -> dict[str, Any]:
    """A dict of tensors and plain values that torch.save wrote; anything else is refused with a CheckpointError."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: missing, so the training cannot go on from here. Use another checkpoint"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: damaged, or not plain tensors ({reason}). Use another checkpoint") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds {type(content).__name__}; expected a dict. Use another checkpoint")
    return content


def start_from(path: str | Path, model: VideoMask2Former, categories: Sequence[Category]) -> str:
    """Load weights to begin a training with; returns a line that says what was taken.

    path: a checkpoint, or weights of any format that `mfvis.models.weights.read_weights` reads, of a whole model or of
    a backbone. The class head is learnt anew where the classes are others: other names in a checkpoint, another number
    elsewhere.
    """
    anew = ("decoder.class_head.", "prompts.")
    own = locate(path)
    named = read_weights(own or path)
    tensors = dict(named.tensors)
    if own and [c.name for c in describe(own).categories] != [c.name for c in categories]:
        tensors = {name: value for name, value in tensors.items() if "class_head" not in name}
    elif own:
        anew = ()
    said = [f"weights from {own or path} ({named.format})"]
    if named.backbone_only:
        said.append(f"the backbone alone: {model.backbone.load(named, str(path))}")
    else:
        model.backbone.check_stride(named, str(path))
        report = load_weights(model, tensors, str(path), 0.9 if anew else 1.0, anew)
        said.append(str(report))
        if not own and "decoder.class_head.weight" in report.loaded:
            said.append(f"its {len(categories)} classes are taken for those of the data, in their order")
    if named.left_out:
        said.append(f"{len(named.left_out)} left out ({', '.join(named.left_out[:5])})")
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    if not own and any(norm.weight.requires_grad for norm in norms):
        said.append("the backbone's batch norms are trained on; to freeze them name model.backbone.weights too")
    return "; ".join(said)


def training_state(
    optimizer: torch.optim.Optimizer, sampler: ClipSampler, scaler: torch.amp.GradScaler
) -> dict[str, Any]:
    """What `save` keeps beside the weights. The learning rate and the random numbers follow from the step."""
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
    source: str,
) -> None:
    """Put what `training_state` gave back in place. CheckpointError if it does not fit."""
    try:
        optimizer.load_state_dict(state["optimizer"])
        sampler.load_state_dict(state["sampler"])
        if state["scaler"]:  # there is none but with fp16
            scaler.load_state_dict(state["scaler"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{source}/{TRAINING}: does not fit this training ({error}). Use another checkpoint"
        ) from error
