"""Criterion: all losses of a prediction and its batch, with one call of each loss for all decoder layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfvis.grid import STRIDE
from mfvis.losses import released_code
from mfvis.losses.background import background_loss
from mfvis.losses.boxes import box_losses
from mfvis.losses.classification import classification_loss
from mfvis.losses.config import LossConfig
from mfvis.losses.inputs import MaskLossInputs, mean_over_processes
from mfvis.losses.masks import dense_mask_losses, mask_losses
from mfvis.losses.matcher import match
from mfvis.losses.projection import projection_loss
from mfvis.types import Batch, Match, Prediction


@dataclass(frozen=True)
class LossTerms:
    """Weighted losses of one batch."""

    total: Tensor
    """Their sum."""
    by_name: dict[str, Tensor]
    """Every loss; 0 for those that were not computed."""

    def as_dict(self) -> dict[str, Tensor]:
        """Detached losses by name, `total` first."""
        return {name: value.detach() for name, value in {"total": self.total, **self.by_name}.items()}


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
        self.names = ("classification", "box_l1", "box_giou", "projection", *config.mask_losses(), "background")
        self.names += ("mask_bce", "mask_dice")

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
        return LossTerms(sum(terms.values(), start=zero), dict.fromkeys(self.names, zero) | terms)

    def _mask_terms(self, masks_LNTHW: Tensor, batch: Batch, objects: Tensor, step: int) -> dict[str, Tensor]:
        """Weighted terms of the masks, by name."""
        config = self.config
        if self.with_masks:
            if config.masks.dense:
                bce, dice = dense_mask_losses(masks_LNTHW, batch.masks_NTHW, objects)
            else:
                bce, dice = mask_losses(masks_LNTHW, batch.masks_NTHW, config.masks, objects)
            return {"mask_bce": config.masks.bce * bce, "mask_dice": config.masks.dice * dice}
        inputs = MaskLossInputs(masks_LNTHW, batch, objects, step, config)
        terms: dict[str, Tensor] = {}
        losses = config.mask_losses()
        if config.released_code:
            terms |= released_code.box_terms(
                masks_LNTHW, batch, step, config.projection, config.pairwise, config.temporal
            )
            losses = {name: loss for name, loss in losses.items() if name not in ("pairwise", "temporal")}
        elif config.projection > 0:
            terms["projection"] = config.projection * projection_loss(inputs)
        weights = {name: loss.weight_at(step) for name, loss in losses.items()}
        terms |= {name: weight * losses[name].term(inputs) for name, weight in weights.items() if weight > 0}
        if config.background > 0:
            loss = background_loss(masks_LNTHW.flatten(0, 1), inputs.boxes_MT4, objects)
            terms["background"] = config.background * loss
        return terms


def matched_masks(prediction: Prediction, matched: Match, batch: Batch) -> Tensor:
    """Mask logits ``[L, N, T, H, W]`` of the query assigned to each object, at every layer."""
    per_clip = [
        prediction.masks.select(clip, matched.query_LN[:, objects])
        for clip, objects in enumerate(batch.objects_of_clips)
    ]
    return torch.cat(per_clip, 1)
