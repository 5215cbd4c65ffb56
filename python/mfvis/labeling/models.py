"""Models that label mode trains on one window: they predict the mask tube of every given track.

Both kinds return mask tubes and their assignment to tracks: of all decoder layers in training mode, of the last layer
in eval mode.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.grid import PADDING_COLOR, STRIDE
from mfvis.labeling.window_inputs import WindowInputs, to_batch, upscale
from mfvis.losses.config import MatchConfig
from mfvis.losses.matcher import match
from mfvis.models.backbone import Backbone
from mfvis.models.pyramid import FeaturePyramid
from mfvis.models.video_model import VideoModel
from mfvis.predict.assignment import assign_tubes
from mfvis.types import BoxPrompts, DenseMasks, Match, Prediction


class PerTrackSegmenter(nn.Module):
    """Small model that is trained from scratch: a pyramid of features and colors with one linear readout per track.

    The tracks are given, so no detection is needed: each track has its own linear readout of the pixel embeddings. A
    query decoder would first have to learn its queries.

    Args:
        backbone: Source of the features; trained as well unless it is frozen.
        tracks: Number of tracks, hence of readouts.
        dim: Channels of the pixel embeddings.
        zoom: Upscaling factor applied to frames before the backbone.
    """

    num_classes = 1

    def __init__(self, backbone: Backbone, tracks: int, dim: int, zoom: int):
        super().__init__()
        self.backbone, self.zoom = backbone, zoom
        self.laterals = FeaturePyramid(backbone.channels, dim)
        self.colors = nn.Conv2d(3, dim, 3, padding=1)
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1)
        self.mix = nn.Conv2d(dim, dim, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(4, dim), dim) for _ in range(2))
        self.readout = nn.Conv2d(dim, tracks, 1)
        nn.init.constant_(self.readout.bias, -1.0)  # most pixels are background

    def forward(self, part: WindowInputs, objects_N: Tensor) -> tuple[Prediction, Match]:
        """Mask tubes of the tracks with these indices (int64); one layer, without classes."""
        features = part.features
        if features is None:
            features = tuple(map(standardize, self.backbone(upscale(part.frames_TCHW, self.zoom))))
        masks_NTHW = self.logits(features, part.lab_TCHW)[objects_N]
        no_class = masks_NTHW.new_zeros(1, 1, len(objects_N), self.num_classes + 1)
        prediction = Prediction(no_class, DenseMasks(masks_NTHW[None, None]))
        return prediction, _in_order(prediction)

    def logits(self, features: tuple[Tensor, ...], lab_TCHW: Tensor) -> Tensor:
        """Mask logits ``[N, T, H, W]`` of all tracks on the grid of the colors, from features of any resolution."""
        grid = lab_TCHW.shape[-2:]
        content = lab_TCHW[:, :1] < PADDING_COLOR
        mean_C11 = (lab_TCHW * content).sum((0, 2, 3), keepdim=True)[0] / content.sum().clamp(min=1)
        x = self.laterals(features, grid, self.colors((lab_TCHW - mean_C11) * content / 30))
        x = F.relu(self.norms[0](x))
        x = F.relu(self.norms[1](self.smooth(x)) + x)
        x = x + F.relu(self.mix(x))
        return self.readout(x).transpose(0, 1)


class QuerySegmenter(nn.Module):
    """Trained model: its queries are made from the boxes or, without box prompts, assigned to them.

    Args:
        model: The model to finetune.
        cost: Cost of matching learned queries with tracks in training.
    """

    def __init__(self, model: VideoModel, cost: MatchConfig):
        super().__init__()
        self.model, self.cost = model, cost
        self.num_classes = model.num_classes

    def forward(self, part: WindowInputs, objects_N: Tensor) -> tuple[Prediction, Match]:
        """Mask tubes of all queries. In eval mode learned queries are assigned by boxes only, regardless of class."""
        model, last_only = self.model, not self.training
        size_12 = part.boxes_NT4.new_tensor([part.size], dtype=torch.int64)
        encoded = model.encode(part.frames_TCHW, size_12.expand(len(part.frames_TCHW), 2), part.features)
        if model.prompts is not None:
            valid_BQ = torch.ones(1, len(objects_N), dtype=torch.bool, device=objects_N.device)
            prediction = model.decode(encoded, 1, BoxPrompts(part.boxes_NT4[None], valid_BQ), last_only)
            return prediction, _in_order(prediction)
        prediction = model.decode(encoded, 1, last_only=last_only)
        boxes_NT4 = part.boxes_NT4 / STRIDE
        if last_only and prediction.boxes_LBTQ4 is not None:
            return prediction, match(prediction, to_batch(part), boxes_NT4, replace(self.cost, classification=0.0))
        if last_only:
            return prediction, Match(assign_tubes(prediction.masks.all_queries(-1, 0), boxes_NT4)[None])
        return prediction, match(prediction, to_batch(part), boxes_NT4, self.cost)


def _in_order(prediction: Prediction) -> Match:
    """Assignment of query n to object n at every layer."""
    layers, _, queries = prediction.logits_LBQK.shape[:3]
    return Match(torch.arange(queries, device=prediction.logits_LBQK.device).expand(layers, -1))


def standardize(level_TCHW: Tensor) -> Tensor:
    """Channels normalized to mean 0 and deviation 1 over the frames, as scales of pretrained features differ widely."""
    deviation, mean = torch.std_mean(level_TCHW, (0, 2, 3), keepdim=True)
    return (level_TCHW - mean) / (deviation + 1e-3)


def downsample_to_grid(level_TCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Downsamples a level that is finer than the grid; this commutes with the 1x1 convolutions that follow."""
    if level_TCHW.shape[-1] <= grid[1]:
        return level_TCHW
    return F.interpolate(level_TCHW, grid, mode="bilinear", align_corners=False)
