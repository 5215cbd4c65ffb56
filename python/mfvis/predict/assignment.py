"""Which predicted tube belongs to which given track."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mfvis_ext
from mfvis.types import TrackResult, Video


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


def assign_results(video: Video, results: Sequence[TrackResult]) -> list[TrackResult]:
    """For each track of the video the predicted tube whose boxes fit the track's best, one each, whatever its class.

    Boxes alone decide, as in label mode, so that J is not measured on masks that were chosen by the true masks.
    """
    if not video.tracks:
        return []
    nothing = TrackResult(video.id, 0, 0.0, (None,) * video.length, np.zeros((video.length, 4), np.float32))
    candidates = [*results, *[nothing] * max(0, len(video.tracks) - len(results))]
    given, found = (
        torch.from_numpy(np.stack([track.boxes_T4 for track in tracks])) for tracks in (video.tracks, candidates)
    )
    rows, columns = linear_sum_assignment(mfvis_ext.box_tube_dice(given, found).numpy(), maximize=True)
    return [
        replace(candidates[column], track_id=video.tracks[row].id) for row, column in zip(rows, columns, strict=True)
    ]
