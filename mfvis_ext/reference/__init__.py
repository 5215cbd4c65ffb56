"""The operators in plain PyTorch, one module per operator: `mfvis_ext.reference.tk_loss.tk_loss` and so on.

They define what each operator computes, as briefly as possible. The tests compare the kernels with them, and the
benchmarks use them as the baseline. They need no compiled code and run on any device. float64 input stays float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def disagreement(a: Tensor, b: Tensor) -> Tensor:
    """-log(σ(a)σ(b) + σ(-a)σ(-b)), -log of the probability that two pixels have the same label. BoxInst, eq. 5."""
    # Beyond its threshold softplus(x) is x; the default of 20 shows in float64.
    return F.softplus(a, threshold=40) + F.softplus(b, threshold=40) - F.softplus(a + b, threshold=40)


def inside_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Mask, bool `[..., H, W]`, of the pixel centers inside the half-open boxes `[..., 4]`."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    in_columns = (x1[..., None] <= x) & (x < x2[..., None])
    in_rows = (y1[..., None] <= y) & (y < y2[..., None])
    return in_rows[..., :, None] & in_columns[..., None, :]


def accumulation(x: Tensor) -> Tensor:
    """The tensor in the dtype in which sums are accumulated: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()
