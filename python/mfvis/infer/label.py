"""``mfvis label``: box tracks in, the same tracks with masks out, learnt from those boxes alone.

Every video is read in windows of frames; for each one a model, from a checkpoint or several times from scratch, is
trained on the window's own boxes and then asked for the mask of every box. What is ready is on the disk and not done
again.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import mfvis_ext
from mfvis.data.augment import fitted_size
from mfvis.data.jsonfile import read_json, write_json
from mfvis.data.results import write_labelled
from mfvis.data.rle import encode_mask
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError
from mfvis.infer.evidence import EvidenceConfig, camera_motion, inside_boxes
from mfvis.infer.predictor import device_of, write_overlay
from mfvis.infer.reader import TrackReader, at_most, standardised
from mfvis.infer.refine import RefineConfig, refine
from mfvis.infer.tracking import assign_tubes
from mfvis.infer.tries import ABSENT, among_tracks, mean_of_fitting
from mfvis.infer.view import View, as_batch, cut, enlarge, look
from mfvis.losses.criterion import STRIDE, Criterion, LossConfig
from mfvis.losses.matcher import match
from mfvis.losses.negatives import negatives_loss, positives_loss
from mfvis.losses.temporal import tube_pairs
from mfvis.models.backbone import Backbone, BackboneConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.pixel_decoder import PixelFeatures
from mfvis.parsing import to_plain
from mfvis.train.optim import OptimConfig, make_optimizer, set_learning_rate
from mfvis.types import BoxPrompts, Category, Match, Prediction, TrackResult, Video, VideoDataset

Model = VideoMask2Former | TrackReader
Start = VideoMask2Former | Backbone


@dataclass(frozen=True)
class LabelConfig:
    """Give box tracks their masks: trains on the boxes of each video, then fills them."""

    data: Annotated[Path, tyro.conf.Positional]
    """YouTube-VIS JSON with the videos and their box tracks; masks in it are not looked at."""
    out: Path = Path("labels")
    """Directory for the completed JSON, the overlay videos and the state that a killed run goes on from."""
    frames: Path | None = None
    """Directory of the frames; by default JPEGImages beside the JSON, else the JSON's own directory."""
    checkpoint: Path | None = None
    """A checkpoint of `mfvis train` to start each video from; without one, from scratch on the backbone's weights."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    overlays: bool = True
    """Write an MP4 per video with the masks drawn over it."""
    seed: int = 0
    window: int = 40
    """Frames of a video that are trained on and labelled together; longer videos are cut into such windows."""
    clip: int = 5
    """Frames of a training clip, and of a prediction."""
    strides: tuple[int, ...] = (1, 2)
    """Steps between the frames of a training clip, drawn anew each time."""
    short_side: int = 360
    """Frames are scaled to this short side, aspect kept."""
    max_side: int = 960
    """The long side is at most this; the short side gives way."""
    zoom: int = 2
    """How much larger the backbone sees them. Without a checkpoint; one is shown what it was trained on."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Whose features are read without a checkpoint."""
    dim: int = 32
    """Channels of the model trained from scratch."""
    tries: int = 1
    """Models trained from scratch on each window, each from a seed of its own. A track's mask is the mean
    of those that fill its boxes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and steps, per window."""
    loss: LossConfig = field(default_factory=LossConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}, expected at least 1"
            for name in ("window", "clip", "short_side", "max_side", "zoom", "dim", "tries")
            if getattr(self, name) < 1
        ]
        if not self.strides or min(self.strides) < 1:
            faults.append(f"strides is {self.strides}, expected one or more steps, each at least 1")
        if self.checkpoint is None and self.backbone.frozen and self.backbone.weights is None:
            faults.append(
                f"backbone.weights: none given for a frozen {self.backbone.name}, which would stay random. "
                'Name a weights file or "hub", or train it with --no-backbone.frozen'
            )
        if faults:
            raise ConfigError("\n".join(faults))


