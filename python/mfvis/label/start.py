"""Initial models for each window of label mode: a backbone with new readouts, or a trained model.

Each kind prepares the inputs of a window and creates one model per seed to train on it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mfvis.label.config import LabelConfig
from mfvis.label.models import PerTrackSegmenter, QuerySegmenter, downsample_to_grid, standardize
from mfvis.label.window_inputs import WindowInputs, look
from mfvis.losses.config import MatchConfig
from mfvis.models.backbone import Backbone
from mfvis.models.video_model import VideoModel
from mfvis.types import Category


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

    def look(self, frames_TCHW: Tensor, boxes_NT4: Tensor, labels_N: Tensor, size: tuple[int, int]) -> WindowInputs:
        """Inputs of a window (see `mfvis.label.window_inputs.look`), with the features of a frozen backbone in the form
        that `PerTrackSegmenter` expects."""
        view = look(self.backbone, frames_TCHW, boxes_NT4, labels_N, size, self.config.zoom)
        if view.features is None:
            return view
        grid = view.lab_TCHW.shape[-2:]
        return replace(view, features=tuple(downsample_to_grid(standardize(level), grid) for level in view.features))

    def model(self, seed: int, tracks: int) -> PerTrackSegmenter:
        """New model for this number of tracks."""
        torch.manual_seed(seed)
        model = PerTrackSegmenter(copy.deepcopy(self.backbone), tracks, self.config.dim, self.config.zoom)
        return model.to(self.backbone.mean.device)


class FinetunedModels:
    """One copy of a trained model for each window. Frames are not upscaled, as the model was trained at their size."""

    def __init__(self, config: LabelConfig, trained: VideoModel, categories: Sequence[Category]):
        self.config, self.trained, self.categories = config, trained, categories
        # A learned query can represent only one track, whereas box prompts yield one query per track.
        self.max_tracks_per_window = trained.config.num_queries if trained.prompts is None else None
        self.module = trained
        self.seeds = range(config.seed, config.seed + 1)

    def look(self, frames_TCHW: Tensor, boxes_NT4: Tensor, labels_N: Tensor, size: tuple[int, int]) -> WindowInputs:
        """Inputs of a window (see `mfvis.label.window_inputs.look`)."""
        return look(self.trained.backbone, frames_TCHW, boxes_NT4, labels_N, size, 1)

    def model(self, seed: int, tracks: int) -> QuerySegmenter:
        """Copy of the trained model, identical for every seed and any number of tracks."""
        return QuerySegmenter(copy.deepcopy(self.trained), MatchConfig())
