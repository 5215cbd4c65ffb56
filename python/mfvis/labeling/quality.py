"""Quality: the expected J of each mask, estimated without true masks, so that a person knows which to check first.

A linear model of a few measurements, fitted to clips with true masks (`benchmarks/results/quality.md`). The number
orders the masks of a run; it is not a measurement of J.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.losses.background import box_spans
from mfvis.losses.background_propagation import inside_boxes
from mfvis.types import TrackResult, VideoDataset, present

FEATURES = ("uncertainty", "misfit", "disagreement", "change", "smallness")
COEFFICIENTS = (-0.26, -0.26, -0.07, -0.15, 0.11)
"""Factors of the measurements, in the order of `FEATURES`. That of smallness is positive because good masks of small
objects have more uncertain pixels, too."""
INTERCEPT = 0.90
DOUBTFUL = 0.75
"""Score below which a track is reported after the run."""
SIDE = 24
"""Height and width in cells to which masks are resized before those of adjacent frames are compared."""


def disagreement(logits_NTHW: Tensor, models_MNTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """float ``[N, T]``: 1 - IoU of the masks of M models with those of their ensemble, averaged over the models."""
    inside_NTHW = inside_boxes(boxes_NT4, *logits_NTHW.shape[-2:])
    p_NTHW = logits_NTHW.sigmoid() * inside_NTHW
    return 1 - torch.stack([_soft_iou(logits.sigmoid() * inside_NTHW, p_NTHW) for logits in models_MNTHW]).mean(0)


def features(logits_NTHW: Tensor, disagreement_NT: Tensor, boxes_NT4: Tensor) -> Tensor:
    """float ``[N, T, 5]``: measurements of each mask, in the order of `FEATURES`; zeros without a box.

    * uncertainty: uncertain pixels, relative to the size of the mask
    * misfit: share of the box's rows and columns without a pixel of the mask
    * disagreement: of the models with their ensemble
    * change: 1 - IoU with the adjacent frames' masks after the boxes are aligned
    * smallness: 1 / side of the box in cells

    Args:
        logits_NTHW: final mask logits.
        disagreement_NT: see `disagreement`.
        boxes_NT4: on the grid of the masks.
    """
    height, width = logits_NTHW.shape[-2:]
    inside_NTHW = inside_boxes(boxes_NT4, height, width)
    p_NTHW = logits_NTHW.sigmoid() * inside_NTHW
    mask_NTHW = p_NTHW > 0.5
    size_NT = p_NTHW.sum((2, 3)).clamp(min=1)
    uncertain_NT = torch.minimum(p_NTHW, (1 - p_NTHW) * inside_NTHW).sum((2, 3)) / size_NT
    rows_NTH, columns_NTW = box_spans(boxes_NT4, height, width)
    filled = [
        (mask_NTHW.any(axis) & span).sum(-1) / span.sum(-1).clamp(min=1)
        for axis, span in ((3, rows_NTH), (2, columns_NTW))
    ]
    side_NT = (boxes_NT4[..., 2:] - boxes_NT4[..., :2]).amax(-1).clamp(min=1)
    stacked = torch.stack(
        [
            uncertain_NT.clamp(max=1),
            1 - (filled[0] + filled[1]) / 2,
            disagreement_NT,
            torch.stack([_change(*track) for track in zip(p_NTHW, boxes_NT4, strict=True)]),
            1 / side_NT,
        ],
        -1,
    )
    return stacked * present(boxes_NT4)[..., None]


def expected_j(features_NTF: Tensor) -> Tensor:
    """float ``[N, T]``, 0..1: expected J of masks with these measurements."""
    return (features_NTF @ features_NTF.new_tensor(COEFFICIENTS) + INTERCEPT).clamp(0, 1)


def score_of(quality: Sequence[float | None]) -> float:
    """Score of a track: the mean quality of its masks; 1 without one."""
    values = [value for value in quality if value is not None]
    return sum(values) / len(values) if values else 1.0


def warnings_of(results: Sequence[TrackResult], dataset: VideoDataset) -> list[str]:
    """A line for each track that is probably lost or wrong."""
    names = {category.id: category.name for category in dataset.categories}
    return [
        f"track {result.track_id} ({names[result.category_id]}): its masks are doubtful (score {result.score:.2f}); "
        "look at them first"
        for result in results
        if result.score < DOUBTFUL
    ]


def _soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of probabilities over the last two axes; 1 if both are empty."""
    return (torch.minimum(a, b).sum((-2, -1)) + 1e-3) / (torch.maximum(a, b).sum((-2, -1)) + 1e-3)


def _change(p_THW: Tensor, boxes_T4: Tensor) -> Tensor:
    """float ``[T]``: 1 - IoU of each mask with those of the adjacent frames that have a box, in their boxes' frames."""
    height, width = p_THW.shape[-2:]
    x1, y1, x2, y2 = (boxes_T4 / boxes_T4.new_tensor([width, height] * 2)).unbind(-1)
    steps = (torch.arange(SIDE, device=p_THW.device) + 0.5) / SIDE
    x_TW, y_TH = x1[:, None] + (x2 - x1)[:, None] * steps, y1[:, None] + (y2 - y1)[:, None] * steps
    shape = (len(p_THW), SIDE, SIDE)
    grid = torch.stack([x_TW[:, None, :].expand(shape), y_TH[:, :, None].expand(shape)], -1) * 2 - 1
    crops_TSS = F.grid_sample(p_THW[:, None], grid, align_corners=False)[:, 0]
    there_T = present(boxes_T4)
    both_T = (there_T[1:] & there_T[:-1]).float()
    changes_T = (1 - _soft_iou(crops_TSS[1:], crops_TSS[:-1])) * both_T
    count_T = F.pad(both_T, (1, 0)) + F.pad(both_T, (0, 1))
    return (F.pad(changes_T, (1, 0)) + F.pad(changes_T, (0, 1))) / count_T.clamp(min=1)
