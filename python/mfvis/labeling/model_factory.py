"""Initial models for each window of label mode: a backbone with new readouts, or a trained model.

Each kind prepares the inputs of a window and creates one model per seed to train on it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mfvis.device import device_of
from mfvis.grid import STRIDE
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.models import PerTrackSegmenter, QuerySegmenter, downsample_to_grid
from mfvis.labeling.window_inputs import WindowInputs, prepare_window, span_of, upscale
from mfvis.losses.config import MatchConfig
from mfvis.models.backbone import Backbone
from mfvis.models.video_model import VideoModel
from mfvis.train.checkpoint import load_model
from mfvis.types import Category

ALIGNMENT, CONTEXT = 8, 4
"""Cells of which a region's sides are multiples, and the cells around the rings that a backbone sees, too."""


class ScratchModels:
    """Several small models on one backbone, each with its own seed."""

    categories: tuple[Category, ...] = ()
    """Empty: the models do not predict classes, so every label is 0."""
    max_tracks_per_window = None
    """No limit: each track has its own readout."""

    def __init__(self, config: LabelConfig, device: torch.device):
        torch.manual_seed(config.seed)
        self.config, self.backbone = config, Backbone(config.backbone).to(device)
        self.module = self.backbone
        self.seeds = range(config.seed * config.num_models, (config.seed + 1) * config.num_models)

    def prepare_window(
        self, frames_TCHW: Tensor, boxes_NT4: Tensor, labels_N: Tensor, size: tuple[int, int]
    ) -> WindowInputs:
        """Inputs of a window with the features of a frozen backbone around the boxes.

        See `mfvis.labeling.window_inputs.prepare_window`.
        """
        view = prepare_window(
            self.backbone, frames_TCHW, boxes_NT4, labels_N, size, self.config.zoom, with_features=False
        )
        if not self.backbone.config.frozen:
            return view
        return replace(view, features=features_around_boxes(self.backbone, view, self.config.zoom))

    def model(self, seed: int, tracks: int) -> PerTrackSegmenter:
        """New model for this number of tracks."""
        torch.manual_seed(seed)
        model = PerTrackSegmenter(copy.deepcopy(self.backbone), tracks, self.config.dim, self.config.zoom)
        return model.to(self.backbone.mean.device)


@torch.no_grad()
def features_around_boxes(backbone: Backbone, view: WindowInputs, zoom: int) -> tuple[Tensor, ...]:
    """Features of a backbone around the boxes of each frame, ``[T, C, h, w]`` each, for `PerTrackSegmenter`.

    The backbone sees the boxes, the rings around them and `CONTEXT` cells more. Elsewhere the features are 0. Levels
    that are finer than the mask grid are brought to it. Each channel is normalized to mean 0 and deviation 1, as scales
    of pretrained features differ widely.
    """
    near_THW = (view.ring_NTHW | view.unknown_NTHW).any(0)
    frames = torch.nonzero(near_THW.flatten(1).any(1))[:, 0].tolist()
    if not frames:  # the levels' sizes follow from any frame
        frames, near_THW = [0], torch.ones_like(near_THW)
    regions, parts = [], []
    for t in frames:
        rows, columns = (span_of(near_THW[t].any(axis), ALIGNMENT, CONTEXT) for axis in (1, 0))
        top, bottom, left, right = (STRIDE * side for side in (rows.start, rows.stop, columns.start, columns.stop))
        levels = backbone(upscale(view.frames_TCHW[t, None, :, top:bottom, left:right], zoom))
        grid = (rows.stop - rows.start, columns.stop - columns.start)
        parts.append([downsample_to_grid(level, grid) for level in levels])
        regions.append((rows, columns))
    features = []
    for level in zip(*parts, strict=True):
        cells = (regions[0][1].stop - regions[0][1].start) // level[0].shape[-1]
        values_CP = torch.cat([part.flatten(2)[0] for part in level], 1)
        deviation_C11, mean_C11 = (value_C[:, None, None] for value_C in torch.std_mean(values_CP, 1))
        sides = [side // cells for side in near_THW.shape[-2:]]
        whole_TCHW = level[0].new_zeros(len(near_THW), len(mean_C11), *sides)
        for t, spans, part in zip(frames, regions, level, strict=True):
            rows, columns = (slice(span.start // cells, span.stop // cells) for span in spans)
            whole_TCHW[t, :, rows, columns] = (part[0] - mean_C11) / (deviation_C11 + 1e-3)
        features.append(whole_TCHW)
    return tuple(features)


class FinetunedModels:
    """One copy of a trained model for each window. Frames are not upscaled, as the model was trained at their size."""

    def __init__(self, config: LabelConfig, trained: VideoModel, categories: Sequence[Category]):
        self.config, self.trained, self.categories = config, trained, categories
        # A learned query can represent only one track, whereas box prompts yield one query per track.
        self.max_tracks_per_window = trained.config.num_queries if trained.prompts is None else None
        self.module = trained
        self.seeds = range(config.seed, config.seed + 1)

    def prepare_window(
        self, frames_TCHW: Tensor, boxes_NT4: Tensor, labels_N: Tensor, size: tuple[int, int]
    ) -> WindowInputs:
        """Inputs of a window (see `mfvis.labeling.window_inputs.prepare_window`)."""
        return prepare_window(self.trained.backbone, frames_TCHW, boxes_NT4, labels_N, size, 1)

    def model(self, seed: int, tracks: int) -> QuerySegmenter:
        """Copy of the trained model, identical for every seed and any number of tracks."""
        return QuerySegmenter(copy.deepcopy(self.trained), MatchConfig())


def initial_models(config: LabelConfig) -> ScratchModels | FinetunedModels:
    """Models from which every window's models start: the backbone, or the checkpoint."""
    device = device_of(config.device)
    if config.checkpoint is None:
        return ScratchModels(config, device)
    trained, categories, _ = load_model(config.checkpoint, device)
    return FinetunedModels(config, trained, categories)
