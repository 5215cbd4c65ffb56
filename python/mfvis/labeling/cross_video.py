"""Cross-video network: it sees one box at a time and is trained on the masks that label mode generated for all videos.

Errors in generated masks are specific to their video: a white shirt in front of a white window, a door as uniform as
the road. One network trained on the masks of all videos cannot reproduce all these errors. Its logits are added to
those of the models trained on a single video. They are limited, as it also learns from videos of other kinds: it
decides where these models are uncertain, and cannot overrule them elsewhere. No ground-truth mask is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mfvis_ext
from mfvis.data.rle import decode_mask
from mfvis.labeling.ensemble import ABSENT
from mfvis.labeling.window_inputs import WindowInputs
from mfvis.models.pyramid import FeaturePyramid
from mfvis.train.optim import train_small
from mfvis.train.optim_config import OptimConfig
from mfvis.types import TrackResult, Video, present

SIDE = 56
"""Height and width of a crop, in cells."""
LEAST_SIDE = 14
"""Height and width of crops from coarse feature levels, in cells."""
MARGIN = 1.2
"""Side of a crop relative to the side of its box."""
EXAMPLES = 400
"""Maximum number of training boxes, spread evenly over all videos."""
BATCH = 12
"""Crops per step."""
MAX_LOGIT = 2.0
"""Maximum absolute logit of the network."""
CROSS_VIDEO_REMEDY = "Label without the cross-video network: --shared-steps 0, with another --out"
"""Remedy where its loss or its logits are not finite."""


@dataclass(frozen=True)
class Crops:
    """Crops of the features and colors in and around M boxes, each resized to one size."""

    levels: tuple[Tensor, ...]
    """Features, ``[M, C, h, w]`` each."""
    lab_MCHW: Tensor
    """Colors, ``[M, 3, SIDE, SIDE]``."""

    def index_select(self, indices: Tensor) -> Crops:
        """The crops at `indices`, as float32."""
        return Crops(tuple(level[indices].float() for level in self.levels), self.lab_MCHW[indices].float())

    def mirrored(self) -> Crops:
        """The crops flipped horizontally."""
        return Crops(tuple(level.flip(-1) for level in self.levels), self.lab_MCHW.flip(-1))


def crop_windows(view: WindowInputs, track: int, frames: Tensor) -> Crops:
    """Crops of one track in `frames` (int64); the track must have a box in each of them."""
    boxes_M4 = _fractions(view, track, frames)
    levels = tuple(
        _cut_out(level[frames], boxes_M4, max(SIDE >> i, LEAST_SIDE)) for i, level in enumerate(view.features)
    )
    return Crops(levels, _averaged(mfvis_ext.rgb_to_lab(view.frames_TCHW[frames]), boxes_M4))


def concat(parts: Sequence[Crops]) -> Crops:
    """Concatenates crops in half precision; one crop takes about 0.4 MB with MobileNetV2's features."""
    levels = zip(*(part.levels for part in parts), strict=True)
    lab_MCHW = torch.cat([part.lab_MCHW for part in parts]).half()
    return Crops(tuple(torch.cat(level).half() for level in levels), lab_MCHW)


class CropSegmenter(nn.Module):
    """Mask logits from crops of features, colors and coordinates, by convolutions with growing receptive fields.

    Args:
        channels: Channels of each feature level.
        dim: Channels of the hidden layers.
    """

    def __init__(self, channels: Sequence[int], dim: int = 48):
        super().__init__()
        self.laterals = FeaturePyramid(channels, dim)
        self.colors = nn.Conv2d(3, dim, 3, padding=1)
        self.places = nn.Conv2d(4, dim, 1)
        self.layers = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=reach, dilation=reach) for reach in (1, 2, 4))
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(4, dim), dim) for _ in range(4))
        self.dropout = nn.Dropout2d(0.1)
        self.readout = nn.Conv2d(dim, 1, 1)

    def forward(self, crops: Crops) -> Tensor:
        """Mask logits ``[M, SIDE, SIDE]``."""
        colors = (crops.lab_MCHW - crops.lab_MCHW.mean((2, 3), keepdim=True)) / 30
        along = torch.linspace(1 / SIDE - 1, 1 - 1 / SIDE, SIDE, device=colors.device)
        x, y = along.expand(SIDE, SIDE), along[:, None].expand(SIDE, SIDE)
        seen = self.colors(colors) + self.places(torch.stack([x, y, x * x, y * y])[None])
        seen = self.laterals([self.dropout(level) for level in crops.levels], (SIDE, SIDE), seen)
        seen = F.relu(self.norms[0](seen))
        for norm, layer in zip(self.norms[1:], self.layers, strict=True):
            seen = seen + F.relu(norm(layer(seen)))
        return self.readout(seen)[:, 0]

    @torch.no_grad()
    def read(self, view: WindowInputs) -> Tensor:
        """Mask logits ``[N, T, H / 4, W / 4]`` of all tracks, averaged over each crop and its horizontal flip.

        They are limited to `MAX_LOGIT`.
        """
        logits_NTHW = torch.full(view.propagated_NTHW.shape, ABSENT, device=view.boxes_NT4.device)
        for track, present_T in enumerate(present(view.boxes_NT4)):
            frames = torch.nonzero(present_T)[:, 0]
            if len(frames) > 0:
                crops = crop_windows(view, track, frames)
                logits_MHW = ((self(crops) + self(crops.mirrored()).flip(-1)) / 2).clamp(-MAX_LOGIT, MAX_LOGIT)
                logits_NTHW[track, frames] = _put_back(
                    logits_MHW, _fractions(view, track, frames), *logits_NTHW.shape[-2:]
                )
        return logits_NTHW


