"""The criterion: from a prediction and its batch to one number, all decoder layers in one call of each loss."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.errors import require
from mfvis.grid import STRIDE, grid_colors
from mfvis.losses.background import background_loss
from mfvis.losses.masks import MaskConfig, mask_losses
from mfvis.losses.matcher import MatchConfig, match
from mfvis.losses.pairwise import PairwiseConfig, pairwise_loss
from mfvis.losses.projection import projection_loss
from mfvis.losses.temporal import TemporalConfig
from mfvis.types import Batch, Match, Prediction


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; the defaults are the paper's."""

    classification: float = 2.0
    """On the cross-entropy of the classes."""
    no_object: float = 0.1
    """Weight of the class "no object" among the others."""
    projection: float = 5.0
    """On 1 - dice between the projections of mask and box, onto x and onto y."""
    background: float = 0.0
    """On -log(1 - p) of the pixels outside the box; not in the paper."""
    pairwise: PairwiseConfig = field(default_factory=PairwiseConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    swap_red_blue: bool = False
    """Compute LAB from swapped channels, as the released code of the paper does."""

    def __post_init__(self) -> None:
        names = ("classification", "no_object", "projection", "background")
        require(self, {name: (getattr(self, name) >= 0, "0 or more") for name in names})


@dataclass(frozen=True)
class LossTerms:
    """The weighted losses of one batch; `total` is their sum. Terms that were not computed are 0."""

    total: Tensor
    classification: Tensor
    projection: Tensor
    pairwise: Tensor
    temporal: Tensor
    background: Tensor
    mask_bce: Tensor
    mask_dice: Tensor

    def named(self) -> dict[str, Tensor]:
        """Detached, by name, `total` first."""
        return {f.name: getattr(self, f.name).detach() for f in fields(self)}


class Criterion(nn.Module):
    """Mask-free (or, for comparison, mask-supervised) losses of video Mask2Former; Ke et al. 2023, eq. 6.

    Args:
        config: Weights and settings of every term.
        num_classes: K, without "no object".
        with_masks: False never touches `Batch.masks_NTHW`. True replaces the projection, pairwise, temporal and
            background terms by cross-entropy and dice against the masks.
    """

    def __init__(self, config: LossConfig, num_classes: int, with_masks: bool = False):
        super().__init__()
        self.config, self.num_classes, self.with_masks = config, num_classes, with_masks
        self.tk_loss = config.temporal.tk_loss()

    def forward(self, prediction: Prediction, batch: Batch, step: int, matched: Match | None = None) -> LossTerms:
        """Compute the losses, summed over the decoder layers.

        Args:
            prediction: At all decoder layers.
            batch: The input of the prediction, on the same device.
            step: Optimizer steps done so far, for the warm-up of the pairwise and temporal terms.
            matched: The assignment, where it is known (queries made from the boxes). By default queries are assigned
                by `mfvis.losses.matcher.match`.
        """
        if matched is None:
            matched = match(prediction, batch, batch.boxes_NT4 / STRIDE, self.config.match, self.with_masks)
        return self.terms(prediction, matched, matched_masks(prediction, matched, batch), batch, step)

    def terms(
        self,
        prediction: Prediction,
        matched: Match,
        masks_LNTHW: Tensor,
        batch: Batch,
        step: int,
        shift_BP2: Tensor | None = None,
    ) -> LossTerms:
        """Compute the losses of a known assignment; as `forward`.

        Args:
            masks_LNTHW: Mask logits of each object's query, at every layer.
            shift_BP2: int64 camera motion (dy, dx) in grid cells, per clip and pair of frames.
        """
        config, layers = self.config, len(masks_LNTHW)
        boxes_NT4 = batch.boxes_NT4 / STRIDE

        # ---- What is summed here is divided by the mean over the processes below.
        objects = masks_LNTHW.new_full((1,), len(batch.labels_N), dtype=torch.float32)
        temporal_P = weight_P = objects[:0]
        if not self.with_masks:
            # All layers as one list of objects: the matched masks go through each loss in one call.
            masks, boxes = masks_LNTHW.flatten(0, 1), boxes_NT4.repeat(layers, 1, 1)
            video_index = batch.video_index_N.repeat(layers)
            frames_BTCHW = batch.frames_BTCHW.flip(2) if config.swap_red_blue else batch.frames_BTCHW
            lab_BTCHW, _ = grid_colors(frames_BTCHW, batch.sizes_B2)
            if config.temporal.weight > 0:
                matches = self.tk_loss.match(lab_BTCHW, shift_BP2)
                loss_NP, weight_NP = self.tk_loss.terms(masks, boxes, video_index, matches)
                temporal_P, weight_P = loss_NP.sum(0), weight_NP.sum(0)
        normalisers = mean_over_processes(torch.cat([objects, weight_P / layers])).clamp(min=1)
        normaliser, weight_P = normalisers[0], normalisers[1:]

        # ---- The weighted terms; the sum over layers is what deep supervision means.
        # In the graph, so that a batch without objects has a gradient.
        zero = prediction.masks.select(0, matched.query_LN[:, :0]).sum(dtype=torch.float32)
        terms = dict.fromkeys((f.name for f in fields(LossTerms) if f.name != "total"), zero)
        terms["classification"] = config.classification * self._classification(prediction, matched, batch)
        if self.with_masks:
            bce, dice = mask_losses(masks_LNTHW, batch.masks_NTHW, config.masks, normaliser)
            terms |= {"mask_bce": config.masks.bce * bce, "mask_dice": config.masks.dice * dice}
        else:
            if config.projection > 0:
                terms["projection"] = config.projection * projection_loss(masks, boxes, normaliser)
            if config.pairwise.weight > 0:
                mean = pairwise_loss(masks, lab_BTCHW, boxes, video_index, config.pairwise)
                ramp = _ramp(step - config.pairwise.start, config.pairwise.warmup)
                terms["pairwise"] = config.pairwise.weight * ramp * layers * mean
            if config.temporal.weight > 0:
                ramp = _ramp(step, config.temporal.warmup)
                terms["temporal"] = config.temporal.weight * ramp * (temporal_P / weight_P).sum()
            if config.background > 0:
                terms["background"] = config.background * background_loss(masks, boxes, normaliser)
        return LossTerms(total=sum(terms.values(), start=zero), **terms)

    def _classification(self, prediction: Prediction, matched: Match, batch: Batch) -> Tensor:
        """Cross-entropy of every query, unmatched ones being "no object"; a weighted mean per layer, as in DETR."""
        logits_LBQK = prediction.logits_LBQK.float()
        layers = logits_LBQK.shape[0]
        target_LBQ = torch.full(logits_LBQK.shape[:3], self.num_classes, device=logits_LBQK.device)
        layer = torch.arange(layers, device=logits_LBQK.device)[:, None]
        target_LBQ[layer, batch.video_index_N, matched.query_LN] = batch.labels_N
        weight_K = logits_LBQK.new_ones(self.num_classes + 1)
        weight_K[-1] = self.config.no_object
        # Every layer has the same number of matched queries, hence the same sum of weights.
        return layers * F.cross_entropy(logits_LBQK.flatten(0, 2), target_LBQ.flatten(), weight_K)


def _ramp(step: int, warmup: int) -> float:
    """The factor on a weight that rises over the first `warmup` steps; 0 before step 0."""
    if step < 0:
        return 0.0
    return min((step + 1) / warmup, 1.0) if warmup else 1.0


def matched_masks(prediction: Prediction, matched: Match, batch: Batch) -> Tensor:
    """Mask logits ``[L, N, T, H, W]`` of the query that stands for each object, at every layer."""
    per_clip = [
        prediction.masks.select(clip, matched.query_LN[:, objects])
        for clip, objects in enumerate(batch.objects_of_clips)
    ]
    return torch.cat(per_clip, 1)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes of a distributed training; itself where there is but one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    values = values.detach().clone()
    torch.distributed.all_reduce(values)
    return values / torch.distributed.get_world_size()
