from __future__ import annotations

from typing import Any

import torch
from harness import Case, close, main
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.box_projection_loss import box_projection_loss as reference


def arguments(instances: int, frames: int, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(instances, frames, 2, 2, generator=generator) * torch.tensor([width, height])
    logits = 3 * torch.randn(instances, frames, height, width, generator=generator)
    return {"mask_logits": logits.requires_grad_(), "boxes": torch.cat([corners.amin(2), corners.amax(2)], -1)}


def forward_backward(function):
    def run(mask_logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        loss = function(mask_logits, boxes)
        return loss.detach(), *torch.autograd.grad(loss, mask_logits)

    return run


def forward(function):
    @torch.no_grad()
    def run(mask_logits: Tensor, boxes: Tensor) -> Tensor:
        return function(mask_logits, boxes)

    return run


def cases_of(name: str, quick: bool, *sizes: int) -> list[Case]:
    return [
        Case(
            name=f"{kind.__name__}, {name}",
            make=lambda: arguments(*sizes),
            ours=kind(mfvis_ext.box_projection_loss),
            baseline=kind(reference),
            agree=close,
            bytes_moved=lambda made, passes=passes: passes * made["mask_logits"].nbytes,
            quick=quick,
        )
        # Forward reads the logits; backward reads them again and writes the gradient.
        for kind, passes in ((forward, 1), (forward_backward, 3))
    ]


if __name__ == "__main__":
    main(
        __file__,
        cases_of("N 10, T 5, 120x216", True, 10, 5, 120, 216)
        + cases_of("N 100, T 5, 120x216", False, 100, 5, 120, 216),
    )