def select_examples(videos: Sequence[Video]) -> list[dict[int, list[int]]]:
    """Training boxes: for each video, the selected frames with the indices of the selected tracks."""
    boxes = [
        (v, t, n)
        for v, video in enumerate(videos)
        for t in range(video.length)
        for n, track in enumerate(video.tracks)
        if track.present_T[t]
    ]
    selected: list[dict[int, list[int]]] = [{} for _ in videos]
    for v, t, n in boxes[:: max(1, math.ceil(len(boxes) / EXAMPLES))]:
        selected[v].setdefault(t, []).append(n)
    return selected


def masks_in_crops(video: Video, result: TrackResult, frames: Sequence[int]) -> Tensor:
    """``[M, SIDE, SIDE]``: mask coverage (0..1) of each cell of the track's crops in these frames."""
    boxes_T4 = torch.from_numpy(result.boxes_T4) / torch.tensor([video.width, video.height] * 2)
    crops = []
    for t in frames:
        mask_HW = torch.from_numpy(decode_mask(result.segmentations[t], video.height, video.width))
        crops.append(_averaged(mask_HW[None, None].float(), boxes_T4[None, t]))
    return torch.cat(crops)[:, 0]


def train_crop_segmenter(
    crops: Crops, masks_MHW: Tensor, steps: int, seed: int, after_step: Callable[[str], None] = lambda text: None
) -> CropSegmenter:
    """Trains the network with cross-entropy and dice; returns it in eval mode.

    after_step: called after each step with a text that names it.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    optim = OptimConfig(
        steps=steps, lr=3e-3, weight_decay=1e-2, clip_norm=1.0, warmup=min(20, steps), schedule="cosine"
    )
    device = crops.lab_MCHW.device
    model = CropSegmenter([level.shape[1] for level in crops.levels]).to(device)

    def loss_of(step: int) -> Tensor:
        batch = torch.from_numpy(random.choice(len(masks_MHW), min(BATCH, len(masks_MHW)), replace=False))
        seen, target_MHW = crops.index_select(batch), masks_MHW[batch].to(device)
        if random.random() < 0.5:
            seen, target_MHW = seen.mirrored(), target_MHW.flip(-1)
        logits_MHW = model(seen)
        p_MHW = logits_MHW.sigmoid()
        overlap_M, sizes_M = (p_MHW * target_MHW).sum((1, 2)), (p_MHW + target_MHW).sum((1, 2))
        dice = 1 - ((2 * overlap_M + 1) / (sizes_M + 1)).mean()
        return F.binary_cross_entropy_with_logits(logits_MHW, target_MHW) + dice

    train_small(model, optim, loss_of, "cross-video network", CROSS_VIDEO_REMEDY, after_step)
    return model.eval()


def _fractions(view: WindowInputs, track: int, frames: Tensor) -> Tensor:
    """The track's boxes as fractions of the padded frames' width and height."""
    height, width = view.frames_TCHW.shape[-2:]
    boxes_M4 = view.boxes_NT4[track, frames]
    return boxes_M4 / boxes_M4.new_tensor([width, height] * 2)


def _cut_out(maps_MCHW: Tensor, boxes_M4: Tensor, side: int) -> Tensor:
    """Crops ``[M, C, side, side]`` of the maps at their boxes, enlarged by MARGIN."""
    steps = ((torch.arange(side, device=maps_MCHW.device) + 0.5) / side - 0.5) * MARGIN + 0.5
    x1, y1, x2, y2 = boxes_M4[:, :, None].unbind(1)
    return _sampled(maps_MCHW, x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps)


def _averaged(maps_MCHW: Tensor, boxes_M4: Tensor) -> Tensor:
    """`_cut_out` at SIDE with averaging, for maps that are finer than the crop's cells."""
    return F.avg_pool2d(_cut_out(maps_MCHW, boxes_M4, 2 * SIDE), 2)


def _put_back(logits_MHW: Tensor, boxes_M4: Tensor, height: int, width: int) -> Tensor:
    """Pastes crops at their boxes ``[M, height, width]``; pixels beyond a crop repeat its border."""
    x1, y1, x2, y2 = boxes_M4[:, :, None].unbind(1)
    x = (torch.arange(width, device=boxes_M4.device) + 0.5) / width
    y = (torch.arange(height, device=boxes_M4.device) + 0.5) / height
    across, down = ((x - x1) / (x2 - x1) - 0.5) / MARGIN + 0.5, ((y - y1) / (y2 - y1) - 0.5) / MARGIN + 0.5
    return _sampled(logits_MHW[:, None], across, down)[:, 0]


def _sampled(maps_MCHW: Tensor, x_MW: Tensor, y_MH: Tensor) -> Tensor:
    """Bilinear samples ``[M, C, H, W]`` on a grid of coordinates in 0..1; positions outside a map repeat its border."""
    grid = torch.stack(torch.broadcast_tensors(x_MW[:, None, :], y_MH[:, :, None]), -1) * 2 - 1
    return F.grid_sample(maps_MCHW, grid.to(maps_MCHW.dtype), padding_mode="border", align_corners=False)
