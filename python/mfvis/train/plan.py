"""``mfvis train --dry-run``: summary of batch, schedule and memory without training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from mfvis.data.augment import fitted_size, padded_size
from mfvis.data.datasets import DatasetSpec
from mfvis.models.video_model import build_model
from mfvis.train.config import Config, summarize_schedule
from mfvis.train.engine import clip_datasets
from mfvis.train.step import autocast

GIB = 2**30
OBJECTS = 10
"""Objects per clip, for the memory estimate."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs, as far as they can be estimated without running it."""

    parameters: int
    """Number of parameters."""
    state: int
    """Weights, gradients and the two moments of AdamW, in float32."""
    activations: int
    """Tensors saved for the model's backward pass, in the precision of the training."""
    logits: int
    """Mask logits with gradients, and the activations behind them, of `OBJECTS` per clip at all layers; and of all
    queries at one layer if the matching uses masks."""


def plan(config: Config) -> list[str]:
    """Summary lines of a training. Annotations are read if they exist; for published data sets that are absent, the
    classes and the number of videos are known."""
    absent = [spec for spec in config.specs if spec.name and not spec.path.exists()]
    if absent:
        videos = [_num_videos(spec) for spec in config.specs]
        first = config.specs[0]
        classes = len(first.info.categories or first.load().categories)
    else:
        clips = clip_datasets(config)
        classes, videos = len(clips[0].dataset.categories), [len(part) for part in clips]
    lines = summarize_schedule(config, int(os.environ.get("WORLD_SIZE", 1)), videos)
    lines += [f"{s.path} is not there: {_num_videos(s)} videos, as {s.name} was published" for s in absent]
    memory = estimate(config, classes)
    state, activations, logits = memory.state / GIB, memory.activations / GIB, memory.logits / GIB
    lines += [
        f"classes {classes}",
        f"parameters {memory.parameters:,}",
        f"memory about {state + activations + logits:.1f} GiB per process = {state:.1f} weights, gradients and "
        f"optimizer + {activations:.1f} activations + {logits:.1f} mask logits",
    ]
    if config.train.batch_size_per_device > 1:
        height, width = _largest(config)
        worst = state + (activations + logits) * width / height
        lines.append(f"memory up to {worst:.1f} GiB where a tall clip and a wide one are padded to one size")
    return lines


def _num_videos(spec: DatasetSpec) -> int:
    return spec.info.num_videos or len(spec.load().videos)


def _largest(config: Config) -> tuple[int, int]:
    """Height and width of the largest clips at 16:9, padded."""
    short, longest = max(config.clip.short_sides), config.clip.max_side
    return padded_size(*fitted_size(short, round(short * 16 / 9), short, longest))


def estimate(config: Config, classes: int) -> Memory:
    """Memory of one process, from running the model with the largest clips at 16:9 on meta tensors. Autocast treats
    these as others (residuals of a Swin stay in float32, features of a ResNet do not)."""
    with torch.device("meta"):
        model = build_model(config.model, classes, pretrained=False).train()
    length = max(spec.length or config.clip.frames for spec in config.specs)
    # Kept until they are counted, because the address of a freed storage would be reused.
    kept: dict[int, torch.UntypedStorage] = {}
    kept_for_masks: dict[int, torch.UntypedStorage] = {}

    def keep(storages: dict[int, torch.UntypedStorage], tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        counted = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        frames = torch.empty(config.train.batch_size_per_device, length, 3, *_largest(config), dtype=torch.uint8)
        with autocast("cpu", config.train.amp), saved_tensors_hooks(partial(keep, kept), lambda tensor: tensor):
            prediction = model(frames)
        layers, clips, queries = prediction.logits_LBQK.shape[:3]
        queries_LM = torch.zeros(layers, min(OBJECTS, queries), dtype=torch.int64)
        with saved_tensors_hooks(partial(keep, kept_for_masks), lambda tensor: tensor):
            matched = prediction.masks.select(0, queries_LM)
        by_masks = prediction.masks.all_queries(0, 0).nbytes if prediction.boxes_LBTQ4 is None else 0
    activations = sum(storage.nbytes() for address, storage in kept.items() if address not in counted)
    counted |= kept.keys()
    per_clip = 2 * matched.nbytes + sum(s.nbytes() for address, s in kept_for_masks.items() if address not in counted)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Memory(
        parameters,
        4 * parameters + 12 * trained,
        activations,
        by_masks + clips * per_clip,
    )
