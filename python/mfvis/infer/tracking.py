"""Which predicted tube belongs to which given track."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mfvis_ext


def assign_tubes(masks_QTHW: Tensor, boxes_NT4: Tensor) -> Tensor:
    """int64 ``[N]``: the predicted tube of each given track, by the dice of their box tubes, no tube twice.

    Tracks beyond the number of tubes share: each takes the best one.

    Args:
        masks_QTHW: logits.
        boxes_NT4: on the grid of the masks.
    """
    dice_NQ = mfvis_ext.box_tube_dice(boxes_NT4.float(), mfvis_ext.mask_to_boxes(masks_QTHW.float()))
    query_N = dice_NQ.argmax(1)
    rows, columns = linear_sum_assignment(dice_NQ.cpu().numpy(), maximize=True)
    query_N[torch.as_tensor(rows, device=query_N.device)] = torch.as_tensor(columns, device=query_N.device)
    return query_N
