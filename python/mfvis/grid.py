"""Mask grid: a quarter of the padded frames' height and width."""

from __future__ import annotations

import torch
from torch import Tensor

import mfvis_ext

STRIDE = 4
"""Frame pixels per grid cell, in each direction."""
PADDING_COLOR = 1e3
"""LAB value of padding cells, far from every color, so that padding matches only padding."""


def grid_colors(frames_BTCHW: Tensor, sizes_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Average the frames' colors over each grid cell.

    Args:
        frames_BTCHW: RGB in 0..255, padded at the right and bottom.
        sizes_B2: int64 (height, width) of each clip before padding.

    Returns:
        LAB, float32 ``[B, T, 3, H / 4, W / 4]``, `PADDING_COLOR` in the padding; and bool ``[B, H / 4, W / 4]``, False
        in the padding.
    """
    lab_BTCHW = mfvis_ext.rgb_to_lab(frames_BTCHW, STRIDE)
    height, width = lab_BTCHW.shape[-2:]
    rows = torch.arange(height, device=lab_BTCHW.device) < (sizes_B2[:, :1] // STRIDE)
    columns = torch.arange(width, device=lab_BTCHW.device) < (sizes_B2[:, 1:] // STRIDE)
    content_BHW = rows[:, :, None] & columns[:, None, :]
    return torch.where(content_BHW[:, None, None], lab_BTCHW, PADDING_COLOR), content_BHW
