"""Label mode on one window: a model is trained on the boxes of the window, then asked for the mask of every box."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mfvis.infer.evidence import camera_motion
from mfvis.infer.label_config import LabelConfig
from mfvis.infer.reader import TrackReader, standardised
from mfvis.infer.tracking import assign_tubes
from mfvis.infer.tries import ABSENT
from mfvis.infer.view import View, as_batch, cut, enlarge
from mfvis.infer.windows import windows_of
from mfvis.losses.criterion import STRIDE, Criterion
from mfvis.losses.matcher import match
from mfvis.losses.negatives import negatives_loss
from mfvis.losses.temporal import tube_pairs
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.pixel_decoder import PixelFeatures
from mfvis.train.optim import descend, make_optimizer, set_learning_rate
from mfvis.types import BoxPrompts, Match, Prediction, present

Model = VideoMask2Former | TrackReader


def fit(model: Model, view: View, config: LabelConfig, head: str = "") -> None:
    """Train the model on the boxes of one window."""
    criterion = Criterion(config.loss, model.num_classes)
    optimizer = make_optimizer(model, config.optim)
    random = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    model.train()
    began = time.perf_counter()
    for step in range(config.optim.steps):
        set_learning_rate(optimizer, config.optim, step)
        part, objects = cut(view, _draw_clip(view, config, random))
        loss = _loss(_predict(model, part, objects, config), part, model, criterion, config, step)
        descend(model, optimizer, loss, config.optim.clip_norm)
        if (step + 1) % 20 == 0 or step + 1 == config.optim.steps:
            left = (time.perf_counter() - began) / (step + 1) * (config.optim.steps - step - 1)
            print(
                f"{head}: step {step + 1}/{config.optim.steps}  loss {loss.item():.3f}  {left:.0f} s left", flush=True
            )


@torch.no_grad()
def segment(model: Model, view: View, config: LabelConfig) -> Tensor:
    """Mask logits ``[N, T, H / 4, W / 4]`` of the given tracks: means over overlapping clips."""
    model.eval()
    frames = len(view.frames_TCHW)
    sums_NTHW = torch.zeros(view.escaped_NTHW.shape, device=view.boxes_NT4.device)
    counts_NT = torch.zeros(sums_NTHW.shape[:2], device=sums_NTHW.device)
    for clip in windows_of(frames, config.clip, None):
        indices = torch.tensor(clip, device=sums_NTHW.device)
        part, objects = cut(view, indices)
        if len(objects) == 0:
            continue
        masks_QTHW = _predict(model, part, objects, config, last_only=True).masks_LBQTHW[-1, 0]
        if not _has_own_queries(model):
            masks_QTHW = masks_QTHW[assign_tubes(masks_QTHW, part.boxes_NT4 / STRIDE)]
        sums_NTHW[objects[:, None], indices] += masks_QTHW
        counts_NT[objects[:, None], indices] += 1
    return sums_NTHW / counts_NT.clamp(min=1)[..., None, None]


def _has_own_queries(model: Model) -> bool:
    """Whether the model's n-th mask is that of the n-th given track; otherwise its tubes have to be assigned."""
    return isinstance(model, TrackReader) or model.prompts is not None


def _predict(model: Model, part: View, objects: Tensor, config: LabelConfig, last_only: bool = False) -> Prediction:
    """The model's word on the part's frames as one clip: a tube for each object, or for each of its learnt queries."""
    if isinstance(model, TrackReader):
        features = part.features or tuple(map(standardised, model.backbone(enlarge(part.frames_TCHW, config.zoom))))
        masks_NTHW = model(features, part.lab_TCHW)[objects]
        no_class = masks_NTHW.new_zeros(1, 1, len(objects), model.num_classes + 1)
        return Prediction(no_class, masks_NTHW[None, None])
    if model.prompts is None:
        queries = model.decoder.learnt_queries(1)
    pixels: PixelFeatures = model.pixel_decoder(part.features or model.backbone(part.frames_TCHW))
    if model.prompts is not None:
        valid_BQ = torch.ones(1, len(objects), dtype=torch.bool, device=objects.device)
        queries = model.prompts(BoxPrompts(part.boxes_NT4[None], valid_BQ), pixels, *part.frames_TCHW.shape[-2:])
    return model.decoder(pixels, queries, last_only)


def _loss(
    prediction: Prediction, part: View, model: Model, criterion: Criterion, config: LabelConfig, step: int
) -> Tensor:
    """The criterion's losses and those of the evidence, summed over the decoder layers, averaged over the objects."""
    batch, device = as_batch(part), part.boxes_NT4.device
    layers, count = len(prediction.logits_LBQK), len(part.labels_N)
    if _has_own_queries(model):
        matched = Match(torch.arange(count, device=device).expand(layers, -1))
    else:
        matched = match(prediction, batch, part.boxes_NT4 / STRIDE, config.loss.match, False)
    # What lies in another object's box is left to that one: it is no negative, so the objects of a video may share
    # what they look like, and their boxes keep them apart.
    layer = torch.arange(layers, device=device)[:, None]
    elsewhere = torch.zeros_like(prediction.masks_LBQTHW, dtype=torch.bool)
    elsewhere[layer, 0, matched.query_LN] = part.others_NTHW
    prediction = replace(prediction, masks_LBQTHW=prediction.masks_LBQTHW.masked_fill(elsewhere, ABSENT))

    shift_BP2 = None
    if config.loss.temporal.weight > 0:
        pairs_P2 = tube_pairs(config.loss.temporal.tube, len(part.frames_TCHW), device)
        shift_BP2 = camera_motion(part.lab_TCHW, part.background_THW, pairs_P2)[None]
    loss = criterion(prediction, batch, step, matched, shift_BP2).total
    evidence = config.evidence
    if evidence.weight > 0:
        masks = prediction.masks_LBQTHW[layer, 0, matched.query_LN].flatten(0, 1)
        escaped, ring, unknown = (
            known_NTHW.repeat(layers, 1, 1, 1) for known_NTHW in (part.escaped_NTHW, part.ring_NTHW, part.unknown_NTHW)
        )
        doubt_N = evidence.doubt * (escaped | unknown).sum((1, 2, 3))
        found = negatives_loss(masks, escaped, count, doubt_N) + negatives_loss(masks, ring, count)
        loss = loss + evidence.weight * found
    return loss


def _draw_clip(view: View, config: LabelConfig, random: np.random.Generator) -> Tensor:
    """Indices of a clip around a frame with a box; in short windows some frames come several times."""
    seen = torch.nonzero(present(view.boxes_NT4).any(0))[:, 0].tolist()
    frames = len(view.frames_TCHW)
    stride = int(random.choice(config.strides))
    span = (config.clip - 1) * stride
    if span >= frames:
        stride, span = 1, min(config.clip, frames) - 1
    anchor = int(random.choice(seen))
    starts = [anchor - offset for offset in range(0, span + 1, stride) if 0 <= anchor - offset < frames - span]
    first = int(random.choice(starts or [max(0, min(anchor, frames - 1 - span))]))
    return torch.arange(first, first + span + 1, stride, device=view.boxes_NT4.device)
