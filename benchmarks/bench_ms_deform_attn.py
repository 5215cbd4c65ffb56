"""The pixel decoder's attention over the maps of a ResNet-50 at strides 32, 16 and 8, against the grid_sample form of
Deformable DETR and `transformers`: every token asks, 8 heads of 32 channels, 4 points a level. With the softmax of its
weights, also against `torch.softmax` and our operator without it.

On the CPU its floor is arithmetic and what feeds it: 2 operations for each channel of the four corners of a sample, and
twice as many again in the backward pass, each with a value from the second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from harness import Case, close, main
from inputs import Setting, generator
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.ms_deform_attn import ms_deform_attn as reference

HEADS, CHANNELS, POINTS = 8, 32, 4
DIFFERENTIABLE = ("value", "sampling_locations", "attention_weights")


def maps(height: int, width: int) -> Tensor:
    """Sizes of the maps at strides 32, 16 and 8 that belong to masks `height` x `width`, at stride 4."""
    return torch.tensor([[-(-height // step), -(-width // step)] for step in (8, 4, 2)])


def arguments(frames: int, height: int, width: int, softmax: bool) -> dict[str, Any]:
    """Random arguments of the operator; the points lie some pixels of their level away from the token."""
    seeded = generator()
    shapes = maps(height, width)
    areas = shapes.prod(1)
    centers = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w) for h, w in shapes.tolist()
    ]
    tokens, levels = int(areas.sum()), len(shapes)
    offsets = 2 * torch.randn(frames, tokens, HEADS, levels, POINTS, 2, generator=seeded) / shapes.flip(1)[:, None]
    logits = torch.randn(frames, tokens, HEADS, levels * POINTS, generator=seeded)
    weights = logits if softmax else logits.softmax(-1)
    made = {
        "value": torch.randn(frames, tokens, HEADS, CHANNELS, generator=seeded),
        "spatial_shapes": shapes,
        "level_start_index": areas.cumsum(0) - areas,
        "sampling_locations": torch.cat(centers).flip(1)[:, None, None, None] + offsets,
        "attention_weights": weights.view(frames, tokens, HEADS, levels, POINTS),
        "softmax": softmax,
    }
    return {name: value.requires_grad_() if name in DIFFERENTIABLE else value for name, value in made.items()}


def unfused(attention_weights: Tensor, softmax: bool, **others: Any) -> Tensor:
    """Our operator after `torch.softmax`."""
    weights = attention_weights.flatten(3).softmax(-1).view(attention_weights.shape)
    return mfvis_ext.ms_deform_attn(attention_weights=weights, **others)


VARIANTS = (
    ("", False, reference),
    ("softmax, ", True, reference),
    ("softmax against torch.softmax and ours, ", True, unfused),
)
"""Kind, whether the softmax is part of it, and the baseline."""


def loss_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss whose gradient differs from token to token and from channel to channel."""
    return lambda **made: function(**made).square().sum()


def agree_forward(ours: Tensor, theirs: Tensor) -> None:
    """Compare outputs. An error of 1e-7 in a location is one of 1e-5 pixels in a map of 160 columns."""
    close(ours, theirs, atol=1e-4)


def agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """A location's slope jumps at the center of a pixel: where both round to different sides, both are right."""
    for i in (0, 1, 3):
        close(ours[i], theirs[i], atol=1e-4)
    apart = (ours[2] - theirs[2]).abs() > 1e-3 * (1 + theirs[2].abs())
    assert apart.float().mean() < 1e-4


def case_of(kind: str, softmax: bool, baseline: Callable[..., Tensor], passes: int, one: Setting) -> Case:
    shapes = maps(one.height, one.width)
    sampled = one.frames * int(shapes.prod(1).sum()) * HEADS * len(shapes) * POINTS * CHANNELS * 4  # bytes
    wrap = loss_of if passes > 1 else lambda function: function
    return Case(
        make=lambda: arguments(one.frames, one.height, one.width, softmax),
        setting=one,
        size=f"{one.frames} frames, short side {4 * one.height}",
        kind=kind + ("forward + backward" if passes > 1 else "forward"),
        ours=wrap(mfvis_ext.ms_deform_attn),
        reference=wrap(baseline),
        bytes_moved=lambda made: passes * sum(made[name].nbytes for name in DIFFERENTIABLE),
        operations=lambda made: passes * 8 * CHANNELS * made["attention_weights"].numel(),
        reference_bytes=passes * sampled if baseline is reference else 0,
        agree=agree if passes > 1 else agree_forward,
        differentiate=passes > 1,
        quick=one.frames == 1,
    )


def cases_of(setting: Setting) -> list[Case]:
    settings = [setting, replace(setting, frames=1, height=90, width=160)] if setting == Setting() else [setting]
    return [
        case_of(kind, softmax, baseline, passes, one)
        for one in settings
        for kind, softmax, baseline in VARIANTS
        for passes in (1, 3)  # with the backward pass, which takes twice the forward pass
    ]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size"))
