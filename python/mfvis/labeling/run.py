"""``mfvis label``: generates masks for box tracks, supervised only by the boxes.

Every video is split into windows of frames. For each window, one finetuned model or several models from scratch are
trained on the window's boxes, then predict the mask of every box. With several videos, a second network is trained on
all masks and ensembled with the first in a second pass. Finished results are saved, so interrupted runs resume.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mfvis.data.results import write_labeled
from mfvis.data.ytvis import load_dataset
from mfvis.device import device_of
from mfvis.errors import ConfigError
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import read_corrections, summary
from mfvis.labeling.cross_video import CropSegmenter
from mfvis.labeling.cross_video_training import cross_video_network
from mfvis.labeling.model_factory import FinetunedModels, ScratchModels
from mfvis.labeling.passes import Pass, overlays_of
from mfvis.labeling.plan import drawing_work, network_work, second_pass_work
from mfvis.labeling.quality import warnings_of
from mfvis.labeling.report import true_j, write_label_report
from mfvis.labeling.state import (
    SavedPass,
    hashes_of,
    outdated_results,
    same_settings,
    saved_results,
    selected_tracks,
)
from mfvis.labeling.video import Start, WindowState, label_video, work_ahead
from mfvis.predict.saved_results import Inputs, hash_all_frames, hash_of, hash_of_weights, saved_inputs_of
from mfvis.progress import Progress
from mfvis.sharding import Shard, sharded
from mfvis.text import counted
from mfvis.train.checkpoint import load_model
from mfvis.types import TrackResult, Video, VideoDataset
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
        Progress(visible=shard.speaks) as progress,
    ):
        shard.wait()  # for the lock of the main process
        return _run(config, shard, progress)


def _run(config: LabelConfig, shard: Shard, progress: Progress) -> Path:
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
    overlays, images = config.out / "overlays" if config.overlays else None, parts / "thumbnails"
    several = sum(any(track.present_T.any() for track in video.tracks) for video in videos) > 1
    shares = several and config.shared_steps > 0 and config.checkpoint is None and config.backbone.frozen

    def state(video: Video) -> WindowState:
        return WindowState(parts / "tries", {"settings": settings, "frames": inputs[video.id]["frames"]})

    def label(folder: Path, video: Video, head: str, reader: CropSegmenter | None = None) -> list[TrackResult]:
        given = corrections.get(video.id)
        results = label_video(
            start, config, video, head, state(video), reader=reader, corrections=given, progress=progress
        )
        before = outdated_results(folder, video) or results
        return [new if n in only[video.id] else old for n, (new, old) in enumerate(zip(results, before, strict=True))]

    # ---- Video by video: train, predict, refine, write ----------------------------------------------------------
    first_pass = Pass(
        saved=SavedPass(parts, inputs),
        label=partial(label, parts),
        work=lambda video: work_ahead(start, config, video, state(video), corrections.get(video.id)),
        overlays=None if shares else overlays,
        thumbnails=None if shares else images,
    )
    later = Counter[str]()
    if shares and (shard.count == 1 or shard.launched):  # else the run that joins the shards does it
        later = second_pass_work(config, own) + drawing_work(own, overlays) + network_work(config, videos)
    found = first_pass.run(dataset, own, progress, later)
    shard.wait()

    # ---- Train the cross-video network on all masks, segment every video again, write ---------------------------
    last = first_pass.saved
    if shares:
        first = {video.id: results for video, results in zip(own, found, strict=True)}
        for video in (video for video in videos if video.id not in first):
            inputs_of, results = saved_results(parts, video, known[video.id])
            if results is not None:
                inputs[video.id], first[video.id] = inputs_of, results
        path = parts / "shared" / "network.pt"
        saved_network = saved_inputs_of(path) if config.only else None
        if len(first) < len(videos) and not config.only:
            print(f"first pass done; that of {counted(len(videos) - len(first), 'video')} is missing. {shard.next}")
            return completed
        if len(first) == len(videos) or saved_network:
            # In the second pass the masks of each video depend on all videos. With --only, an earlier network serves.
            complete = all(made_from["frames"] for made_from in inputs.values())
            others = saved_network or {"other videos": hash_of(inputs) if complete else None}
            last = SavedPass(parts / "shared", {id: made_from | others for id, made_from in inputs.items()})
            to_do = videos if shard.joins and not config.only else own
            needed = any(last.read(video)[0] is None for video in to_do)

            def network() -> CropSegmenter:
                return cross_video_network(start, config, videos, first, path, others, progress)

            progress.plan(later)
            reader = network() if needed and shard.speaks else None
            shard.wait()
            if needed and reader is None:
                reader = network()  # the main process has trained and saved it
            second_pass = Pass(
                saved=last,
                label=partial(label, last.folder, reader=reader),
                work=lambda video: second_pass_work(config, [video]),
                overlays=overlays,
                thumbnails=images,
                name="second pass, ",
            )
            found = second_pass.run(dataset, own, progress)
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
    _write(config, dataset, root, done, completed)
    if not shares:  # the logits were for an interrupted run; the second pass would use them again
        shutil.rmtree(parts / "tries", ignore_errors=True)
    if not config.data.is_file() or config.data.read_bytes() != content:
        print(f"{config.data} changed in the meantime: {completed} has its boxes as they were at the start. Run again")
    return completed


def _write(
    config: LabelConfig,
    dataset: VideoDataset,
    root: dict[str, Any],
    done: dict[int, list[TrackResult]],
    completed: Path,
) -> None:
    """Write the completed JSON and the report, and print what to look at.

    Args:
        root: The input JSON.
        done: Masks by video id; no masks of a video that was not labeled yet.
    """
    videos = dataset.videos
    results = [result for video in videos for result in done[video.id]]
    write_labeled(root, completed, results, dataset)
    overlays = config.out / "overlays" if config.overlays else None
    truth = None
    if not config.given_masks and len(results) == sum(len(video.tracks) for video in videos):
        truth = true_j(dataset, results)
    report = config.out / "report.html"
    write_label_report(
        report, dataset, done, config.out / "parts" / "thumbnails", overlays_of(dataset, overlays), truth
    )
    if missing := sum(bool(video.tracks) and not done[video.id] for video in videos):
        print(f"no masks yet for {counted(missing, 'video')}: run again without --only")
    for line in (f"{video.name}, {line}" for video in videos for line in warnings_of(done[video.id], dataset)):
        print(line)
    if truth is not None:
        print(f"J {truth.j:.3f} over {truth.object_frames} true masks; a filled box has {truth.filled_box_j:.3f}")
    print(f"wrote {completed} and {report}" + (f", and overlays to {overlays}" if overlays else ""))


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


def initial_models(config: LabelConfig) -> Start:
    """Models from which every window's models start: the backbone, or the checkpoint."""
    device = device_of(config.device)
    if config.checkpoint is None:
        return ScratchModels(config, device)
    trained, categories, _ = load_model(config.checkpoint, device)
    return FinetunedModels(config, trained, categories)
