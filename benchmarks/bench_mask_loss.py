"""The floor of the three mask losses together: memory. The logits are read in each pass, one gradient is written.

Separately, each loss writes a gradient, and autograd adds the three: six more passes over memory of that size, and
more tensors of it. The baselines are plain PyTorch and our own operators one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import torch
from harness import Case, main
from inputs import Setting, generator, moving_clip, random_boxes, random_logits
from torch import Tensor

import mfvis_ext
from mfvis_ext import MaskLossTerms, Matches
from mfvis_ext.reference.mask_loss import mask_loss_terms as plain

ALL_LAYERS = Setting(instances=200)
"""The masks of 10 decoder layers with 20 objects."""


def inputs(setting: Setting) -> dict[str, Any]:
    frames, height, width, instances, radius, k = astuple(setting)
    seeded = generator()
    lab = moving_clip(seeded, frames, height, width)
    matches = mfvis_ext.TKLoss(radius=radius, k=k, rgb=False).match(lab)
    return {
        "mask_logits": random_logits(seeded, instances, frames, height, width),
        "boxes": random_boxes(seeded, instances, frames, height, width),
        "video_index": torch.zeros(instances, dtype=torch.int64),
        "frames": lab,
        "offset": matches.offset,
        "weight": matches.weight,
        "tube": matches.pairs,
        "radius": radius,
    }


def separate(
    mask_logits: Tensor, boxes: Tensor, video_index: Tensor, frames: Tensor, matches: Matches
) -> MaskLossTerms:
    """The same by one operator for each loss."""
    offset, weight, pairs, radius = matches.offset, matches.weight, matches.pairs, matches.radius
    return MaskLossTerms(
        mfvis_ext.box_projection_loss(mask_logits, boxes),
        *mfvis_ext.pairwise_loss_terms(mask_logits, frames, boxes, video_index),
        *mfvis_ext.tk_loss_terms(mask_logits, offset, weight, pairs, boxes, video_index, radius),
    )


def loss(terms_of: Callable[..., MaskLossTerms]) -> Callable[..., Tensor]:
    """The sum of the three losses, as a training weighs them."""

    def run(mask_logits, boxes, video_index, frames, offset, weight, tube, radius) -> Tensor:
        matches = Matches(offset, weight, tube, None, radius, 1)
        terms = terms_of(mask_logits, boxes, video_index, frames=frames, matches=matches)
        temporal = (terms.tk_sum.sum(0) / terms.tk_weight.sum(0).clamp(min=1)).sum()
        return terms.projection + terms.pairwise_sum / terms.pairwise_count.clamp(min=1) + 0.1 * temporal

    return run


def cases_of(setting: Setting) -> list[Case]:
    alike = Case(
        kind="forward + backward, against plain PyTorch",
        make=lambda: inputs(setting),
        ours=loss(mfvis_ext.mask_loss_terms),
        reference=loss(plain),
        bytes_moved=lambda made: 3 * made["mask_logits"].nbytes,
        reference_bytes=setting.instances * setting.frames * setting.height * setting.width * 8 * 4 * 4,
        differentiate=True,
        setting=setting,
    )
    one_by_one = replace(
        alike,
        kind="forward + backward, against our operators one by one",
        reference=loss(separate),
        reference_bytes=0,
    )
    cases = [alike, one_by_one]
    if setting == Setting():
        cases.append(replace(one_by_one, make=lambda: inputs(ALL_LAYERS), setting=ALL_LAYERS, quick=False))
    return cases


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "instances"))