def run(config: LabelConfig) -> Path:
    """Label every video of `config.data`; returns the completed JSON, written to `config.out` under the same name."""
    # ---- Load ---------------------------------------------------------------------------------------------------
    dataset = load_dataset(config.data, config.frames)
    completed = config.out / config.data.name
    if completed.resolve() == config.data.resolve():
        raise ConfigError(
            f"out is {config.out}, where the result would replace {config.data}; choose another directory"
        )
    parts = config.out / "parts"
    _same_settings(config, parts / "settings.json")
    device = device_of(config.device)
    start, categories = _starting_model(config, dataset)
    start.to(device)

    # ---- Video by video: train, predict, refine, write ----------------------------------------------------------
    results: list[TrackResult] = []
    for number, video in enumerate(dataset.videos, start=1):
        head = f"[{number}/{len(dataset.videos)}] {video.name}"
        part = parts / f"{video.id}.json"
        labelled = _read_part(part, video)
        if labelled is None:
            began = time.perf_counter()
            labelled = label_video(start, video, categories, config, head)
            if config.overlays:
                names = {category.id: category.name for category in dataset.categories}
                labels = [names[result.category_id] for result in labelled]
                write_overlay(config.out / "overlays" / f"{video.name}.mp4", video, labelled, labels)
            write_json(part, [list(result.segmentations) for result in labelled])
            seconds = time.perf_counter() - began
            print(f"{head}: {video.length} frames, {len(labelled)} tracks, {seconds:.0f} s", flush=True)
        else:
            print(f"{head}: already labelled", flush=True)
        results += labelled
    write_labelled(config.data, completed, results)
    print(f"wrote {completed}" + (f" and overlays to {config.out / 'overlays'}" if config.overlays else ""))
    return completed


def label_video(
    start: Start, video: Video, categories: Sequence[Category], config: LabelConfig, head: str = ""
) -> list[TrackResult]:
    """A result for every track of the video: a mask wherever it has a box, None elsewhere."""
    segmentations = [[None] * video.length for _ in video.tracks]
    windows = [
        range(first, min(first + config.window, video.length)) for first in range(0, video.length, config.window)
    ]
    crowd = max(1, len(video.tracks))
    if isinstance(start, VideoMask2Former) and start.prompts is None:
        crowd = start.config.queries  # no query can stand for two tracks, so more of them are labelled group by group
    groups = [
        (window, present[first : first + crowd])
        for window in windows
        for present in [_present(video, window)]
        for first in range(0, len(present), crowd)
    ]
    for window, present in groups:
        tracks = [video.tracks[n] for n in present]
        boxes_NT4 = torch.from_numpy(np.stack([track.boxes_T4[window.start : window.stop] for track in tracks]))
        labels = {category.id: label for label, category in enumerate(categories)}
        labels_N = torch.tensor([labels.get(track.category_id, 0) for track in tracks])
        frames_TCHW = read_frames(video, window)

        size = fitted_size(video.height, video.width, config.short_side, config.max_side)
        name = f"{head} frames {window.start}-{window.stop - 1}"
        if isinstance(start, Backbone):
            labels_N = torch.zeros_like(labels_N)
            view = look(start, frames_TCHW, boxes_NT4, labels_N, size, config.zoom, config.evidence)
            if view.features is not None:
                grid = view.lab_TCHW.shape[-2:]
                view = replace(view, features=tuple(at_most(standardised(level), grid) for level in view.features))
            logits_NTHW = _several_tries(start, view, config, name)
        else:
            model = copy.deepcopy(start)
            view = look(model.backbone, frames_TCHW, boxes_NT4, labels_N, size, 1, config.evidence)
            fit(model, view, config, name)
            logits_NTHW = segment(model, view, config)
        logits_NTHW = among_tracks(logits_NTHW, view.boxes_NT4 / STRIDE)
        full_size = (video.height, video.width)
        for n, logits_THW, boxes_T4 in zip(present, logits_NTHW, boxes_NT4, strict=True):
            enlarged = _enlarge(logits_THW, view.size, full_size)
            lab_TCHW = mfvis_ext.rgb_to_lab(frames_TCHW).to(enlarged.device)
            masks_THW = refine(enlarged, lab_TCHW, boxes_T4, config.refine).cpu()
            # Where nothing was found, the box itself is the better guess.
            empty_T = ~masks_THW.flatten(1).any(1)
            masks_THW[empty_T] = inside_boxes(boxes_T4[None, empty_T], *full_size)[0]
            for t, mask_HW in zip(window, masks_THW.numpy(), strict=True):
                segmentations[n][t] = encode_mask(mask_HW) if video.tracks[n].present_T[t] else None
    return [_result(video, n, tuple(masks)) for n, masks in enumerate(segmentations)]


