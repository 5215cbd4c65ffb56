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
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mfvis_ext
from mfvis.data.augment import fitted_size
from mfvis.data.check import check_frames_of
from mfvis.data.jsonfile import read_json, write_json
from mfvis.data.results import write_labeled
from mfvis.data.rle import encode_mask
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.device import device_of
from mfvis.errors import ConfigError, DataError, TrainingError
from mfvis.grid import STRIDE
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
from mfvis.label.window_inputs import WindowInputs, add_propagated_background
from mfvis.losses.background_propagation import inside_boxes
from mfvis.parsing import changed_keys, to_plain
from mfvis.predict.saved_results import (
    Inputs,
    hash_all_frames,
    hash_of,
    hash_of_weights,
    read_logits,
    read_part,
    require_unchanged,
    write_logits,
    write_part,
)
from mfvis.predict.upsample import at_original_size
from mfvis.train.checkpoint import load_model
from mfvis.train.optim import REMEDY
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.overlay import overlay_paths, write_overlay
from mfvis.writing import run_lock

Start = ScratchModels | FinetunedModels


def run(config: LabelConfig) -> Path:
    """Label every video of `config.data`; returns the completed JSON, written to `config.out` under the same name."""
    with run_lock(config.out, ("parts", "parts/shared", "parts/tries", "overlays")):
        return _run(config)


def _run(config: LabelConfig) -> Path:
    # ---- Load ---------------------------------------------------------------------------------------------------
    dataset, content = _load(config)
    for note in dataset.notes:
        print(note)
    completed = config.out / config.data.name
    if completed.resolve() == config.data.resolve():
        raise ConfigError(
            f"out is {config.out}, where the result would replace {config.data}; choose another directory"
        )
    start = _start(config)
    parts = config.out / "parts"
    settings = _same_settings(config, start, parts / "settings.json")
    inputs = {
        video.id: {"settings": hash_of(settings), "boxes": _hash_of_boxes(video), "frames": frames}
        for video, frames in zip(dataset.videos, hash_all_frames(dataset.videos), strict=True)
    }
    overlays = config.out / "overlays" if config.overlays else None
    several = sum(any(track.present_T.any() for track in video.tracks) for video in dataset.videos) > 1
    shares = several and config.shared_steps > 0 and config.checkpoint is None and config.backbone.frozen
    last, final_inputs = parts, inputs
    if shares:
        # In the second pass the masks of each video depend on all videos.
        known = all(made_from["frames"] for made_from in inputs.values())
        others = {"other videos": hash_of(inputs) if known else None}
        last, final_inputs = parts / "shared", {id: made_from | others for id, made_from in inputs.items()}
    ahead = [
        video for video in dataset.videos if read_part(last / f"{video.id}.json", final_inputs[video.id])[0] is None
    ]
    if problems := check_frames_of(ahead):
        raise DataError(problems)  # before hours of training, not after them

    # ---- Video by video: train, predict, refine, write ----------------------------------------------------------
    def label(video: Video, head: str, reader: CropSegmenter | None = None) -> list[TrackResult]:
        return label_video(start, config, video, head, parts / "tries", inputs[video.id], reader=reader)

    found = _label_or_load(dataset, parts, inputs, label, None if shares else overlays)

    # ---- Train the cross-video network on all masks, segment every video again, write ---------------------------
    if shares:
        reader = _train_cross_video(start, config, dataset.videos, found) if ahead else None
        found = _label_or_load(dataset, last, final_inputs, partial(label, reader=reader), overlays)
    root = json.loads(content.decode("utf-8-sig"))
    write_labeled(root, completed, [result for results in found for result in results], dataset)
    print(f"wrote {completed}" + (f" and overlays to {overlays}" if overlays else ""))
    if not config.data.is_file() or config.data.read_bytes() != content:
        print(f"{config.data} changed in the meantime: {completed} has its boxes as they were at the start. Run again")
    return completed


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


def _hash_of_boxes(video: Video) -> str:
    tracks = [[track.id, track.category_id, track.boxes_T4.tolist()] for track in video.tracks]
    return hash_of([video.width, video.height, video.length, tracks])


