from __future__ import annotations

from torch import Tensor

from mfvis_ext.mask_loss import MaskLossTerms
from mfvis_ext.modules import Matches
from mfvis_ext.reference.box_projection_loss import box_projection_loss
from mfvis_ext.reference.pairwise_loss import pairwise_loss_terms
from mfvis_ext.reference.tk_loss import tk_loss_terms


def mask_loss_terms(
    mask_logits: Tensor,
    boxes: Tensor,
    video_index: Tensor,
    *,
    projection: bool = True,
    frames: Tensor | None = None,
    kernel_size: int = 3,
    dilation: int = 2,
    threshold: float = 0.3,
    matches: Matches | None = None,
) -> MaskLossTerms:
    loss = box_projection_loss(mask_logits, boxes) if projection else None
    pairwise: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    if frames is not None:
        pairwise = pairwise_loss_terms(mask_logits, frames, boxes, video_index, kernel_size, dilation, threshold)
    tk: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    if matches is not None:
        search = (matches.radius, matches.dilation, matches.shift)
        tk = tk_loss_terms(mask_logits, matches.offset, matches.weight, matches.pairs, boxes, video_index, *search)
    return MaskLossTerms(loss, *pairwise, *tk)