def _several_tries(start: Backbone, view: View, config: LabelConfig, head: str) -> Tensor:
    """Mask logits ``[N, T, H / 4, W / 4]`` of the tries that fill the boxes. Runs of different seeds share none."""
    tries = []
    for seed in range(config.seed * config.tries, (config.seed + 1) * config.tries):
        torch.manual_seed(seed)
        model = TrackReader(copy.deepcopy(start), len(view.labels_N), config.dim).to(start.mean.device)
        fit(model, view, replace(config, seed=seed), f"{head} try {len(tries) + 1}/{config.tries}")
        tries.append(segment(model, view, config))
    return mean_of_fitting(torch.stack(tries), view.boxes_NT4 / STRIDE)


def _present(video: Video, window: range) -> list[int]:
    """The tracks with a box in one of the frames."""
    return [n for n, track in enumerate(video.tracks) if track.present_T[window.start : window.stop].any()]


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
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.optim.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
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
    clip = min(config.clip, frames)
    sums_NTHW = torch.zeros(view.escaped_NTHW.shape, device=view.boxes_NT4.device)
    counts_NT = torch.zeros(sums_NTHW.shape[:2], device=sums_NTHW.device)
    starts = [*range(0, frames - clip, max(1, clip // 2)), frames - clip]
    for indices in (torch.arange(first, first + clip, device=sums_NTHW.device) for first in starts):
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
        loss = loss + evidence.default * positives_loss(masks, unknown, count)
    return loss


def _draw_clip(view: View, config: LabelConfig, random: np.random.Generator) -> Tensor:
    """Indices of a clip around a frame with a box; in short windows some frames come several times."""
    boxes_NT4 = view.boxes_NT4
    seen = torch.nonzero((boxes_NT4[..., 2] > boxes_NT4[..., 0]).any(0))[:, 0].tolist()
    frames = boxes_NT4.shape[1]
    stride = int(random.choice(config.strides))
    span = (config.clip - 1) * stride
    if span >= frames:
        stride, span = 1, min(config.clip, frames) - 1
    anchor = int(random.choice(seen))
    starts = [anchor - offset for offset in range(0, span + 1, stride) if 0 <= anchor - offset < frames - span]
    first = int(random.choice(starts or [max(0, min(anchor, frames - 1 - span))]))
    return torch.arange(first, first + span + 1, stride, device=boxes_NT4.device)


def _enlarge(logits_THW: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Logits at stride 4 of the padded frames as logits of the original ones."""
    logits = F.interpolate(logits_THW[:, None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
    logits = logits[..., : resized[0], : resized[1]]
    return F.interpolate(logits, original, mode="bilinear", align_corners=False)[:, 0]


def _result(video: Video, n: int, segmentations: tuple[dict | None, ...]) -> TrackResult:
    track = video.tracks[n]
    return TrackResult(video.id, track.category_id, 1.0, segmentations, track.boxes_T4, track.id)


def _starting_model(config: LabelConfig, dataset: VideoDataset) -> tuple[Start, tuple[Category, ...]]:
    """What every window starts from, and the categories that its labels stand for."""
    if config.checkpoint is None:
        torch.manual_seed(config.seed)
        return Backbone(config.backbone), dataset.categories
    from mfvis.train.checkpoint import load_model

    model, categories, _ = load_model(config.checkpoint)
    return model, categories


def _same_settings(config: LabelConfig, path: Path) -> None:
    """Parts of an earlier run are only used if it was given the same boxes and settings; ConfigError if not."""
    settings = to_plain(replace(config, out=Path(), device="auto", overlays=True))
    settings["sha256"] = hashlib.sha256(config.data.read_bytes()).hexdigest()
    if not path.exists():
        write_json(path, settings)
    elif read_json(path, []) != settings:
        raise ConfigError(
            f"{config.out} holds labels made from other boxes or with other settings; choose another --out or delete it"
        )


def _read_part(path: Path, video: Video) -> list[TrackResult] | None:
    """What an earlier, interrupted run has already labelled; None if it has not."""
    labelled = read_json(path, [])
    return None if labelled is None else [_result(video, n, tuple(masks)) for n, masks in enumerate(labelled)]
