"""Labeling of one video: train models on each window of frames, predict, refine, and keep what a person has given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mfvis_ext
from mfvis.data.augment import fitted_size
from mfvis.data.rle import encode_mask
from mfvis.data.video import read_frames
from mfvis.errors import TrainingError
from mfvis.grid import STRIDE
from mfvis.labeling.background_difference import background_difference
from mfvis.labeling.box_prior import ellipses
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import (
    Corrections,
    clicked_mask,
    corrected_logits,
    corrected_results,
    correction_maps,
    with_given_boxes,
)
from mfvis.labeling.cross_video import CROSS_VIDEO_REMEDY, CropSegmenter
from mfvis.labeling.ensemble import ABSENT, average_consistent_models, resolve_overlaps
from mfvis.labeling.fit import fit, segment
from mfvis.labeling.model_factory import FinetunedModels, ScratchModels
from mfvis.labeling.plan import FEATURES, REFINEMENT, TRAINING, video_work, window_work, windows_of_tracks
from mfvis.labeling.quality import disagreement, expected_j, features
from mfvis.labeling.refine import refine
from mfvis.labeling.state import result_of
from mfvis.labeling.window_inputs import WindowInputs, add_propagated_background
from mfvis.losses.background_propagation import inside_boxes
from mfvis.predict.saved_results import Inputs, hash_of, read_tensors_of, saved_inputs_of, write_tensors_of
from mfvis.predict.upsample import at_original_size
from mfvis.progress import Progress
from mfvis.train.optim import REMEDY
from mfvis.types import TrackResult, Video, present

Start = ScratchModels | FinetunedModels
BORDER = 2.0
"""Width in cells of the border around a box that is saved with its logits; upsampling reads it."""


@dataclass(frozen=True)
class WindowState:
    """Saved mask logits of a video's windows, which are not computed again while their inputs are the same."""

    folder: Path
    inputs: Inputs
    """Hashes of what all windows of the video depend on."""

    def of(self, video: Video, corrections: Corrections, window: range, group: Sequence[int]) -> tuple[Path, Inputs]:
        """File of a window's logits, and the hashes of its inputs: the video's, and the window's boxes and
        given masks."""
        tracks = [(n, video.tracks[n]) for n in group]
        values = [
            [n, track.category_id, track.boxes_T4[window.start : window.stop].tolist(), corrections.masks_of(n, window)]
            for n, track in tracks
        ]
        path = self.folder / f"{video.id}-{window.start}-{group[0]}.pt"
        return path, {**self.inputs, "window": hash_of(values)}


def label_video(
    start: Start,
    config: LabelConfig,
    video: Video,
    head: str = "",
    state: WindowState | None = None,
    reader: CropSegmenter | None = None,
    corrections: Corrections | None = None,
    progress: Progress | None = None,
) -> list[TrackResult]:
    """Results of all tracks of the video: a mask in each frame with a box, None in other frames.

    Args:
        head: Prefix of the progress lines.
        state: Saved mask logits of each window.
        reader: Cross-video network whose logits are added.
        corrections: Masks and clicks of a person. Given masks are in the results as they are.
        progress: Progress that counts the work on this video.
    """
    corrections, progress = corrections or Corrections(), progress or Progress(visible=False)
    video = with_given_boxes(video, corrections)
    full_size = (video.height, video.width)
    segmentations = [[None] * video.length for _ in video.tracks]
    quality = np.full((len(video.tracks), video.length), np.nan)
    for window, group in windows_of_tracks(video, config.window, start.max_tracks_per_window):
        work = window_work(config, video, window, group)
        frames_TCHW = read_frames(video, window)
        view = prepare_window(start, config, video, window, group, frames_TCHW)
        near_NTHW = view.ring_NTHW | view.unknown_NTHW
        maps = correction_maps(corrections, video, group, window, view.size, near_NTHW, view.lab_TCHW)
        view = replace(view, corrections=maps)
        part = f"{head} frames {window.start}-{window.stop - 1}"
        progress.advance(FEATURES, work[FEATURES], part)
        saved = state and state.of(video, corrections, window, group)
        train = partial(_ensemble_logits, start, view, config, part, progress, work[TRAINING])
        logits_NTHW, disagreement_NT, prior_N = _window_logits(view, saved, train)
        if reader:
            logits_NTHW = logits_NTHW + _finite(reader.read(view), f"{part}, cross-video network", CROSS_VIDEO_REMEDY)
        logits_NTHW = resolve_overlaps(corrected_logits(logits_NTHW, maps), view.boxes_NT4 / STRIDE)
        measured = features(logits_NTHW, disagreement_NT, view.boxes_NT4 / STRIDE)
        present_NT = present(view.boxes_NT4).cpu()
        quality[group, window.start : window.stop] = torch.where(present_NT, expected_j(measured).cpu(), torch.nan)
        difference_NTHW = background_difference(view, config.propagation)
        if maps is not None:
            difference_NTHW = difference_NTHW * (1 - maps.influence_NTHW)
        lab_TCHW = mfvis_ext.rgb_to_lab(frames_TCHW).to(logits_NTHW.device)
        cell = STRIDE * video.width / view.size[1]
        for i, (n, prior) in enumerate(zip(group, prior_N.tolist(), strict=True)):
            boxes_T4 = torch.from_numpy(video.tracks[n].boxes_T4[window.start : window.stop])
            logits_THW, difference_THW = (
                at_original_size(maps_NTHW[i], view.size, full_size) for maps_NTHW in (logits_NTHW, difference_NTHW)
            )
            masks_THW = refine(logits_THW, lab_TCHW, boxes_T4, config.refine, prior, difference_THW, cell).cpu()
            # Where the mask is empty, the inscribed ellipse is the better guess.
            empty_T = ~masks_THW.flatten(1).any(1)
            masks_THW[empty_T] = ellipses(boxes_T4[None, empty_T], *full_size)[0]
            for t, mask_HW in zip(window, masks_THW.numpy(), strict=True):
                if video.tracks[n].present_T[t]:
                    box_4 = video.tracks[n].boxes_T4[t]
                    segmentations[n][t] = encode_mask(clicked_mask(mask_HW, corrections.clicks(n, box_4, t), box_4))
            progress.advance(REFINEMENT, work[REFINEMENT] / len(group), part)
    values = [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in quality]
    results = [
        result_of(video, n, tuple(masks), tuple(row))
        for n, (masks, row) in enumerate(zip(segmentations, values, strict=True))
    ]
    return corrected_results(results, corrections)


