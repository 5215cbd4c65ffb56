"""Results of a labeling run: the completed JSON and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfvis.data.results import write_labeled
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.passes import overlays_of
from mfvis.labeling.quality import warnings_of
from mfvis.labeling.report import true_j, write_label_report
from mfvis.text import counted
from mfvis.types import TrackResult, VideoDataset


def write_results(
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
