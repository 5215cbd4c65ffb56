"""Dynamic mask heads of SeqFormer (Tian et al., "Conditional Convolutions for Instance Segmentation", ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 8
"""Channels of the two hidden layers of a query's mask head."""
STRIDE = 8
"""Stride of the mask features; logits are upsampled to half of it."""


def mask_channels(dim: int) -> int:
    """Channels of the mask features of a model of C channels: C / 32, at least 1."""
    return max(dim // 32, 1)


def num_parameters(features: int) -> int:
    """Number of parameters of one query's mask head for this number of feature channels."""
    weights = CHANNELS * (features + 2) + CHANNELS * CHANNELS + CHANNELS
    return weights + CHANNELS + CHANNELS + 1


class MaskFeatures(nn.Module):
    """Fuses encoded levels at strides 8, 16 and 32 to C / 32 mask features at stride 8."""

    def __init__(self, dim: int):
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(3))
        """Convolutions for strides 32, 16 and 8."""
        self.squeeze = nn.Conv2d(dim, dim // 4, 3, padding=1)
        self.output = nn.Conv2d(dim // 4, mask_channels(dim), 3, padding=1)
        for conv in (*self.levels, self.squeeze, self.output):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Fuse ``maps``: ``[N, C, h, w]`` at strides 8, 16 and 32."""
        fine, middle, coarse = maps
        x = F.relu(self.levels[0](coarse))
        x = F.relu(self.levels[1](middle + F.interpolate(x, size=middle.shape[-2:])))
        x = F.relu(self.levels[2](fine + F.interpolate(x, size=fine.shape[-2:])))
        return F.relu(self.output(F.relu(self.squeeze(x))))


@dataclass(frozen=True)
class DynamicMasks:
    """`MaskSource` in which every query has the weights of a small network that is applied to its clip's features."""

    parameters_LBQP: Tensor
    centers_LBTQ2: Tensor
    """Reference points (x, y) in pixels of the frame, the origin of the network's coordinates."""
    clips_BTCHW: tuple[Tensor, ...]
    """Features ``[T, C, H, W]`` of each clip, as in `mfvis.models.decoder.DotProductMasks`."""

    def select(self, clip: int, query_LM: Tensor, frames: slice = slice(None)) -> Tensor:
        layer = torch.arange(len(query_LM), device=query_LM.device)[:, None]
        parameters_LMP = self.parameters_LBQP[layer, clip, query_LM]
        centers_LMT2 = self.centers_LBTQ2[:, clip, frames].transpose(1, 2)[layer, query_LM]
        features_TCHW = self.clips_BTCHW[clip][frames]
        masks = self._masks(parameters_LMP.flatten(0, 1), centers_LMT2.flatten(0, 1), features_TCHW)
        return masks.unflatten(0, query_LM.shape)

    def all_queries(self, layer: int, clip: int) -> Tensor:
        centers_QT2 = self.centers_LBTQ2[layer, clip].transpose(0, 1)
        return self._masks(self.parameters_LBQP[layer, clip], centers_QT2, self.clips_BTCHW[clip])

    @staticmethod
    def _masks(parameters_MP: Tensor, centers_MT2: Tensor, features_TCHW: Tensor) -> Tensor:
        # In float32, whatever the model computed in: coordinates are hundreds of pixels.
        parameters_MP, centers_MT2, features_TCHW = parameters_MP.float(), centers_MT2.float(), features_TCHW.float()
        channels, height, width = features_TCHW.shape[1:]
        sizes = [CHANNELS * (channels + 2), CHANNELS * CHANNELS, CHANNELS, CHANNELS, CHANNELS, 1]
        w0, w1, w2, b0, b1, b2 = parameters_MP.split(sizes, 1)
        w0 = w0.unflatten(1, (CHANNELS, channels + 2))
        y = torch.arange(height, device=parameters_MP.device) * STRIDE + STRIDE // 2
        x = torch.arange(width, device=parameters_MP.device) * STRIDE + STRIDE // 2
        across_MTW = centers_MT2[..., :1] - x
        down_MTH = centers_MT2[..., 1:] - y
        # The first layer is linear in (x, y, features), so no coordinate map is needed.
        hidden = torch.einsum("moc,tchw->mtohw", w0[..., 2:], features_TCHW)
        hidden = hidden + torch.einsum("mo,mtw->mtow", w0[..., 0], across_MTW)[..., None, :]
        hidden = hidden + torch.einsum("mo,mth->mtoh", w0[..., 1], down_MTH)[..., None]
        hidden = F.relu(hidden + b0[:, None, :, None, None])
        hidden = torch.einsum("mpo,mtohw->mtphw", w1.unflatten(1, (CHANNELS, CHANNELS)), hidden)
        hidden = F.relu(hidden + b1[:, None, :, None, None])
        logits = torch.einsum("mo,mtohw->mthw", w2, hidden) + b2[..., None, None]
        return upsample_aligned(upsample_aligned(logits, -1), -2)


def upsample_aligned(x: Tensor, dim: int) -> Tensor:
    """Double one axis: output o is the linear interpolation of the input at max(o - 1, 0) / 2."""
    dim %= x.ndim
    previous = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    return torch.stack([(previous + x) / 2, x], dim + 1).flatten(dim, dim + 1)
