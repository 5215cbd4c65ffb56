"""``mfvis label``: generates masks for box tracks, supervised only by the boxes.

Every video is split into windows of frames. For each window, one finetuned model or several models from scratch are
trained on the window's boxes, then predict the mask of every box. With several videos, a second network is trained on
all masks and ensembled with the first in a second pass. Finished results are saved, so interrupted runs resume.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import Corrections, read_corrections, summary
from mfvis.labeling.cross_video import CropSegmenter
from mfvis.labeling.cross_video_training import cross_video_network
from mfvis.labeling.model_factory import initial_models
from mfvis.labeling.passes import Pass
from mfvis.labeling.plan import drawing_work, network_work, second_pass_work
from mfvis.labeling.results import write_results
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
    job = _Job.load(config, shard, progress)
    folder, found = job.parts, job.first_pass()
    shard.wait()
    if job.has_second_pass:
        first = job.with_other_shards(found)
        network = saved_inputs_of(job.network_path) if config.only else None
        missing = len(job.dataset.videos) - len(first)
        if missing and not config.only:
            print(f"first pass done; that of {counted(missing, 'video')} is missing. {shard.next}")
            return job.completed
        if missing and not network:
            print("the cross-video network needs all videos: these masks are without it until a run without --only")
        else:
            folder, found = job.network_path.parent, job.second_pass(first, network)
            shard.wait()
    if shard.joins:
        job.finish(folder, found)
    else:
        shard.say(f"shard {shard} is done. {shard.next}")
    return job.completed


@dataclass(frozen=True)
class _Job:
    """The inputs of a run, read and checked, and its steps."""

    config: LabelConfig
    shard: Shard
    progress: Progress
    dataset: VideoDataset
    content: bytes
    """The JSON file."""
    own: list[Video]
    """Videos that this process labels."""
    only: Mapping[int, Collection[int]]
    """Indices of the tracks to label, by video id."""
    corrections: dict[int, Corrections]
    start: Start
    known: dict[int, Inputs]
    """Hashes of the inputs of each video, without its frames, by video id."""
    inputs: dict[int, Inputs]
    """Hashes of all inputs of the videos that are labeled here; `with_other_shards` adds the others."""

    @classmethod
    def load(cls, config: LabelConfig, shard: Shard, progress: Progress) -> _Job:
        dataset, content = _load(config)
        videos, completed = dataset.videos, config.out / config.data.name
        if completed.resolve() == config.data.resolve():
            raise ConfigError(
                f"out is {config.out}, where the result would replace {config.data}; choose another directory"
            )
        only = selected_tracks(config.only, videos)
        own = [video for video in shard.own(videos) if video.id in only]
        corrections = read_corrections(_parsed(content), dataset, completed, config.given_masks)
        shard.say(*dataset.notes, *shard.heading(len(videos)), *summary(corrections, videos))
        start = initial_models(replace(config, device=shard.device(config.device)))
        settings = same_settings(config, hash_of_weights(start.module), config.out / "parts" / "settings.json")
        same = {"settings": hash_of(settings)}
        known: dict[int, Inputs] = {
            video.id: {**same, **hashes_of(video, corrections.get(video.id))} for video in videos
        }
        inputs: dict[int, Inputs] = {
            video.id: known[video.id] | {"frames": frames}
            for video, frames in zip(own, hash_all_frames(own), strict=True)
        }
        return cls(config, shard, progress, dataset, content, own, only, corrections, start, known, inputs)

    @property
    def completed(self) -> Path:
        """The completed JSON."""
        return self.config.out / self.config.data.name

    @property
    def parts(self) -> Path:
        """Folder of the state."""
        return self.config.out / "parts"

    @property
    def network_path(self) -> Path:
        """The cross-video network, next to the results of the second pass."""
        return self.parts / "shared" / "network.pt"

    @property
    def overlays(self) -> Path | None:
        return self.config.out / "overlays" if self.config.overlays else None

    @property
    def has_second_pass(self) -> bool:
        """True if a cross-video network is trained, or was trained by an earlier run."""
        config = self.config
        with_boxes = [video for video in self.dataset.videos if any(track.present_T.any() for track in video.tracks)]
        possible = config.checkpoint is None and config.backbone.frozen
        return possible and config.shared_steps > 0 and len(with_boxes) > 1

    def first_pass(self) -> dict[int, list[TrackResult]]:
        """Train, predict and refine video by video. Results by video id."""
        config, is_last = self.config, not self.has_second_pass
        first = Pass(
            saved=SavedPass(self.parts, self.inputs),
            label=partial(self._label, self.parts),
            work=lambda video: work_ahead(
                self.start, config, video, self._state(video), self.corrections.get(video.id)
            ),
            overlays=self.overlays if is_last else None,
            thumbnails=self.parts / "thumbnails" if is_last else None,
        )
        return self._run_pass(first, self._later_work())

    def with_other_shards(self, found: dict[int, list[TrackResult]]) -> dict[int, list[TrackResult]]:
        """First results of all videos for which there are any, by video id."""
        first = dict(found)
        for video in (video for video in self.dataset.videos if video.id not in found):
            inputs, results = saved_results(self.parts, video, self.known[video.id])
            if results is not None:
                self.inputs[video.id], first[video.id] = inputs, results
        return first

    def second_pass(self, first: dict[int, list[TrackResult]], network: Inputs | None) -> dict[int, list[TrackResult]]:
        """Train the cross-video network on all masks and label every video again. Results by video id.

        network: Inputs of an earlier run's network, which serves where single videos are labeled.
        """
        config, shard, videos = self.config, self.shard, self.dataset.videos
        # In the second pass the masks of each video depend on all videos.
        complete = all(made_from["frames"] for made_from in self.inputs.values())
        others = network or {"other videos": hash_of(self.inputs) if complete else None}
        inputs = {id: made_from | others for id, made_from in self.inputs.items()}
        saved = SavedPass(self.network_path.parent, inputs)
        to_do = videos if shard.joins and not config.only else self.own
        needed = any(saved.read(video)[0] is None for video in to_do)
        reader_of = partial(
            cross_video_network, self.start, config, videos, first, self.network_path, others, self.progress
        )
        self.progress.plan(self._later_work())
        reader = reader_of() if needed and shard.speaks else None
        shard.wait()
        if needed and reader is None:
            reader = reader_of()  # the main process has trained and saved it
        second = Pass(
            saved=saved,
            label=partial(self._label, saved.folder, reader=reader),
            work=lambda video: second_pass_work(config, [video]),
            overlays=self.overlays,
            thumbnails=self.parts / "thumbnails",
            name="second pass, ",
        )
        return self._run_pass(second)

    def finish(self, folder: Path, found: dict[int, list[TrackResult]]) -> None:
        """Write the completed JSON and the report, with the results that others have saved in `folder`."""
        config = self.config
        done = {
            video.id: found[video.id]
            if video.id in found
            else outdated_results(folder, video) or outdated_results(self.parts, video) or []
            for video in self.dataset.videos
        }
        write_results(config, self.dataset, _parsed(self.content), done, self.completed)
        if not self.has_second_pass:  # the logits were for an interrupted run; the second pass would use them again
            shutil.rmtree(self.parts / "tries", ignore_errors=True)
        if not config.data.is_file() or config.data.read_bytes() != self.content:
            print(
                f"{config.data} changed in the meantime: {self.completed} has its boxes as they were at the start. "
                "Run again"
            )

    def _run_pass(self, videos: Pass, later: Counter[str] | None = None) -> dict[int, list[TrackResult]]:
        results = videos.run(self.dataset, self.own, self.progress, later)
        return {video.id: found for video, found in zip(self.own, results, strict=True)}

    def _later_work(self) -> Counter[str]:
        """Estimated seconds of each kind of work after the first pass."""
        if not self.has_second_pass or not (self.shard.count == 1 or self.shard.launched):
            return Counter()  # without a launcher, the run that joins the shards does it
        again = second_pass_work(self.config, self.own) + drawing_work(self.own, self.overlays)
        return again + network_work(self.config, self.dataset.videos)

    def _state(self, video: Video) -> WindowState:
        inputs = self.inputs[video.id]
        return WindowState(self.parts / "tries", {name: inputs[name] for name in ("settings", "frames")})

    def _label(self, folder: Path, video: Video, head: str, reader: CropSegmenter | None = None) -> list[TrackResult]:
        """Results of a video; those of tracks that `only` does not name remain as they are in `folder`."""
        results = label_video(
            self.start,
            self.config,
            video,
            head,
            self._state(video),
            reader=reader,
            corrections=self.corrections.get(video.id),
            progress=self.progress,
        )
        before = outdated_results(folder, video) or results
        selected = self.only[video.id]
        return [new if n in selected else old for n, (new, old) in enumerate(zip(results, before, strict=True))]


def _parsed(content: bytes) -> dict[str, Any]:
    return json.loads(content.decode("utf-8-sig"))


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
