"""Checkpoints: a directory per step, written atomically.

    checkpoints/005000/model.safetensors   weights and buffers
                       checkpoint.json     step, configuration, categories, versions
                       training.pt         optimizer, sampler position, gradient scaler; tensors and plain values only
    checkpoints/last -> 005000

A directory is written under a temporary name and renamed once it is complete. Then `last` is replaced, and old
checkpoints are removed. The process may be killed between any two of these steps. The random state needs no file,
because it follows from seed and step.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mfvis.data.jsonfile import LARGEST, is_integer, read_object
from mfvis.errors import CheckpointError, ConfigError, Problem
from mfvis.models.backbone import offline
from mfvis.models.video_model import VideoModel, build_model
from mfvis.parsing import build, to_plain
from mfvis.text import name_fault, shortened
from mfvis.train.config import Config
from mfvis.types import Category
from mfvis.weights import unpickle
from mfvis.weights.files import load_weights, read_state_dict, read_weights, require_fit, save_safetensors
from mfvis.writing import atomic_write

FORMAT = 1
WEIGHTS, INFO, TRAINING = "model.safetensors", "checkpoint.json", "training.pt"


@dataclass(frozen=True)
class CheckpointInfo:
    """Description of a checkpoint."""

    step: int
    """Optimizer steps done."""
    config: Config
    categories: tuple[Category, ...]


class TrainedModel(NamedTuple):
    """A model from a checkpoint, in evaluation mode."""

    model: VideoModel
    categories: tuple[Category, ...]
    """Categories of its labels, in their order."""
    config: Config
    """Configuration of its training."""


def save(
    checkpoints: Path,
    name: str,
    description: CheckpointInfo,
    model: nn.Module,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write ``checkpoints/name`` atomically and return its path. `training`: state dicts for `read_tensors`."""
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
        (partial / INFO).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if training is not None:
            save_tensors(partial / TRAINING, training)
        shutil.rmtree(final, ignore_errors=True)  # left by a run that was killed before it moved `last`
    return final


def save_tensors(path: Path, content: Any) -> None:
    """Write tensors and plain values for `read_tensors`, atomically."""
    # A Python file object, because torch hides file system errors when given a path.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def update_last_link(checkpoint: Path, keep: int) -> None:
    """Make ``last`` point to `checkpoint`, atomically, and remove all but the newest `keep` checkpoints."""
    checkpoints, last = checkpoint.parent, checkpoint.with_name("last")
    if last.is_dir() and not last.is_symlink():  # a copy made by a tool that follows links
        shutil.rmtree(last)
    with atomic_write(last) as link:
        link.symlink_to(checkpoint.name)
    for old in [path for path in _numbered(checkpoints) if int(path.name) <= int(checkpoint.name)][:-keep]:
        shutil.rmtree(old)


def all_of(checkpoints: Path) -> list[Path]:
    """Checkpoints in a run's folder ``checkpoints``: first the target of ``last``, then the others, newest first."""
    last = checkpoints / "last"
    first = [last.resolve()] if last.is_dir() else []
    return first + [path for path in _numbered(checkpoints)[::-1] if path.resolve() not in first]


