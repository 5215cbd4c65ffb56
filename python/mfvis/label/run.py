"""``mfvis label``: generates masks for box tracks, supervised only by the boxes.

Every video is split into windows of frames. For each window, one finetuned model or several models from scratch are
trained on the window's boxes, then predict the mask of every box. With several videos, a second network is trained on
all masks and ensembled with the first in a second pass. Finished results are saved, so interrupted runs resume.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

import mfvis_ext
from mfvis.data.augment import fitted_size
from mfvis.data.check import check_frames_of
from mfvis.data.results import write_labeled
from mfvis.data.rle import encode_mask
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.device import device_of
from mfvis.errors import ConfigError, DataError, TrainingError
from mfvis.grid import STRIDE
from mfvis.label.box_prior import ellipses
from mfvis.label.config import LabelConfig
from mfvis.label.cross_video import (
    CROSS_VIDEO_REMEDY,
    CropSegmenter,
    crop_windows,
    joined,
    masks_in_crops,
    select_examples,
    train_crop_segmenter,
)
from mfvis.label.ensemble import average_consistent_models, resolve_overlaps
from mfvis.label.fit import fit, segment
from mfvis.label.refine import refine
from mfvis.label.start import FinetunedModels, ScratchModels
from mfvis.label.state import SavedPass, hash_of_boxes, result_of, same_settings, saved_results
from mfvis.label.window_inputs import WindowInputs, add_propagated_background
from mfvis.predict.saved_results import (
    Inputs,
    hash_all_frames,
    hash_of,
    hash_of_weights,
    read_tensors_of,
    require_unchanged,
    write_tensors_of,
)
from mfvis.predict.upsample import at_original_size
from mfvis.sharding import Shard, sharded
from mfvis.train.checkpoint import load_model
from mfvis.train.optim import REMEDY
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.overlay import overlay_paths, write_overlay
from mfvis.writing import run_lock

Start = ScratchModels | FinetunedModels
FOLDERS = ("parts", "parts/shared", "parts/tries", "overlays")
"""Folders of a run, relative to `out`."""


def run(config: LabelConfig) -> Path:
    """Label every video of `config.data`; returns the completed JSON, written to `config.out` under the same name.

    A shard (`mfvis.sharding`) labels its part of the videos and writes no JSON. The run that joins the shards writes
    the same JSON as a single run, bit for bit.
    """
    with (
        sharded(config.shard) as shard,
        run_lock(config.out, FOLDERS, active=shard.speaks, shared=shard.count > 1 and not shard.launched),
    ):
        shard.wait()  # for the lock of the main process
        return _run(config, shard)


def _run(config: LabelConfig, shard: Shard) -> Path:
    # ---- Load ---------------------------------------------------------------------------------------------------
    dataset, content = _load(config)
    videos, own = dataset.videos, shard.own(dataset.videos)
    shard.say(*dataset.notes, *shard.heading(len(videos)))
    completed = config.out / config.data.name
    if completed.resolve() == config.data.resolve():
        raise ConfigError(
            f"out is {config.out}, where the result would replace {config.data}; choose another directory"
        )
    start = initial_models(replace(config, device=shard.device(config.device)))
    parts = config.out / "parts"
    settings = hash_of(same_settings(config, hash_of_weights(start.module), parts / "settings.json"))
    known = {video.id: {"settings": settings, "boxes": hash_of_boxes(video)} for video in videos}
    inputs: dict[int, Inputs] = {
        video.id: known[video.id] | {"frames": frames} for video, frames in zip(own, hash_all_frames(own), strict=True)
    }
    overlays = config.out / "overlays" if config.overlays else None
    several = sum(any(track.present_T.any() for track in video.tracks) for video in videos) > 1
    shares = several and config.shared_steps > 0 and config.checkpoint is None and config.backbone.frozen

    def label(video: Video, head: str, reader: CropSegmenter | None = None) -> list[TrackResult]:
        return label_video(start, config, video, head, parts / "tries", inputs[video.id], reader=reader)

    # ---- Video by video: train, predict, refine, write ----------------------------------------------------------
    last = SavedPass(parts, inputs)
    found = _label_or_load(dataset, own, last, label, None if shares else overlays)
    shard.wait()

    # ---- Train the cross-video network on all masks, segment every video again, write ---------------------------
    if shares:
        first = {video.id: results for video, results in zip(own, found, strict=True)}
        for video in (video for video in videos if video.id not in first):
            inputs_of, results = saved_results(parts, video, known[video.id])
            if results is not None:
                inputs[video.id], first[video.id] = inputs_of, results
        if len(first) < len(videos):
            print(
                f"first pass done; that of {len(videos) - len(first)} videos of other shards is missing. {shard.next}"
            )
            return completed
        # In the second pass the masks of each video depend on all videos.
        complete = all(made_from["frames"] for made_from in inputs.values())
        others = {"other videos": hash_of(inputs) if complete else None}
        last = SavedPass(parts / "shared", {id: made_from | others for id, made_from in inputs.items()})
        needed = any(last.read(video)[0] is None for video in (videos if shard.joins else own))

        def network() -> CropSegmenter:
            return _cross_video_network(start, config, videos, first, last.folder / "network.pt", others)

        reader = network() if needed and shard.speaks else None
        shard.wait()
        if needed and reader is None:
            reader = network()  # the main process has trained and saved it
        found = _label_or_load(dataset, own, last, partial(label, reader=reader), overlays)
        shard.wait()

    # ---- Write --------------------------------------------------------------------------------------------------
    if not shard.joins:
        shard.say(f"shard {shard} is done. {shard.next}")
        return completed
    if shard.launched:
        found = [saved_results(last.folder, video, known[video.id])[1] for video in videos]
    root = json.loads(content.decode("utf-8-sig"))
    write_labeled(root, completed, [result for results in found for result in results or ()], dataset)
    print(f"wrote {completed}" + (f" and overlays to {overlays}" if overlays else ""))
    if not config.data.is_file() or config.data.read_bytes() != content:
        print(f"{config.data} changed in the meantime: {completed} has its boxes as they were at the start. Run again")
    return completed


def _cross_video_network(
    start: ScratchModels,
    config: LabelConfig,
    videos: Sequence[Video],
    found: Mapping[int, list[TrackResult]],
    path: Path,
    inputs: Inputs,
) -> CropSegmenter:
    """The cross-video network that was trained on these results, from `path` if it was saved there."""
    if (saved := read_tensors_of(path, inputs)) is not None:
        reader = CropSegmenter(start.backbone.channels).to(start.backbone.mean.device)
        reader.load_state_dict(saved)
        return reader.eval()
    reader = _train_cross_video(start, config, videos, [found[video.id] for video in videos])
    write_tensors_of(path, inputs, dict(reader.state_dict()))
    return reader


def _load(config: LabelConfig) -> tuple[VideoDataset, bytes]:
    """The videos with their boxes, and the bytes of their JSON file."""

    def version() -> tuple[int, int, int] | None:
        if not config.data.is_file():
            return None
        stat = config.data.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    before = version()
    dataset = load_dataset(config.data, config.frames)
    content = config.data.read_bytes()
    if version() != before:
        raise ConfigError(f"data is {config.data}, which changed while it was read; start again when it is complete")
    return dataset, content


def _label_or_load(
    dataset: VideoDataset,
    own: Sequence[Video],
    saved: SavedPass,
    label: Callable[[Video, str], list[TrackResult]],
    overlays: Path | None,
) -> list[list[TrackResult]]:
    """Saved results of the videos `own` where they exist; otherwise the results of `label`, which are drawn and saved.

    Raises:
        DataError: with all frames that cannot be read, before anything is labeled.
    """
    heads = {video.id: f"[{i}/{len(dataset.videos)}] {video.name}" for i, video in enumerate(dataset.videos, start=1)}
    paths = _overlays_of(dataset, overlays)
    names = {category.id: category.name for category in dataset.categories}
    kept = [saved.read(video) for video in own]
    ahead = [video for video, (results, _) in zip(own, kept, strict=True) if results is None]
    if problems := check_frames_of(ahead):
        raise DataError(problems)  # before hours of training, not after them
    found = []
    for video, (results, reason) in zip(own, kept, strict=True):
        head, frames = heads[video.id], saved.inputs[video.id]["frames"]
        if reason:
            print(f"{head}: {reason}; labeled again", flush=True)
        began = time.perf_counter()
        labeled = label(video, head) if results is None else results
        if results is None:
            require_unchanged(video, frames)
        else:
            print(f"{head}: already labeled", flush=True)
        if overlays and (results is None or frames and not paths[video.id].is_file()):
            write_overlay(paths[video.id], video, labeled, [names[result.category_id] for result in labeled])
        if results is None:
            saved.write(video, labeled)
            seconds = time.perf_counter() - began
            print(f"{head}: {video.length} frames, {len(labeled)} tracks, {seconds:.0f} s", flush=True)
        found.append(labeled)
    return found


def _overlays_of(dataset: VideoDataset, folder: Path | None) -> dict[int, Path]:
    """Paths of the overlays by the ids of the videos; empty without overlays."""
    paths = overlay_paths(folder, dataset.videos) if folder else []
    return {video.id: path for video, path in zip(dataset.videos, paths, strict=False)}


def label_video(
    start: Start,
    config: LabelConfig,
    video: Video,
    head: str = "",
    tries: Path | None = None,
    inputs: Inputs = MappingProxyType({}),
    reader: CropSegmenter | None = None,
) -> list[TrackResult]:
    """Results of all tracks of the video: a mask in each frame with a box, None in other frames.

    Args:
        head: Prefix of the progress lines.
        tries: Directory of the mask logits of each window's models; saved logits are not computed again.
        inputs: Hashes of the inputs that determine these logits.
        reader: Cross-video network whose logits are added.
    """
    segmentations = [[None] * video.length for _ in video.tracks]
    full_size = (video.height, video.width)
    for window, group in _groups(video, config.window, start.max_tracks_per_window):
        frames_TCHW = read_frames(video, window)
        view = _prepare_window(start, config, video, window, group, frames_TCHW)
        path = tries and tries / f"{video.id}-{window.start}-{group[0]}.pt"
        kept = read_tensors_of(path, inputs) if path else None
        part = f"{head} frames {window.start}-{window.stop - 1}"
        if kept is None:
            logits_NTHW, prior_N = _ensemble_logits(start, view, config, part)
        else:
            logits_NTHW, prior_N = kept["logits"].to(view.boxes_NT4), kept["prior"]
        if path and kept is None:
            write_tensors_of(path, inputs, {"logits": logits_NTHW, "prior": prior_N})
        if reader:
            logits_NTHW = logits_NTHW + _finite(reader.read(view), f"{part}, cross-video network", CROSS_VIDEO_REMEDY)
        logits_NTHW = resolve_overlaps(logits_NTHW, view.boxes_NT4 / STRIDE)
        lab_TCHW = mfvis_ext.rgb_to_lab(frames_TCHW).to(logits_NTHW.device)
        cell = STRIDE * video.height / view.size[0]
        for n, logits_THW, prior in zip(group, logits_NTHW, prior_N.tolist(), strict=True):
            boxes_T4 = torch.from_numpy(video.tracks[n].boxes_T4[window.start : window.stop])
            enlarged_THW = at_original_size(logits_THW, view.size, full_size)
            masks_THW = refine(enlarged_THW, lab_TCHW, boxes_T4, config.refine, prior, cell).cpu()
            # Where the mask is empty, the inscribed ellipse is the better guess.
            empty_T = ~masks_THW.flatten(1).any(1)
            masks_THW[empty_T] = ellipses(boxes_T4[None, empty_T], *full_size)[0]
            for t, mask_HW in zip(window, masks_THW.numpy(), strict=True):
                segmentations[n][t] = encode_mask(mask_HW) if video.tracks[n].present_T[t] else None
    return [result_of(video, n, tuple(masks)) for n, masks in enumerate(segmentations)]


def _prepare_window(
    start: Start, config: LabelConfig, video: Video, frames: Sequence[int], group: Sequence[int], frames_TCHW: Tensor
) -> WindowInputs:
    """Inputs of a window: these frames of the video with the tracks of the group."""
    labels = {category.id: label for label, category in enumerate(start.categories)}
    tracks = [video.tracks[n] for n in group]
    boxes_NT4 = torch.from_numpy(np.stack([track.boxes_T4[list(frames)] for track in tracks]))
    labels_N = torch.tensor([labels.get(track.category_id, 0) for track in tracks])
    size = fitted_size(video.height, video.width, config.short_side, config.max_side)
    return start.look(frames_TCHW, boxes_NT4, labels_N, size)


def _train_cross_video(
    start: ScratchModels, config: LabelConfig, videos: Sequence[Video], found: Sequence[list[TrackResult]]
) -> CropSegmenter:
    """Trains the cross-video network on the masks of all videos."""
    crops, masks = [], []
    for video, results, examples in zip(videos, found, select_examples(videos), strict=True):
        for first in range(0, len(examples), config.window):
            frames = list(examples)[first : first + config.window]
            view = _prepare_window(start, config, video, frames, range(len(video.tracks)), read_frames(video, frames))
            for n, result in enumerate(results):
                own = [i for i, t in enumerate(frames) if n in examples[t]]
                if own:
                    crops.append(crop_windows(view, n, torch.tensor(own, device=view.boxes_NT4.device)))
                    masks.append(masks_in_crops(video, result, [frames[i] for i in own]))
    return train_crop_segmenter(joined(crops), torch.cat(masks), config.shared_steps, config.seed)


def _groups(video: Video, length: int, most: int | None) -> Iterator[tuple[range, list[int]]]:
    """Windows of the video with the tracks that have a box in them, in groups of at most `most` tracks."""
    for first in range(0, video.length, length):
        window = range(first, min(first + length, video.length))
        present = [n for n, track in enumerate(video.tracks) if track.present_T[window.start : window.stop].any()]
        size = most or max(1, len(present))
        for group in range(0, len(present), size):
            yield window, present[group : group + size]


def _ensemble_logits(start: Start, view: WindowInputs, config: LabelConfig, head: str) -> tuple[Tensor, Tensor]:
    """Mask logits ``[N, T, H / 4, W / 4]``, averaged over the models (one per seed) whose masks fill the boxes; and the
    weight of the position prior for each track."""
    view, tries = add_propagated_background(view, config.propagation), []
    for number, seed in enumerate(start.seeds, start=1):
        model = start.model(seed, len(view.boxes_NT4))
        fit(model, view, replace(config, seed=seed), f"{head} try {number}/{len(start.seeds)}")
        tries.append(segment(model, view, config))
    return _finite(average_consistent_models(torch.stack(tries), view.boxes_NT4 / STRIDE), head), view.prior_N


def _finite(logits_NTHW: Tensor, part: str, remedy: str = REMEDY) -> Tensor:
    """The logits unchanged; TrainingError if one is not finite, because all masks would then be filled boxes."""
    if not torch.isfinite(logits_NTHW).all():
        raise TrainingError(f"{part}: mask logits are NaN or infinite. {remedy}")
    return logits_NTHW


def initial_models(config: LabelConfig) -> Start:
    """Models from which every window's models start: the backbone, or the checkpoint."""
    device = device_of(config.device)
    if config.checkpoint is None:
        return ScratchModels(config, device)
    trained, categories, _ = load_model(config.checkpoint, device)
    return FinetunedModels(config, trained, categories)
