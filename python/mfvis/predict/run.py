"""``mfvis predict``: segments the objects of videos; writes results for evaluation, readable tracks, and overlays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mfvis.data.check import check_frames_of
from mfvis.data.datasets import DatasetSpec, parse_spec
from mfvis.data.jsonfile import write_json
from mfvis.data.results import CATEGORIES_FILE, write_categories, write_results, zip_results
from mfvis.data.video import open_video
from mfvis.device import device_of
from mfvis.errors import ConfigError, DataError, VideoError
from mfvis.parsing import to_plain
from mfvis.predict.config import PredictConfig
from mfvis.predict.predictor import predict_video, sized_as_trained, video_work
from mfvis.predict.saved_results import (
    Inputs,
    hash_all_frames,
    hash_of,
    hash_of_weights,
    read_part,
    require_unchanged,
    write_part,
)
from mfvis.progress import Progress
from mfvis.sharding import Shard, sharded
from mfvis.text import counted
from mfvis.train.checkpoint import load_model
from mfvis.types import Category, TrackResult, Video, VideoDataset, present
from mfvis.vis.overlay import overlay_paths, write_overlay
from mfvis.writing import run_lock

CHECK, DRAWING = "check of the frames", "overlays"
"""Kinds of work besides those of `predict_video`."""
CHECK_SHARE = 0.01
"""Work of the check of a frame, as a share of that on its features, before anything is measured."""


def run(config: PredictConfig) -> None:
    """Write results.json (YouTube-VIS), its zip and its categories.json, tracks.json (human-readable) and one overlay
    per video into `config.out`.

    The results of each video are saved as soon as they are complete. An interrupted run resumes with the next video and
    writes the same files, bit for bit.

    Raises:
        ConfigError: another run uses `config.out`, an overlay would replace a video, or video ids collide.
        DataError: with all frames that cannot be read, before anything is computed.
        CheckpointError: the checkpoint is damaged, or its model predicts NaN.
    """
    with (
        sharded(config.shard) as shard,
        run_lock(config.out, ("parts",), active=shard.speaks, shared=shard.count > 1 and not shard.launched),
        Progress(visible=shard.speaks) as progress,
    ):
        shard.wait()  # for the lock of the main process
        _run(config, shard, progress)


def _run(config: PredictConfig, shard: Shard, progress: Progress) -> None:
    # ---- Load ---------------------------------------------------------------------------------------------------
    specs, datasets = _load(config.sources)
    videos = [video for dataset in datasets for video in dataset.videos]
    shard.say(*(note for dataset in datasets for note in dataset.notes), *shard.heading(len(videos)))
    overlays = overlay_paths(config.out, videos) if config.overlays else []
    model, categories, trained = load_model(config.checkpoint, device_of(shard.device(config.device)))
    for text, dataset in zip(config.sources, datasets, strict=True):
        if dataset.categories and dataset.categories != categories:
            shard.say(f"the classes and their ids are those of {config.checkpoint}, not of {text}")
    infer = sized_as_trained(config.infer, trained.clip)
    made_from = {
        # The chunk affects memory, not the result.
        "settings": hash_of([to_plain(replace(infer, chunk=1)), [[c.id, c.name] for c in categories]]),
        "weights": hash_of_weights(model),
    }
    parts = [_Part(config.out / "parts", video, made_from) for video in videos]
    local = shard.own(range(len(videos)))
    kept = _saved(parts, local)
    ahead = [videos[i] for i in local if kept[i] is None]
    progress.plan(sum((_work(video, overlays) for video in ahead), Counter()))

    def checked(video: Video) -> None:
        progress.advance(CHECK, video.length * CHECK_SHARE, f"{video.name}: check of its frames")

    if problems := check_frames_of(ahead, checked):
        raise DataError(problems)

    # ---- Video by video: predict, draw, save --------------------------------------------------------------------
    names = {category.id: category.name for category in categories}
    for i in local:
        video, part, tracks = videos[i], parts[i], kept[i]
        resumed = tracks is not None
        if tracks is None:
            tracks = kept[i] = predict_video(model, video, categories, infer, progress)
        confident = [result for result in tracks if result.score >= config.min_score]
        if overlays and not (resumed and part.drawn == config.min_score and overlays[i].is_file()):
            write_overlay(overlays[i], video, confident, [f"{names[r.category_id]} {r.score:.2f}" for r in confident])
            part.drawn = config.min_score
            progress.advance(DRAWING, video.length, f"{video.name}: overlay")
            resumed = False
        if not resumed:
            require_unchanged(video, part.frames)
            part.write(tracks)
        reason = ", from an earlier run" if resumed else ""
        if tracks and not confident:
            best = max(result.score for result in tracks)
            reason = f": the best of {len(tracks)} candidates scores {best:.3f}, --min-score is {config.min_score:g}"
        head = f"[{i + 1}/{len(videos)}] {video.name}"
        print(f"{head}: {counted(video.length, 'frame')}, {counted(len(confident), 'track')}{reason}", flush=True)
    shard.wait()

    # ---- Write --------------------------------------------------------------------------------------------------
    if not shard.joins:
        shard.say(f"shard {shard} is done. {shard.next}")
        return
    kept |= _saved(parts, [i for i in range(len(videos)) if i not in local])  # of the launcher's other processes
    for i, tracks in kept.items():
        if tracks is None:  # another process has just saved it
            raise VideoError(f"video {videos[i].name}: its frames changed while they were worked on. Start again")
    results = [result for i in range(len(videos)) for result in kept.pop(i)]
    written = ["results.json", "results.zip", CATEGORIES_FILE, "tracks.json"]
    write_results(config.out / "results.json", results)
    zip_results(config.out / "results.zip", config.out / "results.json")
    write_categories(config.out / CATEGORIES_FILE, categories)
    for spec, dataset in zip(specs, datasets, strict=True):
        ids = {video.id for video in dataset.videos}
        its = [result for result in results if result.video_id in ids]
        written += spec.info.write_own_results(config.out, dataset, its, config.min_score)
    write_json(config.out / "tracks.json", readable(results, videos, categories, config.min_score))
    for stale in set((config.out / "parts").glob("*.json")) - {part.path for part in parts}:
        stale.unlink()
    images = sum(video.length == 1 for video in videos) if overlays else 0
    drawn = {"overlay videos": len(overlays) - images, "overlay images": images}
    counts = "".join(f" and {count} {what}" for what, count in drawn.items() if count)
    print(f"wrote {', '.join(written)}{counts} to {config.out}")


def _work(video: Video, overlays: Sequence[Path]) -> Counter[str]:
    """Work on a video by kind, in frames."""
    others = Counter({CHECK: video.length * CHECK_SHARE, DRAWING: video.length if overlays else 0})
    return video_work(video) + others


def _load(texts: Sequence[str]) -> tuple[list[DatasetSpec], list[VideoDataset]]:
    """The data sets that the arguments name. A video file or folder becomes a data set of one video with an unused id.

    Raises:
        ConfigError: two data sets have videos of the same id.
    """
    specs = [parse_spec(text) for text in texts]
    datasets: list[VideoDataset] = []
    for spec in specs:
        if spec.name or spec.path.suffix == ".json":
            datasets.append(replace(spec, boxes_from_masks=True).load("valid", with_masks=False))
        elif spec.path.exists() and not spec.path.is_file() and not spec.path.is_dir():
            raise ConfigError(f"sources: {spec.path} is a pipe or a device; name a video file or a folder of frames")
        else:
            datasets.append(VideoDataset(spec.path, (), (open_video(spec.path),)))
    is_video = [not (spec.name or spec.path.suffix == ".json") for spec in specs]
    annotated = [dataset for dataset, single in zip(datasets, is_video, strict=True) if not single]
    owners = Counter(video.id for dataset in annotated for video in dataset.videos)
    if shared := [id for id, count in owners.items() if count > 1]:
        both = [str(dataset.path) for dataset in annotated][:5]
        raise ConfigError(
            f"sources: {', '.join(both)} have {len(shared)} video ids in common, such as {shared[0]}; results.json "
            "could not distinguish these videos. Predict each data set with an --out of its own"
        )
    free = (id for id in range(1, len(owners) + len(datasets) + 1) if id not in owners)
    for i, dataset in enumerate(datasets):
        if is_video[i]:
            datasets[i] = replace(dataset, videos=tuple(replace(video, id=next(free)) for video in dataset.videos))
    return specs, datasets


class _Part:
    """Saved results of one video. The file is named after the inputs' hashes, as video ids may change between runs."""

    def __init__(self, folder: Path, video: Video, made_from: Inputs):
        self.folder, self.video, self.made_from = folder, video, made_from
        self.frames: str | None = None
        """Hash of the frames, which `_saved` computes."""
        self.drawn: float | None = None
        """Minimum score of the tracks on the overlay; None without an overlay."""

    @property
    def inputs(self) -> Inputs:
        video = self.video
        return {**self.made_from, "size": f"{video.width} x {video.height}, {video.length}", "frames": self.frames}

    @property
    def path(self) -> Path:
        return self.folder / f"{hash_of(self.inputs)[:32]}.json"

    def read(self) -> list[TrackResult] | None:
        """Results that an earlier run saved; None if there are none or they are damaged."""
        content, reason = read_part(self.path, self.inputs)
        if content is None:
            if reason:
                print(f"{self.video.name}: {reason}; it is predicted again", flush=True)
            return None
        self.drawn = content["drawn"]
        return [
            TrackResult(
                self.video.id,
                track["category_id"],
                track["score"],
                tuple(track["segmentations"]),
                np.array(track["boxes"], np.float32),
            )
            for track in content["tracks"]
        ]

    def write(self, results: Sequence[TrackResult]) -> None:
        tracks: list[dict[str, Any]] = [
            {
                "category_id": result.category_id,
                "score": result.score,
                "segmentations": list(result.segmentations),
                "boxes": result.boxes_T4.tolist(),
            }
            for result in results
        ]
        write_part(self.path, self.inputs, {"drawn": self.drawn, "tracks": tracks})


def _saved(parts: Sequence[_Part], indices: Sequence[int]) -> dict[int, list[TrackResult] | None]:
    """Saved results of the videos at these indices; None where there are none yet. Their frames are read for this."""
    if not indices:
        return {}
    for i, frames in zip(indices, hash_all_frames([parts[i].video for i in indices]), strict=True):
        parts[i].frames = frames
    return {i: parts[i].read() for i in indices}


def readable(
    results: Sequence[TrackResult], videos: Sequence[Video], categories: Sequence[Category], min_score: float
) -> list[dict[str, Any]]:
    """Tracks of each video for JSON: class name, score, and per frame the box ``[x1, y1, x2, y2]`` or null."""
    names = {category.id: category.name for category in categories}
    return [
        {
            "video": video.name,
            "video_id": video.id,
            "tracks": [
                {
                    "class": names[result.category_id],
                    "score": round(result.score, 4),
                    "boxes": [box.tolist() if present(box) else None for box in result.boxes_T4],
                }
                for result in results
                if result.video_id == video.id and result.score >= min_score
            ],
        }
        for video in videos
    ]
