from __future__ import annotations

import torch
from torch import Tensor


def rgb_to_lab(images: Tensor, downsample: int = 1) -> Tensor:
    """CIE-LAB (D65, 2° observer, the constants of `skimage.color.rgb2lab`) of the means over downsample² blocks.

    images: `[..., 3, H, W]`, RGB, uint8 or floating point in 0..255.
    Returns float32 `[..., 3, H // downsample, W // downsample]`.
    """
    rgb = images.float().flatten(0, -4) if images.dim() > 3 else images.float()[None]
    height, width = rgb.shape[-2] // downsample, rgb.shape[-1] // downsample
    whole = rgb[..., : height * downsample, : width * downsample]
    rgb = whole.reshape(len(rgb), 3, height, downsample, width, downsample).mean((3, 5)) / 255
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    rgb_to_xyz = linear.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = linear.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.einsum("ck,nkhw->nchw", rgb_to_xyz / white[:, None], linear)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
    return lab.reshape(*images.shape[:-2], *lab.shape[-2:])
