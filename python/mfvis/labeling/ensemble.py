"""Ensembling of several models of the same tracks: average the models that agree with the boxes, resolve overlaps."""

from __future__ import annotations

import torch
from torch import Tensor

import mfvis_ext
from mfvis.losses.background_propagation import inside_boxes

ABSENT = -10.0
"""Mask logit of pixels that cannot belong to the object."""
MARGIN = 0.15
"""Largest projection loss (0 to 2) above the best model's at which a model is still averaged."""


def average_consistent_models(logits_MNTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """float ``[N, T, H, W]``: each track's logits, averaged over those of M models whose masks fill its boxes.

    A model may lose an object altogether. The projections of its mask then differ from those of the boxes, which can be
    measured without ground-truth masks. Boxes are on the grid of the masks.
    """
    confined_MNTHW = _confined(logits_MNTHW, boxes_NT4)
    boxes_N1T4 = boxes_NT4[:, None]
    misfit_MN = torch.stack(
        [
            torch.stack(list(map(mfvis_ext.box_projection_loss, logits_NTHW[:, None], boxes_N1T4)))
            for logits_NTHW in confined_MNTHW
        ]
    )
    heard_MN = (misfit_MN <= misfit_MN.amin(0) + MARGIN).to(logits_MNTHW.dtype)
    return torch.einsum("mnthw,mn->nthw", logits_MNTHW, heard_MN / heard_MN.sum(0))


def resolve_overlaps(logits_NTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """Logits after a softmax over the background, whose score is 0, and the tracks, each confined to its boxes.

    Where boxes overlap, several tracks may claim a pixel; afterwards at most one of them has a logit above 0.
    """
    confined_NTHW = _confined(logits_NTHW, boxes_NT4)
    background_1THW = torch.zeros_like(confined_NTHW[:1])
    others = [
        torch.cat([background_1THW, confined_NTHW[:n], confined_NTHW[n + 1 :]]).logsumexp(0)
        for n in range(len(boxes_NT4))
    ]
    return logits_NTHW - torch.stack(others)


def _confined(logits: Tensor, boxes_NT4: Tensor) -> Tensor:
    return logits.masked_fill(~inside_boxes(boxes_NT4, *logits.shape[-2:]), ABSENT)
