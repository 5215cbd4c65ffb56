"""Criterion: all losses of a prediction and its batch, with one call of each loss for all decoder layers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

import mfvis_ext
from mfvis.grid import STRIDE, grid_colors
from mfvis.losses import released_code
from mfvis.losses.background import background_loss
from mfvis.losses.background_propagation import (
    camera_motion,
    inside_boxes,
    outside_all_boxes,
    propagated_background,
)
from mfvis.losses.boxes import box_losses
from mfvis.losses.classification import classification_loss
from mfvis.losses.config import LossConfig
from mfvis.losses.masks import dense_mask_losses, mask_losses
from mfvis.losses.matcher import match
from mfvis.losses.negatives import negatives_loss
from mfvis.losses.projection import projection_loss
from mfvis.types import Batch, Match, Prediction


@dataclass(frozen=True)
class LossTerms:
    """Weighted losses of one batch; `total` is their sum. Terms that were not computed are 0."""

    total: Tensor
    classification: Tensor
    box_l1: Tensor
    box_giou: Tensor
    projection: Tensor
    pairwise: Tensor
    temporal: Tensor
    propagation: Tensor
    background: Tensor
    mask_bce: Tensor
    mask_dice: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        """Detached losses by name, `total` first."""
        return {f.name: getattr(self, f.name).detach() for f in fields(self)}


TERMS = tuple(f.name for f in fields(LossTerms) if f.name != "total")


class Criterion(nn.Module):
    """Mask-free (or, for comparison, mask-supervised) losses; Ke et al. 2023, eq. 6.

    Args:
        config: Weights and settings of every term.
        num_classes: K, without "no object".
        with_masks: False never touches `Batch.masks_NTHW`. True replaces the projection, pairwise, temporal,
            propagation and background terms by cross-entropy and dice against the masks.
    """

    def __init__(self, config: LossConfig, num_classes: int, with_masks: bool = False):
        super().__init__()
        self.config, self.num_classes, self.with_masks = config, num_classes, with_masks
        self.tk_loss = config.temporal.tk_loss()

    def forward(self, prediction: Prediction, batch: Batch, step: int, matched: Match | None = None) -> LossTerms:
        """Compute the losses, summed over the decoder layers.

        Args:
            prediction: Outputs of all decoder layers.
            batch: The input of the prediction, on the same device.
            step: Optimizer steps done so far, for the warm-up of the pairwise and temporal terms.
            matched: The assignment if it is known (queries made from boxes). By default queries are assigned by
                `mfvis.losses.matcher.match`.
        """
        if self.config.released_code and not self.with_masks:
            batch = released_code.labels_of_last_frame(batch, self.num_classes)
        if matched is None:
            matched = match(prediction, batch, batch.boxes_NT4 / STRIDE, self.config.match, self.with_masks)
        return self.terms(prediction, matched, matched_masks(prediction, matched, batch), batch, step)

    def terms(self, prediction: Prediction, matched: Match, masks_LNTHW: Tensor, batch: Batch, step: int) -> LossTerms:
        """Compute the losses of a known assignment, as `forward` does.

        Args:
            masks_LNTHW: Mask logits of each object's query, at every layer.
        """
        config = self.config
        class_sum, class_weight = classification_loss(prediction, matched, batch, config.no_object)
        count = class_sum.new_full((), len(batch.labels_N))
        counts = mean_over_processes(torch.stack([count if class_weight is None else class_weight, count]))
        objects = counts[1].clamp(min=1)
        class_weight = objects if class_weight is None else counts[0].clamp(min=1e-6)

        # ---- The terms, each summed over the layers (deep supervision).
        terms = self._mask_terms(masks_LNTHW, batch, objects, step)
        # Without a term of the masks, as in a batch without objects, an empty sum gives them a gradient.
        connected = terms and masks_LNTHW.numel()
        zero = class_sum.new_zeros(()) if connected else masks_LNTHW[:, :0].sum(dtype=torch.float32)
        terms["classification"] = config.classification * class_sum / class_weight
        if prediction.boxes_LBTQ4 is not None:
            l1, giou = box_losses(prediction, matched, batch, config.boxes, objects)
            terms |= {"box_l1": config.boxes.l1 * l1, "box_giou": config.boxes.giou * giou}
        return LossTerms(total=sum(terms.values(), start=zero), **dict.fromkeys(TERMS, zero) | terms)

    def _mask_terms(self, masks_LNTHW: Tensor, batch: Batch, objects: Tensor, step: int) -> dict[str, Tensor]:
        """Weighted terms of the masks, by name."""
        config = self.config
        terms: dict[str, Tensor] = {}
        if self.with_masks:
            if config.masks.dense:
                bce, dice = dense_mask_losses(masks_LNTHW, batch.masks_NTHW, objects)
            else:
                bce, dice = mask_losses(masks_LNTHW, batch.masks_NTHW, config.masks, objects)
            terms |= {"mask_bce": config.masks.bce * bce, "mask_dice": config.masks.dice * dice}
        elif config.released_code:
            terms |= released_code.box_terms(
                masks_LNTHW, batch, step, config.projection, config.pairwise, config.temporal
            )
        else:
            terms |= self._box_terms(masks_LNTHW, batch, objects, step)
        if config.background > 0 and not self.with_masks:
            boxes = batch.boxes_NT4.repeat(len(masks_LNTHW), 1, 1) / STRIDE
            terms["background"] = config.background * background_loss(masks_LNTHW.flatten(0, 1), boxes, objects)
        return terms

    def _box_terms(self, masks_LNTHW: Tensor, batch: Batch, objects: Tensor, step: int) -> dict[str, Tensor]:
        """Weighted terms that need only boxes, by name."""
        config, layers = self.config, len(masks_LNTHW)
        pairwise, temporal, propagation = config.pairwise, config.temporal, config.propagation
        # The layers are flattened into one list of objects: the matched masks go through each loss in one call.
        masks, boxes = masks_LNTHW.flatten(0, 1), batch.boxes_NT4.repeat(layers, 1, 1) / STRIDE
        video_index = batch.video_index_N.repeat(layers)
        lab_BTCHW, content_BHW = grid_colors(batch.frames_BTCHW, batch.sizes_B2)

        # Sums over all layers divided by the counts of one layer are the sum of the layers' means.
        terms = {}
        if config.projection > 0:
            terms["projection"] = config.projection * projection_loss(masks, boxes, objects)
        if pairwise.weight > 0:
            loss, count = mfvis_ext.pairwise_loss_terms(
                masks, lab_BTCHW, boxes, video_index, pairwise.kernel_size, pairwise.dilation, pairwise.threshold
            )
            mean = loss / mean_over_processes(count / layers).clamp(min=1)
            terms["pairwise"] = pairwise.weight * _ramp(step - pairwise.start, pairwise.warmup) * mean
        if temporal.weight > 0:
            shift_BP2 = self._camera_motion(lab_BTCHW, content_BHW, batch) if temporal.camera_motion else None
            matches = self.tk_loss.match(lab_BTCHW, shift_BP2)
            loss_NP, weight_NP = self.tk_loss.terms(masks, boxes, video_index, matches)
            mean_P = loss_NP.sum(0) / mean_over_processes(weight_NP.sum(0) / layers).clamp(min=1)
            terms["temporal"] = temporal.weight * _ramp(step, temporal.warmup) * mean_P.sum()
        if propagation.weight > 0:
            known_NTHW, smoothing_N = self._propagated_background(lab_BTCHW, content_BHW, batch)
            loss = negatives_loss(masks, known_NTHW.repeat(layers, 1, 1, 1), objects, smoothing_N.repeat(layers))
            terms["propagation"] = propagation.weight * loss
        return terms

    def _camera_motion(self, lab_BTCHW: Tensor, content_BHW: Tensor, batch: Batch) -> Tensor:
        """int64 ``[B, P, 2]``: camera motion (dy, dx) in grid cells, of each clip and pair of frames."""
        pairs_P2 = mfvis_ext.tube_pairs(lab_BTCHW.shape[1], self.config.temporal.tube, lab_BTCHW.device)
        motion = []
        for i, objects in enumerate(batch.objects_of_clips):
            outside_THW = outside_all_boxes(batch.boxes_NT4[objects] / STRIDE, content_BHW[i])
            motion.append(camera_motion(lab_BTCHW[i], outside_THW, pairs_P2))
        return torch.stack(motion)

    def _propagated_background(self, lab_BTCHW: Tensor, content_BHW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Background inside each object's boxes that other frames of its clip show, bool ``[N, T, H, W]``; and the
        smoothing of the loss, ``[N]``."""
        config, known = self.config.propagation, []
        for i, objects in enumerate(batch.objects_of_clips):
            boxes_NT4 = batch.boxes_NT4[objects] / STRIDE
            outside_THW = outside_all_boxes(boxes_NT4, content_BHW[i])
            known.append(propagated_background(lab_BTCHW[i], outside_THW, boxes_NT4, config))
        inside_NTHW = inside_boxes(batch.boxes_NT4 / STRIDE, *content_BHW.shape[1:])
        return torch.cat(known), config.smoothing * inside_NTHW.sum((1, 2, 3))


def _ramp(step: int, warmup: int) -> float:
    """Factor on a weight that rises linearly over the first `warmup` steps; 0 before step 0."""
    if step < 0:
        return 0.0
    return min((step + 1) / warmup, 1.0) if warmup else 1.0


def matched_masks(prediction: Prediction, matched: Match, batch: Batch) -> Tensor:
    """Mask logits ``[L, N, T, H, W]`` of the query assigned to each object, at every layer."""
    per_clip = [
        prediction.masks.select(clip, matched.query_LN[:, objects])
        for clip, objects in enumerate(batch.objects_of_clips)
    ]
    return torch.cat(per_clip, 1)


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed training; the tensor itself with a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    values = values.detach().clone()
    torch.distributed.all_reduce(values)
    return values / torch.distributed.get_world_size()
