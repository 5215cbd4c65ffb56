"""Assignment of queries to objects per decoder layer, by minimum total cost of class and box tube (or masks)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mfvis_ext
from mfvis.errors import ConfigError
from mfvis.losses.boxes import box_cost, target_boxes
from mfvis.losses.classification import classification_cost
from mfvis.losses.config import MatchConfig
from mfvis.losses.masks import point_sample
from mfvis.types import Batch, Match, Prediction


@torch.no_grad()
def match(
    prediction: Prediction, batch: Batch, boxes_NT4: Tensor, config: MatchConfig, with_masks: bool = False
) -> Match:
    """Assign a query of its clip to every object, separately at every layer, by minimum total cost.

    The costs are the only values that the host waits for.

    boxes: the batch's boxes on the grid of the masks. ConfigError if a clip has more objects than queries.
    """
    cost_LQN = matching_cost(prediction, batch, boxes_NT4, config, with_masks)
    query_LN = assign(cost_LQN.cpu(), batch)
    if cost_LQN.is_cuda:  # from pinned memory the copy does not wait
        query_LN = query_LN.pin_memory()
    return Match(query_LN.to(cost_LQN.device, non_blocking=True))


def assign(cost_LQN: Tensor, batch: Batch) -> Tensor:
    """Query int64 ``[L, N]`` of every object from its costs with the queries of its clip, both on the CPU."""
    layers, queries, objects = cost_LQN.shape
    # A prediction that is not finite must reach the loss, which reports it and saves the batch. Until then any
    # assignment will do.
    cost = np.nan_to_num(cost_LQN.double().numpy(), nan=1e6, posinf=1e6, neginf=-1e6)
    query_LN = np.zeros((layers, objects), np.int64)
    for origin, members in zip(batch.clips, batch.objects_of_clips, strict=True):
        count = members.stop - members.start
        if count > queries:
            raise ConfigError(
                f"model.num_queries is {queries}, but video {origin.video_id} has {count} objects in frames "
                f"{list(origin.frame_indices)}; set model.num_queries to {count} or more"
            )
        for layer in range(layers):
            rows, columns = linear_sum_assignment(cost[layer][:, members])
            query_LN[layer, members.start + columns] = rows
    return torch.from_numpy(query_LN)


@torch.no_grad()
def matching_cost(
    prediction: Prediction, batch: Batch, boxes_NT4: Tensor, config: MatchConfig, with_masks: bool = False
) -> Tensor:
    """Cost ``[L, Q, N]``, float32, of assigning each query to each object of one clip.

    By default class and box tube, Ke et al. 2023, section 3.3. With masks: class, cross-entropy and dice as in
    Mask2Former for videos, without the boxes. A model with a box head is matched by class and boxes in both cases, as
    published.
    """
    logits_LBQK = prediction.logits_LBQK.float()
    by_boxes = prediction.boxes_LBTQ4 is not None
    if by_boxes:
        target_NT4, weight_NT = target_boxes(batch, config.boxes)
    per_clip = []
    for clip, objects in enumerate(batch.objects_of_clips):
        labels_N = batch.labels_N[objects]
        cost_LQN = config.classification * classification_cost(logits_LBQK[:, clip], labels_N, prediction.no_object)
        if by_boxes:
            boxes_LTQ4 = prediction.boxes_LBTQ4[:, clip].float()
            cost_LQN += box_cost(boxes_LTQ4, target_NT4[objects], weight_NT[objects], config.boxes)
        else:
            for layer, cost_QN in enumerate(cost_LQN):
                # To bound the memory, the masks of all queries exist for only one layer of one clip at a time.
                masks_QTHW = prediction.masks.all_queries(layer, clip)
                if with_masks:
                    cost_QN += _mask_cost(masks_QTHW.float(), batch.masks_NTHW[objects], config)
                else:
                    dice_QN = mfvis_ext.box_tube_dice(mfvis_ext.mask_to_boxes(masks_QTHW), boxes_NT4[objects])
                    cost_QN += config.box * (1 - dice_QN)
        per_clip.append(cost_LQN)
    return torch.cat(per_clip, -1)


def _mask_cost(masks_QTHW: Tensor, truth_NTHW: Tensor, config: MatchConfig) -> Tensor:
    queries, frames, height, width = masks_QTHW.shape
    objects = truth_NTHW.shape[0]
    if not objects:
        return masks_QTHW.new_zeros(queries, 0)
    points = torch.rand(1, config.points, 2, device=masks_QTHW.device)
    predicted = point_sample(masks_QTHW.reshape(-1, height, width), points.expand(queries * frames, -1, -1))
    predicted = predicted.view(queries, -1)
    true = point_sample(truth_NTHW.flatten(0, 1).float(), points.expand(objects * frames, -1, -1)).view(objects, -1)
    bce = (F.softplus(-predicted) @ true.T + F.softplus(predicted) @ (1 - true).T) / true.shape[1]
    probability = predicted.sigmoid()
    dice = 1 - (2 * probability @ true.T + 1) / (probability.sum(-1, keepdim=True) + true.sum(-1) + 1)
    return config.mask_bce * bce + config.mask_dice * dice
