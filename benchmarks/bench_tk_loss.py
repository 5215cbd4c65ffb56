"""The floor of tk_loss: only pixels inside the boxes count, about 14 % of the frame here.

Per counted pixel and match the forward pass needs two exponentials, a logarithm and a division, some 55 operations, and
a gather; the backward pass two exponentials, a division, a gather and a scatter. N 10, 5 pairs and k 5 make 0.9 million
matches: 0.1 GFLOP, or 1 ms of two cores, to which gathers and scatters of single elements add 1 to 2 ns per match.
Logits in, gradient out: 10 MB, mostly the gradient's zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Case, close, main
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.match_weight import match_weight as reference_weight
from mfvis_ext.reference.temporal_topk import temporal_topk as reference_topk
from mfvis_ext.reference.tk_loss import tk_loss as reference


def boxes_of(generator: torch.Generator, instances: int, frames: int, height: int, width: int) -> Tensor:
    """Sides of 20 to 60 % of the frame's, moving by a few pixels."""
    size = torch.tensor([width, height])
    centre = torch.rand(instances, 1, 2, generator=generator) * size
    half = (torch.rand(instances, 1, 2, generator=generator) * 0.4 + 0.2) / 2 * size
    moved = centre + torch.randn(instances, frames, 2, generator=generator) * 3
    return torch.cat([moved - half, moved + half], -1)


def clip(generator: torch.Generator, frames: int, height: int, width: int) -> Tensor:
    """`[1, T, 3, H, W]`: smooth colours and noise, so that a part of the matches is good enough."""
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator) * 60
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (picture + 0.5 * torch.randn(frames, 3, height, width, generator=generator))[None]


def arguments(instances: int, frames: int, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    pairs = mfvis_ext.tube_pairs(frames)
    distance, offset = mfvis_ext.temporal_topk(clip(generator, frames, height, width), pairs)
    logits = 3 * torch.randn(instances, frames, height, width, generator=generator)
    return {
        "mask_logits": logits.requires_grad_(),
        "offset": offset,
        "weight": mfvis_ext.match_weight(distance),
        "pairs": pairs,
        "boxes": boxes_of(generator, instances, frames, height, width),
        "video_index": torch.zeros(instances, dtype=torch.int64),
    }


def forward_backward(function):
    def run(mask_logits: Tensor, *others: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
        loss = function(mask_logits, *others, **named)
        return loss.detach(), *torch.autograd.grad(loss, mask_logits)

    return run


def forward(function):
    @torch.no_grad()
    def run(**arguments: Tensor) -> Tensor:
        return function(**arguments)

    return run


def matching_and_loss(topk, weight, loss):
    """Everything of a training step: what the peak of the memory is about."""

    def run(frames: Tensor, mask_logits: Tensor, pairs: Tensor, boxes: Tensor, video_index: Tensor):
        distance, offset = topk(frames, pairs)
        return forward_backward(loss)(mask_logits, offset, weight(distance), pairs, boxes, video_index)

    return run


def step_arguments(*sizes: int) -> dict[str, Any]:
    made = arguments(*sizes)
    del made["offset"], made["weight"]
    return {"frames": clip(torch.Generator().manual_seed(1), *sizes[1:]), **made}


def cases_of(name: str, quick: bool, *sizes: int) -> list[Case]:
    return [
        Case(
            name=f"{kind.__name__}, {name}",
            make=lambda: arguments(*sizes),
            ours=kind(mfvis_ext.tk_loss),
            baseline=kind(reference),
            agree=close,
            bytes_moved=lambda made, passes=passes: passes * made["mask_logits"].nbytes,
            quick=quick,
        )
        for kind, passes in ((forward, 1), (forward_backward, 3))
    ]


if __name__ == "__main__":
    main(
        __file__,
        [
            *cases_of("N 10, T 5, 120x216", True, 10, 5, 120, 216),
            *cases_of("N 100, T 5, 120x216", False, 100, 5, 120, 216),
            Case(
                name="matching and loss, forward_backward, N 10, T 5, 120x216",
                make=lambda: step_arguments(10, 5, 120, 216),
                ours=matching_and_loss(mfvis_ext.temporal_topk, mfvis_ext.match_weight, mfvis_ext.tk_loss),
                baseline=matching_and_loss(reference_topk, reference_weight, reference),
                agree=close,
                bytes_moved=lambda made: made["frames"].nbytes + 3 * made["mask_logits"].nbytes,
                quick=False,
            ),
        ],
    )
