"""Assignment of queries to objects: the least total cost of class and box tube (or masks), per decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import mfvis_ext
from mfvis.errors import ConfigError, require
from mfvis.losses.masks import point_sample
from mfvis.types import Batch, Match, Prediction


@dataclass(frozen=True)
class MatchConfig:
    """Weights of the matching cost."""

    classification: float = 2.0
    """On 1 - probability of the object's class."""
    box: float = 5.0
    """On 1 - dice between the box tube of the predicted mask and the given one. Unused with ``--supervision masks``."""
    mask_bce: float = 5.0
    """On the cross-entropy at random points. Used with ``--supervision masks`` only."""
    mask_dice: float = 5.0
    """On 1 - dice at the same points. Used with ``--supervision masks`` only."""
    points: int = 12544
    """Random points per frame, the same ones in every frame of a clip. Used with ``--supervision masks`` only."""

    def __post_init__(self) -> None:
        weights = ("classification", "box", "mask_bce", "mask_dice")
        wanted = {name: (getattr(self, name) >= 0, "0 or more") for name in weights}
        require(self, wanted | {"points": (self.points >= 1, "1 or more")})


@torch.no_grad()
def match(
    prediction: Prediction, batch: Batch, boxes_NT4: Tensor, config: MatchConfig, with_masks: bool = False
) -> Match:
    """Assign a query of its own clip to every object, at every layer with the least total cost.

    boxes: those of the batch on the grid of the masks. ConfigError if a clip has more objects than there are queries.
    """
    cost_LQN = matching_cost(prediction, batch, boxes_NT4, config, with_masks).cpu()
    layers, queries, objects = cost_LQN.shape
    # A prediction that is not finite must reach the loss, where it is told and kept; any assignment serves until then.
    cost = np.nan_to_num(cost_LQN.double().numpy(), nan=1e6, posinf=1e6, neginf=-1e6)
    query_LN = np.zeros((layers, objects), np.int64)
    video_index = batch.video_index_N.cpu().numpy()
    for clip, origin in enumerate(batch.clips):
        members = np.flatnonzero(video_index == clip)
        if len(members) > queries:
            raise ConfigError(
                f"model.num_queries is {queries}, but video {origin.video_id} has {len(members)} objects in frames "
                f"{list(origin.frame_indices)}; set model.num_queries to {len(members)} or more"
            )
        for layer in range(layers):
            rows, columns = linear_sum_assignment(cost[layer][:, members])
            query_LN[layer, members[columns]] = rows
    return Match(torch.from_numpy(query_LN).to(prediction.logits_LBQK.device))


@torch.no_grad()
def matching_cost(
    prediction: Prediction, batch: Batch, boxes_NT4: Tensor, config: MatchConfig, with_masks: bool = False
) -> Tensor:
    """float32 ``[L, Q, N]``: the cost of each query of its own clip for each object.

    Class and box tube, Ke et al. 2023, section 3.3; with masks, class, cross-entropy and dice as in Mask2Former for
    videos, without the boxes.
    """
    probability = prediction.logits_LBQK.float().softmax(-1)
    members = [batch.video_index_N == clip for clip in range(len(batch.clips))]
    if with_masks:
        masks = prediction.masks_LBQTHW
        costs = [
            _mask_cost(masks[:, clip].float(), batch.masks_NTHW[mine], config) for clip, mine in enumerate(members)
        ]
    else:
        # All clips in one call: a slice of the masks would be copied.
        layers, _, queries, frames = prediction.masks_LBQTHW.shape[:4]
        tubes = mfvis_ext.mask_to_boxes(prediction.masks_LBQTHW.flatten(0, 2)).view(layers, -1, queries, frames, 4)
        dice = [
            mfvis_ext.box_tube_dice(tubes[:, clip].flatten(0, 1), boxes_NT4[mine]).view(layers, queries, -1)
            for clip, mine in enumerate(members)
        ]
        costs = [config.box * (1 - d) for d in dice]
    for clip, mine in enumerate(members):
        # 1 - p instead of the usual -p: the same assignment, and a cost that is never negative.
        costs[clip] = costs[clip] + config.classification * (1 - probability[:, clip][..., batch.labels_N[mine]])
    # The objects of a batch come clip after clip, but nothing relies on it.
    order = torch.cat([mine.nonzero()[:, 0] for mine in members])
    return torch.cat(costs, -1)[..., order.argsort()]


def _mask_cost(masks_LQTHW: Tensor, truth_NTHW: Tensor, config: MatchConfig) -> Tensor:
    layers, queries, frames, height, width = masks_LQTHW.shape
    objects = truth_NTHW.shape[0]
    if not objects:
        return masks_LQTHW.new_zeros(layers, queries, 0)
    points = torch.rand(1, config.points, 2, device=masks_LQTHW.device)
    predicted = point_sample(masks_LQTHW.reshape(-1, height, width), points.expand(layers * queries * frames, -1, -1))
    predicted = predicted.view(layers, queries, -1)
    true = point_sample(truth_NTHW.flatten(0, 1).float(), points.expand(objects * frames, -1, -1)).view(objects, -1)
    bce = (F.softplus(-predicted) @ true.T + F.softplus(predicted) @ (1 - true).T) / true.shape[1]
    probability = predicted.sigmoid()
    dice = 1 - (2 * probability @ true.T + 1) / (probability.sum(-1, keepdim=True) + true.sum(-1) + 1)
    return config.mask_bce * bce + config.mask_dice * dice
