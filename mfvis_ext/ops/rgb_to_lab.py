from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward

__all__ = ["rgb_to_lab"]


def rgb_to_lab(images: Tensor, downsample: int = 1) -> Tensor:
    """CIE-LAB colors (D65, 2° observer, the values of `skimage.color.rgb2lab`) of block means.

    The blocks are averaged in RGB, before the conversion. Incomplete blocks at the right and bottom are dropped. If
    your network pads such sizes, pad the images the same way first.

    Args:
        images: ``[..., 3, H, W]``, RGB in 0..255, uint8, float16, bfloat16, float32 or float64. Images in 0..1 are
            accepted as nearly black.
        downsample: side of the blocks in pixels, at least 1.

    Returns:
        float32 ``[..., 3, H // downsample, W // downsample]``: L in 0..100, a and b about -107..98. Not differentiable.

    Raises:
        ValueError: a wrong shape, dtype or range, naming the argument.
    """
    return torch.ops.mfvis.rgb_to_lab(images, downsample)


@torch.library.register_fake("mfvis::rgb_to_lab")
def _(images: Tensor, downsample: int = 1) -> Tensor:
    *batch, height, width = images.shape
    return images.new_empty(*batch, height // downsample, width // downsample, dtype=torch.float32)


forbid_backward("mfvis::rgb_to_lab", "is not differentiable; call it under torch.no_grad() or on detached images")
