"""Upsampling of stride-4 mask logits of padded frames to masks at the video's own size."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mfvis.data.rle import encode_mask, mask_box
from mfvis.grid import STRIDE


def encode_tubes(
    masks_MTHW: Tensor, resized: tuple[int, int], original: tuple[int, int]
) -> list[tuple[tuple[dict | None, ...], np.ndarray]]:
    """Encode stride-4 mask logits of padded frames as one RLE and box per frame at the original size, None if empty.

    Logits are thresholded at 0 frame by frame, so that only one frame of full-size logits exists at a time.
    """
    tubes = [([], np.zeros((masks_MTHW.shape[1], 4), dtype=np.float32)) for _ in masks_MTHW]
    for t in range(masks_MTHW.shape[1]):
        masks_MHW = (at_original_size(masks_MTHW[:, t].float(), resized, original) > 0).cpu().numpy()
        for (rles, boxes_T4), mask_HW in zip(tubes, masks_MHW, strict=True):
            boxes_T4[t] = mask_box(mask_HW)
            rles.append(encode_mask(mask_HW) if mask_HW.any() else None)
    return [(tuple(rles), boxes_T4) for rles, boxes_T4 in tubes]


def at_original_size(logits_NHW: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Upsample stride-4 logits of padded frames to the video's own size: bilinearly to the padded frame, cropped to its
    `resized` part, then resized to `original`."""
    padded = F.interpolate(logits_NHW[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return F.interpolate(padded[..., : resized[0], : resized[1]], original, mode="bilinear", align_corners=False)[0]
