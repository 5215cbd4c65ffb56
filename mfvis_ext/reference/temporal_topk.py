from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.reference.patch_distance import shifted_patch_distance


def temporal_topk(
    frames: Tensor,
    pairs: Tensor,
    patch_size: int = 3,
    radius: int = 5,
    dilation: int = 1,
    k: int = 5,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest patches in another frame for every pixel and pair. MaskFreeVIS, section 3.2, steps 1 and 2.

    frames: `[B, T, C, H, W]`; pairs: `[P, 2]` (target, source); shift: `[B, P, 2]` (dy, dx) in pixels or None.
    Returns distance float32 and offset int16, both `[B, P, k, H, W]`, nearest first, ties to the smaller offset; +inf
    and -1 where fewer than k candidates exist.
    """
    batch, _, _, height, width = frames.shape
    distance = torch.full((batch, len(pairs), k, height, width), torch.inf, device=frames.device)
    offset = torch.full(distance.shape, -1, dtype=torch.int16, device=frames.device)
    for b in range(batch):
        for p, (target, source) in enumerate(pairs.tolist()):
            dy, dx = shift[b, p].tolist() if shift is not None else (0, 0)
            volume = shifted_patch_distance(
                frames[b, target][None], frames[b, source][None], patch_size, radius, dilation, dy, dx
            )[0].float()
            kept = min(k, len(volume))
            nearest, index = volume.sort(dim=0, stable=True)
            distance[b, p, :kept] = nearest[:kept]
            offset[b, p, :kept] = torch.where(nearest[:kept].isinf(), -1, index[:kept]).to(torch.int16)
    return distance, offset
