"""Assignment of predicted tubes to given tracks."""

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
    """int64 ``[N]``: index of the predicted tube assigned to each given track, by the dice of their box tubes.

    Each tube is assigned at most once. If there are more tracks than tubes, each of the remaining tracks gets its best
    tube, even if that is assigned already.

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
    """Predicted tubes assigned one-to-one to the tracks of the video by their boxes, regardless of class.

    Only boxes are used, as in label mode. Otherwise J would be measured on masks selected by the ground-truth masks.
    """
    if not video.tracks:
        return []
    nothing = TrackResult(video.id, 0, 0.0, (None,) * video.length, np.zeros((video.length, 4), np.float32))
    candidates = [*results, *[nothing] * max(0, len(video.tracks) - len(results))]
    track_boxes, result_boxes = (
        torch.from_numpy(np.stack([track.boxes_T4 for track in tracks])) for tracks in (video.tracks, candidates)
    )
    rows, columns = linear_sum_assignment(mfvis_ext.box_tube_dice(track_boxes, result_boxes).numpy(), maximize=True)
    return [
        replace(candidates[column], track_id=video.tracks[row].id) for row, column in zip(rows, columns, strict=True)
    ]
