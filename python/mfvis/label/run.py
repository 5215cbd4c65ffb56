"""``mfvis label``: generates masks for box tracks, supervised only by the boxes.

Every video is split into windows of frames. For each window, one finetuned model or several models from scratch are
trained on the window's boxes, then predict the mask of every box. With several videos, a second network is trained on
all masks and ensembled with the first in a second pass. Finished results are saved, so interrupted runs resume.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from mfvis.data.check import check_frames_of
from mfvis.data.results import write_labeled
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.device import device_of
from mfvis.errors import ConfigError, DataError
from mfvis.label.config import LabelConfig
from mfvis.label.corrections import read_corrections, summary
from mfvis.label.cross_video import (
    CropSegmenter,
    concat,
    crop_windows,
    masks_in_crops,
    select_examples,
    train_crop_segmenter,
)
from mfvis.label.model_factory import FinetunedModels, ScratchModels
from mfvis.label.quality import warnings_of
from mfvis.label.report import has_thumbnails, true_j, write_label_report, write_thumbnails
from mfvis.label.state import (
    SavedPass,
    hashes_of,
    outdated_results,
    same_settings,
    saved_results,
    selected_tracks,
)
from mfvis.label.video import Start, WindowState, label_video, prepare_window
from mfvis.predict.saved_results import (
    Inputs,
    hash_all_frames,
    hash_of,
    hash_of_weights,
    read_tensors_of,
    require_unchanged,
    saved_inputs_of,
    write_tensors_of,
)
from mfvis.sharding import Shard, sharded
from mfvis.train.checkpoint import load_model
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.overlay import overlay_paths, write_overlay
from mfvis.writing import run_lock

FOLDERS = ("parts", "parts/shared", "parts/tries", "parts/thumbnails", "overlays")
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
    root = json.loads(content.decode("utf-8-sig"))
    videos = dataset.videos
    completed = config.out / config.data.name
    if completed.resolve() == config.data.resolve():
        raise ConfigError(
            f"out is {config.out}, where the result would replace {config.data}; choose another directory"
        )
    only = selected_tracks(config.only, videos)
    own = [video for video in shard.own(videos) if video.id in only]
    corrections = read_corrections(root, dataset, completed, config.given_masks)
    shard.say(*dataset.notes, *shard.heading(len(videos)), *summary(corrections, videos))
    start = initial_models(replace(config, device=shard.device(config.device)))
    parts = config.out / "parts"
    settings = hash_of(same_settings(config, hash_of_weights(start.module), parts / "settings.json"))
    known = {video.id: {"settings": settings, **hashes_of(video, corrections.get(video.id))} for video in videos}
    inputs: dict[int, Inputs] = {
        video.id: known[video.id] | {"frames": frames} for video, frames in zip(own, hash_all_frames(own), strict=True)
    }
    overlays, pictures = config.out / "overlays" if config.overlays else None, parts / "thumbnails"
    several = sum(any(track.present_T.any() for track in video.tracks) for video in videos) > 1
    shares = several and config.shared_steps > 0 and config.checkpoint is None and config.backbone.frozen

    def label(folder: Path, video: Video, head: str, reader: CropSegmenter | None = None) -> list[TrackResult]:
        state = WindowState(parts / "tries", {"settings": settings, "frames": inputs[video.id]["frames"]})
        given = corrections.get(video.id)
        results = label_video(start, config, video, head, state, reader=reader, corrections=given)
        before = outdated_results(folder, video) or results
        return [new if n in only[video.id] else old for n, (new, old) in enumerate(zip(results, before, strict=True))]

    # ---- Video by video: train, predict, refine, write ----------------------------------------------------------
    last = SavedPass(parts, inputs)
    found = _label_or_load(
        dataset, own, last, partial(label, parts), *((None, None) if shares else (overlays, pictures))
    )
    shard.wait()

    # ---- Train the cross-video network on all masks, segment every video again, write ---------------------------
    if shares:
        first = {video.id: results for video, results in zip(own, found, strict=True)}
        for video in (video for video in videos if video.id not in first):
            inputs_of, results = saved_results(parts, video, known[video.id])
            if results is not None:
                inputs[video.id], first[video.id] = inputs_of, results
        path = parts / "shared" / "network.pt"
        saved_network = saved_inputs_of(path) if config.only else None
        if len(first) < len(videos) and not config.only:
            print(f"first pass done; that of {len(videos) - len(first)} videos is missing. {shard.next}")
            return completed
        if len(first) == len(videos) or saved_network:
            # In the second pass the masks of each video depend on all videos. With --only, an earlier network serves.
            complete = all(made_from["frames"] for made_from in inputs.values())
            others = saved_network or {"other videos": hash_of(inputs) if complete else None}
            last = SavedPass(parts / "shared", {id: made_from | others for id, made_from in inputs.items()})
            to_do = videos if shard.joins and not config.only else own
            needed = any(last.read(video)[0] is None for video in to_do)

            def network() -> CropSegmenter:
                return _cross_video_network(start, config, videos, first, path, others)

            reader = network() if needed and shard.speaks else None
            shard.wait()
            if needed and reader is None:
                reader = network()  # the main process has trained and saved it
            found = _label_or_load(dataset, own, last, partial(label, last.folder, reader=reader), overlays, pictures)
            shard.wait()
        else:
            print("the cross-video network needs all videos: these masks are without it until a run without --only")

    # ---- Write --------------------------------------------------------------------------------------------------
    if not shard.joins:
        shard.say(f"shard {shard} is done. {shard.next}")
        return completed
    done = {video.id: results for video, results in zip(own, found, strict=True)}
    for video in (video for video in videos if video.id not in done):
        done[video.id] = outdated_results(last.folder, video) or outdated_results(parts, video) or []
    results = [result for video in videos for result in done[video.id]]
    write_labeled(root, completed, results, dataset)
    paths = _overlays_of(dataset, overlays)
    truth = None
    if not config.given_masks and len(results) == sum(len(video.tracks) for video in videos):
        truth = true_j(dataset, results)
    write_label_report(config.out / "report.html", dataset, done, pictures, paths, truth)
    if missing := sum(bool(video.tracks) and not done[video.id] for video in videos):
        print(f"{missing} videos have no masks yet: run again without --only")
    for line in (f"{video.name}, {line}" for video in videos for line in warnings_of(done[video.id], dataset)):
        print(line)
    if truth is not None:
        print(f"J {truth.j:.3f} over {truth.object_frames} true masks; a filled box has {truth.filled_box_j:.3f}")
    print(f"wrote {completed} and {config.out / 'report.html'}" + (f", and overlays to {overlays}" if overlays else ""))
    if not shares:  # the logits were for an interrupted run; the second pass would use them again
        shutil.rmtree(parts / "tries", ignore_errors=True)
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
    thumbnails: Path | None,
) -> list[list[TrackResult]]:
    """Saved results of the videos `own` where they exist; otherwise the results of `label`, which are drawn and saved.

    overlays, thumbnails: folders; None draws none.

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
    # A bar for the whole pass, with the time left; only on a terminal.
    bar = tqdm(total=sum(video.length for video in ahead), unit="frame", disable=None)
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
        if thumbnails and (results is None or frames and not has_thumbnails(thumbnails, video, labeled)):
            write_thumbnails(thumbnails, video, labeled)
        if overlays and (results is None or frames and not paths[video.id].is_file()):
            write_overlay(paths[video.id], video, labeled, [f"{names[r.category_id]} {r.score:.2f}" for r in labeled])
        if results is None:
            saved.write(video, labeled)
            seconds = time.perf_counter() - began
            print(f"{head}: {video.length} frames, {len(labeled)} tracks, {seconds:.0f} s", flush=True)
            bar.update(video.length)
        found.append(labeled)
    bar.close()
    return found