def _label_or_load(
    dataset: VideoDataset,
    parts: Path,
    inputs: Mapping[int, Inputs],
    label: Callable[[Video, str], list[TrackResult]],
    overlays: Path | None,
) -> list[list[TrackResult]]:
    """Saved results of every video where they exist; otherwise the results of `label`, which are drawn and saved."""
    paths = overlay_paths(overlays, dataset.videos) if overlays else []
    found = []
    for number, video in enumerate(dataset.videos, start=1):
        head = f"[{number}/{len(dataset.videos)}] {video.name}"
        part, made_from = parts / f"{video.id}.json", inputs[video.id]
        kept, reason = read_part(part, made_from)
        if reason:
            print(f"{head}: {reason}; labeled again", flush=True)
        if kept is None:
            began = time.perf_counter()
            labeled = label(video, head)
            require_unchanged(video, made_from["frames"])
        else:
            labeled = [_result(video, n, tuple(masks)) for n, masks in enumerate(kept)]
            print(f"{head}: already labeled", flush=True)
        if overlays and (kept is None or made_from["frames"] and not paths[number - 1].is_file()):
            names = {category.id: category.name for category in dataset.categories}
            write_overlay(paths[number - 1], video, labeled, [names[result.category_id] for result in labeled])
        if kept is None:
            write_part(part, made_from, [list(result.segmentations) for result in labeled])
            seconds = time.perf_counter() - began
            print(f"{head}: {video.length} frames, {len(labeled)} tracks, {seconds:.0f} s", flush=True)
        found.append(labeled)
    return found


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
        kept = read_logits(path, inputs) if path else None
        part = f"{head} frames {window.start}-{window.stop - 1}"
        logits_NTHW = _ensemble_logits(start, view, config, part) if kept is None else kept.to(view.boxes_NT4)
        if path and kept is None:
            write_logits(path, inputs, logits_NTHW)
        if reader:
            logits_NTHW = logits_NTHW + _finite(reader.read(view), f"{part}, cross-video network", CROSS_VIDEO_REMEDY)
        logits_NTHW = resolve_overlaps(logits_NTHW, view.boxes_NT4 / STRIDE)
        lab_TCHW = mfvis_ext.rgb_to_lab(frames_TCHW).to(logits_NTHW.device)
        for n, logits_THW in zip(group, logits_NTHW, strict=True):
            boxes_T4 = torch.from_numpy(video.tracks[n].boxes_T4[window.start : window.stop])
            enlarged_THW = at_original_size(logits_THW, view.size, full_size)
            masks_THW = refine(enlarged_THW, lab_TCHW, boxes_T4, config.refine).cpu()
            # Where the mask is empty, the box itself is the better guess.
            empty_T = ~masks_THW.flatten(1).any(1)
            masks_THW[empty_T] = inside_boxes(boxes_T4[None, empty_T], *full_size)[0]
            for t, mask_HW in zip(window, masks_THW.numpy(), strict=True):
                segmentations[n][t] = encode_mask(mask_HW) if video.tracks[n].present_T[t] else None
    return [_result(video, n, tuple(masks)) for n, masks in enumerate(segmentations)]


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


def _ensemble_logits(start: Start, view: WindowInputs, config: LabelConfig, head: str) -> Tensor:
    """Mask logits ``[N, T, H / 4, W / 4]``, averaged over the models (one per seed) whose masks fill the boxes."""
    view, tries = add_propagated_background(view, config.propagation), []
    for number, seed in enumerate(start.seeds, start=1):
        model = start.model(seed, len(view.boxes_NT4))
        fit(model, view, replace(config, seed=seed), f"{head} try {number}/{len(start.seeds)}")
        tries.append(segment(model, view, config))
    return _finite(average_consistent_models(torch.stack(tries), view.boxes_NT4 / STRIDE), head)


def _finite(logits_NTHW: Tensor, part: str, remedy: str = REMEDY) -> Tensor:
    """The logits unchanged; TrainingError if one is not finite, because all masks would then be filled boxes."""
    if not torch.isfinite(logits_NTHW).all():
        raise TrainingError(f"{part}: mask logits are NaN or infinite. {remedy}")
    return logits_NTHW


def _result(video: Video, n: int, segmentations: tuple[dict | None, ...]) -> TrackResult:
    track = video.tracks[n]
    return TrackResult(video.id, track.category_id, 1.0, segmentations, track.boxes_T4, track.id)


def _start(config: LabelConfig) -> Start:
    device = device_of(config.device)
    if config.checkpoint is None:
        return ScratchModels(config, device)
    trained, categories, _ = load_model(config.checkpoint, device)
    return FinetunedModels(config, trained, categories)


def _same_settings(config: LabelConfig, start: Start, path: Path) -> dict[str, Any]:
    """Settings that determine the masks, saved at `path`.

    Raises:
        ConfigError: `path` holds other settings, and labels made with them exist.
    """
    settings = to_plain(config)
    settings["checkpoint"] = config.checkpoint is not None
    settings["backbone"]["weights"] = hash_of_weights(start.module)
    for name in ("data", "out", "frames", "device", "overlays"):  # contents matter, not locations
        del settings[name]
    before = read_json(path, [])
    if before == settings:
        return settings
    # This also replaces settings left by a run that failed before it had labeled anything.
    labeled = [part for part in path.parent.rglob("*") if part != path and part.is_file()]
    results = [part for part in labeled if part.suffix == ".json"]
    of_these = any(read_part(part, {"settings": hash_of(settings)})[0] is not None for part in results)
    if labeled and isinstance(before, dict) and not of_these:
        lines = "\n".join(f"  {line}" for line in changed_keys(before, settings))
        raise ConfigError(
            f"{config.out} holds labels made with other settings:\n{lines}\n"
            f"Choose another --out, or delete {path.parent} to label again"
        )
    if labeled:
        print(f"{path} is damaged; what was labeled before is used where it was made with these settings")
    write_json(path, settings)
    return settings
