"""One pass over the videos of a labeling run: label each video, or take what an earlier run saved; draw and save."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfvis.data.check import check_frames_of
from mfvis.errors import DataError
from mfvis.labeling.plan import CHECK, DRAWING, REFINEMENT, check_work, drawing_work
from mfvis.labeling.report import has_thumbnails, write_thumbnails
from mfvis.labeling.state import SavedPass
from mfvis.predict.saved_results import require_unchanged
from mfvis.progress import Progress
from mfvis.text import counted
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.overlay import overlay_paths, write_overlay


@dataclass(frozen=True)
class Pass:
    """One pass over the videos."""

    saved: SavedPass
    label: Callable[[Video, str], list[TrackResult]]
    """Results of a video; the text names it in messages."""
    work: Callable[[Video], Counter[str]]
    """Estimated seconds of each kind of work of `label`."""
    overlays: Path | None
    """Folder of the overlays; None draws none."""
    thumbnails: Path | None
    """Folder of the report's thumbnails; None draws none."""
    name: str = ""
    """Prefix of the messages."""

    def run(
        self, dataset: VideoDataset, own: Sequence[Video], progress: Progress, later: Counter[str] | None = None
    ) -> list[list[TrackResult]]:
        """Saved results of the videos `own` where they exist; otherwise those of `label`, which are drawn and saved.

        later: Work that follows this pass.

        Raises:
            DataError: with all frames that cannot be read, before anything is labeled.
        """
        count = len(dataset.videos)
        heads = {video.id: f"{self.name}[{i}/{count}] {video.name}" for i, video in enumerate(dataset.videos, start=1)}
        paths = overlays_of(dataset, self.overlays)
        names = {category.id: category.name for category in dataset.categories}
        kept = [self.saved.read(video) for video in own]
        ahead = [video for video, (results, _) in zip(own, kept, strict=True) if results is None]
        others = check_work(ahead) + drawing_work(ahead, self.overlays) + (later or Counter())
        progress.plan(sum(map(self.work, ahead), others))

        def checked(video: Video) -> None:
            progress.advance(CHECK, check_work([video]).total(), f"{heads[video.id]}: check of its frames")

        if problems := check_frames_of(ahead, checked):
            raise DataError(problems)  # before hours of training, not after them
        found = []
        for video, (results, reason) in zip(own, kept, strict=True):
            head, frames = heads[video.id], self.saved.inputs[video.id]["frames"]
            if reason:
                print(f"{head}: {reason}; labeled again", flush=True)
            began = time.perf_counter()
            labeled = self.label(video, head) if results is None else results
            if results is None:
                require_unchanged(video, frames)
                progress.advance(REFINEMENT, 0.0, head)
            else:
                print(f"{head}: already labeled", flush=True)
            if self.thumbnails and (results is None or frames and not has_thumbnails(self.thumbnails, video, labeled)):
                write_thumbnails(self.thumbnails, video, labeled)
            if self.overlays and (results is None or frames and not paths[video.id].is_file()):
                labels = [f"{names[result.category_id]} {result.score:.2f}" for result in labeled]
                write_overlay(paths[video.id], video, labeled, labels)
            if results is None:
                self.saved.write(video, labeled)
                seconds = time.perf_counter() - began
                counts = f"{counted(video.length, 'frame')}, {counted(len(labeled), 'track')}"
                print(f"{head}: {counts}, {seconds:.0f} s", flush=True)
                progress.advance(DRAWING, drawing_work([video], self.overlays).total(), head)
            found.append(labeled)
        return found


def overlays_of(dataset: VideoDataset, folder: Path | None) -> dict[int, Path]:
    """Paths of the overlays by the ids of the videos; empty without overlays."""
    paths = overlay_paths(folder, dataset.videos) if folder else []
    return {video.id: path for video, path in zip(dataset.videos, paths, strict=False)}