def _overlays_of(dataset: VideoDataset, folder: Path | None) -> dict[int, Path]:
    """Paths of the overlays by the ids of the videos; empty without overlays."""
    paths = overlay_paths(folder, dataset.videos) if folder else []
    return {video.id: path for video, path in zip(dataset.videos, paths, strict=False)}


def _train_cross_video(
    start: ScratchModels, config: LabelConfig, videos: Sequence[Video], found: Sequence[list[TrackResult]]
) -> CropSegmenter:
    """Trains the cross-video network on the masks of all videos."""
    crops, masks = [], []
    for video, results, examples in zip(videos, found, select_examples(videos), strict=True):
        for first in range(0, len(examples), config.window):
            frames = list(examples)[first : first + config.window]
            view = prepare_window(start, config, video, frames, range(len(video.tracks)), read_frames(video, frames))
            for n, result in enumerate(results):
                own = [i for i, t in enumerate(frames) if n in examples[t]]
                if own:
                    crops.append(crop_windows(view, n, torch.tensor(own, device=view.boxes_NT4.device)))
                    masks.append(masks_in_crops(video, result, [frames[i] for i in own]))
    return train_crop_segmenter(concat(crops), torch.cat(masks), config.shared_steps, config.seed)


def initial_models(config: LabelConfig) -> Start:
    """Models from which every window's models start: the backbone, or the checkpoint."""
    device = device_of(config.device)
    if config.checkpoint is None:
        return ScratchModels(config, device)
    trained, categories, _ = load_model(config.checkpoint, device)
    return FinetunedModels(config, trained, categories)
