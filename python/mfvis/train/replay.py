"""A loss that is not finite: what led to it is kept, and ``mfvis replay`` computes it once more."""

from __future__ import annotations

from typing import NoReturn

import torch

from mfvis.config import ReplayConfig
from mfvis.errors import CheckpointError, TrainingError
from mfvis.losses.criterion import Criterion, LossTerms
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train import checkpoint
from mfvis.train.checkpoint import CheckpointInfo
from mfvis.train.step import forward, is_prompted, seed_everything
from mfvis.types import Batch, ClipOrigin

BATCH = "batch.pt"


def stop_for_replay(
    what: str,
    description: CheckpointInfo,
    model: VideoMask2Former,
    batch: Batch,
    part: int,
    rank: int,
    terms: LossTerms,
) -> NoReturn:
    """Write weights, configuration and batch below ``out/failed`` and raise a TrainingError that names them."""
    kept = checkpoint.save(
        description.config.out / "failed", f"{description.step:06}-{part}-{rank}", description, model
    )
    # Tensors and plain values alone, as `checkpoint.read_tensors` takes nothing else.
    content = vars(batch.to("cpu")) | {"clips": [tuple(origin) for origin in batch.clips], "part": part, "rank": rank}
    checkpoint.save_tensors(kept / BATCH, content)
    named = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.as_dict().items())
    clips = "; ".join(f"video {origin.video_id}, frames {list(origin.frame_indices)}" for origin in batch.clips)
    raise TrainingError(
        f"step {description.step}: the {what} is not finite ({named}), on {clips}.\n"
        f"Weights, configuration and batch are kept: mfvis replay {kept}\n"
        "A lower --train.lr, a longer --train.warmup or --train.amp no is what usually mends it."
    )


def run(config: ReplayConfig) -> LossTerms:
    """Print every term of the kept batch's loss, and the parameters whose gradient is not finite.

    Raises CheckpointError if the directory is none that a stopped training left.
    """
    if not (config.path / BATCH).is_file():
        raise CheckpointError(
            f"{config.path}: no batch to replay, it has no {BATCH}. Name what the training's message named"
        )
    description = checkpoint.describe(checkpoint.find(config.path))
    trained = description.config
    model, categories, _ = checkpoint.load_model(config.path, check_finite=False)
    content = checkpoint.read_tensors(config.path / BATCH)
    part, rank = content.pop("part"), content.pop("rank")
    batch = Batch(**content | {"clips": tuple(ClipOrigin(*origin) for origin in content["clips"])})
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
