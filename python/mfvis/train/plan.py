"""``mfvis train --dry-run``: what a training would be - batch, schedule, memory - without starting it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks

from mfvis.config import Config, derived
from mfvis.data.augment import fitted_size
from mfvis.data.clips import padded_size
from mfvis.data.datasets import LAYOUTS, Source, load_source
from mfvis.models.mask2former import VideoMask2Former
from mfvis.train.engine import clip_datasets

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs, as far as they can be told without running it."""

    parameters: int
    """How many there are."""
    state: int
    """Weights, gradients and the two moments of AdamW, in float32."""
    activations: int
    """What the model keeps for its backward pass, in float32."""
    logits: int
    """Mask logits of all decoder layers and their gradient, in float32."""


def plan(config: Config) -> list[str]:
    """The derived numbers of a training. Annotations are read if they are there; of a published data set that is not,
    classes and number of videos are known."""
    absent = [source for source in config.sources() if source.name and not source.path.exists()]
    if absent:
        videos = [_videos(source) for source in config.sources()]
        first = config.sources()[0]
        classes = len(LAYOUTS[first.name].classes if first.name else load_source(first).categories)
    else:
        clips = clip_datasets(config)
        classes, videos = len(clips[0].dataset.categories), [len(part) for part in clips]
    lines = derived(config, int(os.environ.get("WORLD_SIZE", 1)), videos)
    lines += [f"{s.path} is not there: {_videos(s)} videos, as {s.name} was published" for s in absent]
    lines += [f"classes {classes}", *_told(config, estimate(config, classes))]
    if config.train.per_device > 1:
        worst = sum(_gib(config, estimate(config, classes, square=True)))
        lines.append(f"memory up to {worst:.1f} GiB where a tall clip and a wide one are padded to one size")
    return lines


def _videos(source: Source) -> int:
    return LAYOUTS[source.name].videos if source.name else len(load_source(source).videos)


def estimate(config: Config, classes: int, square: bool = False) -> Memory:
    """The memory of one process: its model, built and run on the meta device with the largest clips at 16:9.

    square: with both sides as long as the longer one of these.
    """
    with torch.device("meta"):
        model = VideoMask2Former(config.model, classes, pretrained=False).train()
    length = max(source.length or config.clip.frames for source in config.sources())
    short, longest = max(config.clip.short_sides), config.clip.max_side
    height, width = padded_size(*fitted_size(short, round(short * 16 / 9), short, longest))
    height = width if square else height
    frames = torch.empty(config.train.per_device, length, 3, height, width, dtype=torch.uint8, device="meta")
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    # Held until they are counted: the address of a storage that is gone would be given to another.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = model(frames)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Memory(
        parameters,
        4 * parameters + 12 * trained,
        sum(storage.nbytes() for address, storage in kept.items() if address not in own),
        2 * 4 * prediction.masks_LBQTHW.numel(),
    )


def _gib(config: Config, memory: Memory) -> tuple[float, float, float]:
    """State, activations and logits, in the precision of the training."""
    # Convolutions and products keep 16 bits, norms and softmax 32; as measured, it is half.
    share = 1.0 if config.train.amp == "no" else 0.5
    return memory.state / GIB, share * memory.activations / GIB, share * memory.logits / GIB


def _told(config: Config, memory: Memory) -> list[str]:
    state, activations, logits = _gib(config, memory)
    how = "in float32" if config.train.amp == "no" else f"at half of float32's, for {config.train.amp}"
    return [
        f"parameters {memory.parameters:,}",
        f"memory about {state + activations + logits:.1f} GiB per process = {state:.1f} weights, gradients and "
        f"optimiser + {activations:.1f} activations + {logits:.1f} mask logits, {how}",
    ]
