"""Label mode on one window: train a model on the boxes of the window, then predict the mask of every box."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mfvis.data.clips import starts_around
from mfvis.grid import STRIDE
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import corrections_loss
from mfvis.labeling.ensemble import ABSENT
from mfvis.labeling.models import PerTrackSegmenter, QuerySegmenter
from mfvis.labeling.window_inputs import WindowInputs, crop_around_boxes, select_clip, to_batch
from mfvis.losses.box_positions import position_cost
from mfvis.losses.criterion import Criterion
from mfvis.losses.negatives import negatives_loss
from mfvis.predict.track_association import windows_of
from mfvis.train.optim import train_small
from mfvis.types import Match, Prediction, present

Model = PerTrackSegmenter | QuerySegmenter


def fit(
    model: Model,
    view: WindowInputs,
    config: LabelConfig,
    head: str = "",
    after_step: Callable[[str], None] = lambda text: None,
) -> None:
    """Train the model on the boxes of one window.

    after_step: called after each step with a text that names it.
    """
    criterion = Criterion(config.loss.losses(), model.num_classes)
    random = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)

    def loss_of(step: int) -> Tensor:
        part, objects, _ = _clip(model, view, _draw_clip(view, config, random))
        prediction, matched = model(part, objects)
        return _loss(model, prediction, matched, part, criterion, config, step)

    train_small(model, config.optim, loss_of, head, after_step=after_step)


@torch.no_grad()
def segment(model: Model, view: WindowInputs, config: LabelConfig) -> Tensor:
    """Mask logits ``[N, T, H / 4, W / 4]`` of the given tracks, averaged over overlapping clips."""
    model.eval()
    frames = len(view.frames_TCHW)
    sums_NTHW = torch.zeros(view.propagated_NTHW.shape, device=view.boxes_NT4.device)
    counts_NT = torch.zeros(sums_NTHW.shape[:2], device=sums_NTHW.device)
    for clip in windows_of(frames, config.clip, None):
        indices = torch.tensor(clip, device=sums_NTHW.device)
        part, objects, region = _clip(model, view, indices)
        if len(objects) == 0:
            continue
        prediction, matched = model(part, objects)
        logits_NTHW = sums_NTHW.new_full((len(objects), len(indices), *sums_NTHW.shape[-2:]), ABSENT)
        logits_NTHW[(..., *region)] = prediction.masks.select(0, matched.query_LN)[-1]
        sums_NTHW[objects[:, None], indices] += logits_NTHW
        counts_NT[objects[:, None], indices] += 1
    return sums_NTHW / counts_NT.clamp(min=1)[..., None, None]


def _clip(model: Model, view: WindowInputs, indices: Tensor) -> tuple[WindowInputs, Tensor, tuple[slice, slice]]:
    """The frames at `indices`, the objects in them, and the region of the grid that the model needs to see."""
    part, objects = select_clip(view, indices)
    if isinstance(model, PerTrackSegmenter) and len(objects) > 0:
        part, region = crop_around_boxes(part)
        return part, objects, region
    return part, objects, (slice(None), slice(None))


def _loss(
    model: Model,
    prediction: Prediction,
    matched: Match,
    part: WindowInputs,
    criterion: Criterion,
    config: LabelConfig,
    step: int,
) -> Tensor:
    """The criterion's losses and the propagated-background loss, summed over decoder layers, averaged over objects."""
    batch = to_batch(part)
    layers, count = len(prediction.logits_LBQK), len(part.labels_N)
    # The inside of another object's box is not used as a negative: the objects of a video may then share features,
    # and their boxes keep them apart.
    masks_LNTHW = prediction.masks.select(0, matched.query_LN).masked_fill(part.others_NTHW, ABSENT)

    loss = criterion.terms(prediction, matched, masks_LNTHW, batch, step).total
    propagation = config.propagation
    if propagation.weight > 0:
        masks = masks_LNTHW.flatten(0, 1)
        escaped, ring, unknown = (
            known_NTHW.repeat(layers, 1, 1, 1)
            for known_NTHW in (part.propagated_NTHW, part.ring_NTHW, part.unknown_NTHW)
        )
        smoothing_N = propagation.smoothing * (escaped | unknown).sum((1, 2, 3))
        found = negatives_loss(masks, escaped, count, smoothing_N) + negatives_loss(masks, ring, count)
        loss = loss + propagation.weight * found
    if isinstance(model, PerTrackSegmenter):
        cost_N = position_cost(masks_LNTHW[-1], part.boxes_NT4 / STRIDE, part.propagated_NTHW)
        loss = loss + (part.prior_N * cost_N).mean()
    if part.corrections is not None:
        loss = loss + corrections_loss(masks_LNTHW, part.corrections, count)
    return loss


def _draw_clip(view: WindowInputs, config: LabelConfig, random: np.random.Generator) -> Tensor:
    """Frame indices of a clip around a random frame with a box, at a random stride.

    A window that is too short for the stride yields adjacent frames, and fewer of them if necessary. Each step trains
    on one clip, so no frame is repeated to reach a length, unlike in `mfvis.data.clips.sample_frames`.
    """
    seen = torch.nonzero(present(view.boxes_NT4).any(0))[:, 0].tolist()
    frames = len(view.frames_TCHW)
    stride = int(random.choice(config.strides))
    span = (config.clip - 1) * stride
    if span >= frames:
        stride, span = 1, min(config.clip, frames) - 1
    given = [] if view.corrections is None else torch.nonzero(view.corrections.frames_T)[:, 0].tolist()
    if given and random.random() < 0.5:
        seen = given
    anchor = int(random.choice(seen))
    # With a stride of 2, no clip that fits may contain the frame; the nearest clip is used instead.
    nearest = max(0, min(anchor, frames - 1 - span))
    first = int(random.choice(starts_around(anchor, span, stride, frames) or [nearest]))
    return torch.arange(first, first + span + 1, stride, device=view.boxes_NT4.device)
