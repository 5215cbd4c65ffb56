"""The floor of pairwise_loss: every unordered pair of neighbours once, 4 per pixel of the boxes instead of 8.

The forward pass needs an exponential, a logarithm and a division per pair, some 40 operations; the backward pass an
exponential and a division. With boxes of about 11 % of the frame, N 10 and T 5 that is 0.6 million pairs, 40 MFLOP:
under 1 ms on two cores. Logits in, gradient out: 10 MB, mostly the gradient's zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from bench_tk_loss import boxes_of, clip, forward, forward_backward
from harness import Case, close, main

import mfvis_ext
from mfvis_ext.reference.pairwise_loss import pairwise_loss as reference


def arguments(instances: int, frames: int, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(instances, frames, height, width, generator=generator)
    return {
        "mask_logits": logits.requires_grad_(),
        "frames": clip(generator, frames, height, width),
        "boxes": boxes_of(generator, instances, frames, height, width),
        "video_index": torch.zeros(instances, dtype=torch.int64),
    }


def cases_of(name: str, quick: bool, *sizes: int) -> list[Case]:
    return [
        Case(
            name=f"{kind.__name__}, {name}",
            make=lambda: arguments(*sizes),
            ours=kind(mfvis_ext.pairwise_loss),
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
        cases_of("N 10, T 5, 120x216", True, 10, 5, 120, 216) + cases_of("N 50, T 5, 120x216", False, 50, 5, 120, 216),
    )