def find(path: str | Path) -> Path:
    """Checkpoint at `path`, the directory of a checkpoint or of a run, of which the last checkpoint is taken.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if checkpoint := locate(path):
        return checkpoint
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint. Name a directory such as runs/train/checkpoints/last")
    raise CheckpointError(f"{path}: no checkpoint, it has no {INFO}. Name a run's directory or one of its checkpoints")


def locate(path: str | Path) -> Path | None:
    """Checkpoint at `path` as in `find`; None if there is no checkpoint.

    If ``last`` is missing or broken, the newest checkpoint is taken, with a note on stderr.
    """
    path = Path(path)
    for directory in (path, path / "checkpoints" / "last", path / "last"):
        if (directory / INFO).is_file():
            return directory.resolve()
    for folder in (path.parent if path.name == "last" else path, path / "checkpoints"):
        newest = next((directory for directory in _numbered(folder)[::-1] if (directory / INFO).is_file()), None)
        if newest is not None:
            print(f"{folder / 'last'} does not lead to a checkpoint; {newest.name} is taken", file=sys.stderr)
            return newest.resolve()
    return None


def _numbered(folder: Path) -> list[Path]:
    """Directories named by a step, in ascending order."""
    if not folder.is_dir():
        return []
    steps = (path for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name) and path.is_dir())
    return sorted(steps, key=lambda path: int(path.name))


def describe(checkpoint: Path) -> CheckpointInfo:
    """Step, configuration and categories of a checkpoint. CheckpointError if it is damaged."""
    file = checkpoint / INFO
    problems: list[Problem] = []
    content = read_object(file, problems)
    if content is None:
        reason = f"{problems[0].problem}. The checkpoint is damaged"
        raise CheckpointError(f"{file}: {reason}. {_use_another(checkpoint)}")
    try:
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{file}: format {shortened(content['format'])}; this version reads format {FORMAT}. "
                "Use the mfvis that wrote it"
            )
        step = content["step"]
        if not is_integer(step) or not 0 <= step <= LARGEST:
            raise ValueError(f"step is {shortened(step)}")
        if not content["categories"]:
            raise ValueError("there is no category")
        categories = tuple(Category(category["id"], category["name"]) for category in content["categories"])
        for category in categories:
            fault = name_fault(category.name) if is_integer(category.id) else "has no whole number as its id"
            if fault:
                raise ValueError(f"category {shortened(category.name)} {fault}")
        description = CheckpointInfo(step, build(Config, content["config"], str(file)), categories)
        _check_sizes(description, checkpoint / WEIGHTS)
        return description
    except ConfigError as error:
        raise CheckpointError(f"{error}\nThe checkpoint was written by another version or edited by hand") from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: {error!r} where a checkpoint's description was expected. {_use_another(checkpoint)}"
        ) from error


def _check_sizes(description: CheckpointInfo, weights: Path) -> None:
    """Raise ValueError if the configuration's sizes exceed those of the weights. Building such a model could exhaust
    the memory."""
    if not weights.is_file():
        return  # reported when the weights are read
    try:
        with safe_open(weights, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return
    largest = max([len(shapes), *(size for shape in shapes for size in shape)])
    for name, size in vars(description.config.model).items():
        if is_integer(size) and size > largest:
            raise ValueError(f"model.{name} is {size}, but no tensor of {weights.name} has a side above {largest}")


def _use_another(checkpoint: Path) -> str:
    others = [path for path in all_of(checkpoint.parent) if path.resolve() != checkpoint.resolve()]
    return f"Use another checkpoint{f', such as {others[0]}' if others else ''}"


def load_model(path: str | Path, device: torch.device | str = "cpu", check_finite: bool = True) -> TrainedModel:
    """Load a checkpoint: model in eval mode, categories of its labels, and configuration of its training.

    Args:
        path: directory of a checkpoint or of a run.
        device: device of the model.
        check_finite: refuse weights that hold NaN or infinity.

    Raises:
        CheckpointError: the checkpoint is absent, damaged, or inconsistent.
    """
    checkpoint = find(path)
    description = describe(checkpoint)
    weights = checkpoint / WEIGHTS
    try:
        state = read_state_dict(weights)
        backbone = offline(description.config.model.backbone)
        sizes = (replace(description.config.model, backbone=backbone), len(description.categories))
        with torch.device("meta"):  # takes no memory, even if the sizes are huge
            require_fit(build_model(*sizes, pretrained=False), state, str(weights))
        model = build_model(*sizes, pretrained=False)
        load_weights(model, state, str(weights), check_finite=check_finite)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint / INFO}: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_use_another(checkpoint)}") from error
    return TrainedModel(model.to(device).eval(), description.categories, description.config)


def read_tensors(file: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values from `save_tensors`; CheckpointError for any other content."""
    advice = _use_another(file.parent)
    if not file.exists():
        raise CheckpointError(f"{file}: missing, so the training cannot go on from here. {advice}")
    try:
        if not file.is_file():
            raise ValueError("no regular file")
        unpickle.check_zip(file)
        with zipfile.ZipFile(file) as archive:  # torch does not verify the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has another checksum")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files can raise any exception in torch
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: damaged, or not plain tensors ({reason}). {advice}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds {type(content).__name__}; expected a dict. {advice}")
    return content


def initialize_from(path: str | Path, model: VideoModel, categories: Sequence[Category]) -> str:
    """Load the initial weights of a training; returns one line that reports what was loaded.

    path: a checkpoint, or weights of a whole model or a backbone in any format that `mfvis.weights.files.read_weights`
    reads. The class head keeps its random initial values if the classes differ: in their names for a checkpoint, in
    their number for other files.
    """
    checkpoint_path = locate(path)
    weights = read_weights(checkpoint_path or path)
    if weights.model not in (None, model.config.name):
        raise CheckpointError(
            f"{path}: weights of a {weights.model} ({weights.format}), but model.name is {model.config.name}; "
            f"set model.name to {weights.model}, or use other weights"
        )
    reinitialized = ("decoder.class_head", "prompts.", *weights.absent)
    tensors = dict(weights.tensors)
    if checkpoint_path and [c.name for c in describe(checkpoint_path).categories] != [c.name for c in categories]:
        tensors = {name: value for name, value in tensors.items() if "class_head" not in name}
    elif checkpoint_path:
        reinitialized = ()
    notes = [f"weights from {checkpoint_path or path} ({weights.format})"]
    if weights.backbone_only:
        notes.append(f"only the backbone: {model.backbone.load(weights, str(path))}")
    else:
        model.backbone.check_stride(weights, str(path))
        report = load_weights(model, tensors, str(path), 0.9 if reinitialized else 1.0, reinitialized)
        notes.append(str(report))
        if not checkpoint_path and any(name.startswith("decoder.class_head") for name in report.loaded):
            notes.append(f"its {len(categories)} classes are taken for those of the data, in their order")
    if weights.ignored:
        notes.append(f"{len(weights.ignored)} left out ({', '.join(weights.ignored[:5])})")
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    if not checkpoint_path and any(norm.weight.requires_grad for norm in norms):
        notes.append("the backbone's batch norms are trained on; to freeze them name model.backbone.weights too")
    return "; ".join(notes)