def work_ahead(
    start: Start, config: LabelConfig, video: Video, state: WindowState, corrections: Corrections | None
) -> Counter[str]:
    """Estimated seconds of each kind of work on a video, without the training of windows whose logits are saved."""
    corrections = corrections or Corrections()
    video, most = with_given_boxes(video, corrections), start.max_tracks_per_window
    work = video_work(config, video, most)
    for window, group in windows_of_tracks(video, config.window, most):
        path, inputs = state.of(video, corrections, window, group)
        if path.exists() and saved_inputs_of(path) == inputs:
            work[TRAINING] -= window_work(config, video, window, group)[TRAINING]
    return work


def _window_logits(
    view: WindowInputs, state: tuple[Path, Inputs] | None, train: Callable[[], tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits ``[N, T, H / 4, W / 4]`` of the window's models, how much the models disagree ``[N, T]``, and the
    weight of the position prior for each track.

    Only half-precision logits in and around the boxes are saved, about 2 kB per box. Those of a run that is not
    interrupted are rounded, too, so that both have the same result.

    state: file of the saved logits, and the hashes of their inputs.
    train: `_ensemble_logits` of the window, called unless they are saved.
    """
    x1, y1, x2, y2 = (view.boxes_NT4 / STRIDE).unbind(-1)
    wider_NT4 = torch.stack([x1 - BORDER, y1 - BORDER, x2 + BORDER, y2 + BORDER], -1) * (x2 > x1)[..., None]
    near_NTHW = inside_boxes(wider_NT4, *view.lab_TCHW.shape[-2:])
    saved = read_tensors_of(*state) if state else None
    if saved is None:
        logits_NTHW, disagreement_NT, prior_N = train()
        logits = logits_NTHW[near_NTHW].half().cpu()
        saved = {"logits": logits, "disagreement": disagreement_NT.cpu(), "prior": prior_N.cpu()}
        if state:
            write_tensors_of(*state, saved)
    logits_NTHW = torch.full(near_NTHW.shape, ABSENT, device=near_NTHW.device)
    logits_NTHW[near_NTHW] = saved["logits"].to(logits_NTHW)
    return logits_NTHW, saved["disagreement"].to(logits_NTHW), saved["prior"]


def prepare_window(
    start: Start, config: LabelConfig, video: Video, frames: Sequence[int], group: Sequence[int], frames_TCHW: Tensor
) -> WindowInputs:
    """Inputs of a window: these frames of the video with the tracks of the group."""
    labels = {category.id: label for label, category in enumerate(start.categories)}
    tracks = [video.tracks[n] for n in group]
    boxes_NT4 = torch.from_numpy(np.stack([track.boxes_T4[list(frames)] for track in tracks]))
    labels_N = torch.tensor([labels.get(track.category_id, 0) for track in tracks])
    size = fitted_size(video.height, video.width, config.short_side, config.max_side)
    return start.prepare_window(frames_TCHW, boxes_NT4, labels_N, size)


def _ensemble_logits(
    start: Start, view: WindowInputs, config: LabelConfig, head: str, progress: Progress, work: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits ``[N, T, H / 4, W / 4]``, averaged over the models (one per seed) whose masks fill the boxes; how
    much all models disagree with them ``[N, T]``; and the weight of the position prior for each track."""
    view, logits = add_propagated_background(view, config.propagation), []
    progress.advance(FEATURES, 0.0, head)
    after_step = partial(progress.advance, TRAINING, work / (len(start.seeds) * config.optim.steps))
    for i, seed in enumerate(start.seeds, start=1):
        model = start.model(seed, len(view.boxes_NT4))
        fit(model, view, replace(config, seed=seed), f"{head}, model {i}/{len(start.seeds)}", after_step)
        logits.append(segment(model, view, config))
        progress.advance(TRAINING, 0.0, head)
    models_MNTHW, boxes_NT4 = torch.stack(logits), view.boxes_NT4 / STRIDE
    logits_NTHW = _finite(average_consistent_models(models_MNTHW, boxes_NT4), head)
    return logits_NTHW, disagreement(logits_NTHW, models_MNTHW, boxes_NT4), view.prior_N


def _finite(logits_NTHW: Tensor, part: str, remedy: str = REMEDY) -> Tensor:
    """The logits unchanged; TrainingError if one is not finite, because all masks would then be filled boxes."""
    if not torch.isfinite(logits_NTHW).all():
        raise TrainingError(f"{part}: mask logits are NaN or infinite. {remedy}")
    return logits_NTHW
