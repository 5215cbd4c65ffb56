"""Saving of the batch with a loss that is not finite, and ``mfvis replay``, which computes that loss again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from mfvis.errors import CheckpointError, TrainingError
from mfvis.losses.criterion import Criterion, LossTerms
from mfvis.train import checkpoint
from mfvis.train.checkpoint import CheckpointInfo
from mfvis.train.config import ReplayConfig
from mfvis.train.step import forward, is_prompted, seed_everything
from mfvis.types import Batch, ClipOrigin

BATCH = "batch.pt"


def require_finite_step(
    parts: Sequence[tuple[Batch, LossTerms]],
    norm: Tensor,
    scaler: torch.amp.GradScaler,
    description: CheckpointInfo,
    model: nn.Module,
    rank: int,
) -> None:
    """Stop a training before its weights change if a loss of the step or the norm of its gradient is not finite.

    All of them are read at once, because each reading waits for the device. Gradients that were scaled overflow
    occasionally; the scaler then skips the step and lowers its scale.
    """
    *losses, gradient = torch.stack([*(terms.total.detach() for _, terms in parts), norm]).isfinite().tolist()
    if not all(losses):
        part = losses.index(False)
        stop_for_replay("loss", description, model, parts[part][0], part, rank, parts[part][1])
    if not gradient and scaler.get_scale() <= 1:
        batch, terms = parts[-1]
        stop_for_replay("gradient", description, model, batch, len(parts) - 1, rank, terms)


def stop_for_replay(
    what: str,
    description: CheckpointInfo,
    model: nn.Module,
    batch: Batch,
    part: int,
    rank: int,
    terms: LossTerms,
) -> NoReturn:
    """Write weights, configuration and batch below ``out/failed`` and raise a TrainingError that names them."""
    failed = description.config.out / "failed"
    # Only tensors and plain values, because `checkpoint.read_tensors` accepts nothing else.
    content = vars(batch.to("cpu")) | {"clips": [tuple(origin) for origin in batch.clips], "part": part, "rank": rank}
    try:
        kept = checkpoint.save(failed, f"{description.step:06}-{part}-{rank}", description, model)
        checkpoint.save_tensors(kept / BATCH, content)
        where = f"Weights, configuration and batch are kept: mfvis replay {kept}"
    except OSError as error:
        where = f"Weights, configuration and batch could not be kept ({error.strerror}: {error.filename})"
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.as_dict().items())
    clips = "; ".join(f"video {origin.video_id}, frames {list(origin.frame_indices)}" for origin in batch.clips)
    raise TrainingError(
        f"step {description.step}: the {what} is not finite ({values}), on {clips}.\n"
        f"{where}\n"
        "A lower --train.lr, a longer --train.warmup or --train.amp no is what usually mends it."
    )


def run(config: ReplayConfig) -> LossTerms:
    """Print every term of the saved batch's loss, and the parameters whose gradient is not finite.

    Raises:
        CheckpointError: the directory was not written by a failed training, or is damaged.
    """
    if not (config.path / BATCH).is_file():
        raise CheckpointError(
            f"{config.path}: no batch to replay, it has no {BATCH}. Name what the training's message named"
        )
    description = checkpoint.describe(checkpoint.find(config.path))
    trained = description.config
    model, categories, _ = checkpoint.load_model(config.path, check_finite=False)
    batch, part, rank = _read_batch(config.path / BATCH, len(categories))
    seed_everything(trained.train.seed, description.step, part, rank)
    criterion = Criterion(trained.loss, len(categories), batch.masks_NTHW is not None)
    prompted = is_prompted(trained, description.step)
    terms = forward(model.train(), criterion, batch, description.step, prompted, trained.train.amp)
    for name, value in terms.as_dict().items():
        print(f"{name:<16}{float(value):.6g}")
    terms.total.backward()
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    broken_weights = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    print(f"weights that are not finite: {', '.join(broken_weights) or 'none'}")
    print(f"gradients that are not finite: {', '.join(broken) or 'none'}")
    return terms


def _read_batch(file: Path, classes: int) -> tuple[Batch, int, int]:
    """The batch, its part of the step, and its process."""
    content = checkpoint.read_tensors(file)
    try:
        part, rank = int(content.pop("part")), int(content.pop("rank"))
        batch = Batch(**content | {"clips": tuple(ClipOrigin(*origin) for origin in content["clips"])})
        clips, frames = batch.frames_BTCHW.shape[:2]
        objects = len(batch.labels_N)
        if batch.boxes_NT4.shape != (objects, frames, 4) or batch.video_index_N.shape != (objects,):
            raise ValueError("the objects do not fit the frames")
        if not (part >= 0 and rank >= 0 and len(batch.clips) == clips == len(batch.sizes_B2)):
            raise ValueError("the clips do not fit the frames")
        if objects and not (batch.labels_N.min() >= 0 and batch.labels_N.max() < classes):
            raise ValueError(f"a label is none of {classes} classes")
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file}: not the batch of this training ({error!r})") from error
    return batch, part, rank
