"""Background loss: pixels outside an object's box do not belong to the object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def box_spans(boxes_NT4: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """bool ``[N, T, H]`` and ``[N, T, W]``: True for rows and columns whose pixel centers lie in the box."""
    x1, y1, x2, y2 = boxes_NT4[..., None].unbind(-2)
    x = torch.arange(width, device=boxes_NT4.device) + 0.5
    y = torch.arange(height, device=boxes_NT4.device) + 0.5
    return (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)


def background_loss(masks_NTHW: Tensor, boxes_NT4: Tensor, normalizer: Tensor | float) -> Tensor:
    """Mean of -log(1 - σ(logit)) over the pixels outside each object's box, in all frames of the clip.

    In a frame without a box all pixels are outside. masks: logits; boxes: on the grid of the masks. The sum over the
    objects is divided by `normalizer`. The projection loss has a gradient at one pixel per row and column only; this
    loss has one at all pixels outside the box.
    """
    _, frames, height, width = masks_NTHW.shape
    rows, columns = (span.float() for span in box_spans(boxes_NT4, height, width))
    cost = F.softplus(masks_NTHW.float())
    # Rows outside the box, plus columns outside within its rows: needs no box mask and avoids cancellation.
    outside = torch.einsum("nth,nth->n", cost.sum(-1), 1 - rows) + torch.einsum(
        "nthw,nth,ntw->n", cost, rows, 1 - columns
    )
    pixels = frames * height * width - (rows.sum(-1) * columns.sum(-1)).sum(-1)
    return (outside / pixels.clamp(min=1)).sum() / normalizer
