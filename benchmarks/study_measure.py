"""Measures of a finished run of a study, kept next to its results, and paired differences between runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mfvis.data.jsonfile import write_json
from mfvis.data.results import read_results
from mfvis.data.rle import decode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import best_fitting, filled_box, mean_j
from mfvis.eval.ytvis import VideoMatch, average_precision, evaluate, match_videos
from mfvis.types import TrackResult, VideoDataset

METRICS = {
    "ap": "AP",
    "ap50": "AP50",
    "ar10": "AR10",
    "agnostic_ap": "class-agnostic AP",
    "j": "J, mean of tracks",
    "j_sources": "J, mean of sources",
}
ERRORS = {"missed": "missed", "inside": "background inside the box", "outside": "outside the box"}


@dataclass(frozen=True)
class Truth:
    """The validation set and the groups of its videos."""

    dataset: VideoDataset
    domains: dict[int, str]
    """Domain by video id; "all" where the file names none."""
    sources: dict[int, str]
    """Source by video id; videos of one source are correlated."""


def read_truth(file: Path, source: str, chosen: Sequence[str] = ()) -> Truth:
    """Read the annotations of the videos of the chosen domains, by default of all.

    source: regular expression for the start of a video's name that is its source; a video that it does not match is a
    source of its own.
    """
    dataset = load_dataset(file, boxes_from_masks=True)
    domains = {video["id"]: video.get("domain", "all") for video in json.loads(file.read_text())["videos"]}
    domains = {video: domain for video, domain in domains.items() if not chosen or domain in chosen}
    dataset = replace(dataset, videos=tuple(video for video in dataset.videos if video.id in domains))
    sources = {video.id: (re.match(source, video.name) or [video.name])[0] for video in dataset.videos}
    return Truth(dataset, domains, sources)


def measure(results_file: Path, truth: Truth) -> dict[str, Any]:
    """The measures of a run's results, computed once and kept next to them."""
    kept = results_file.with_name(f"{results_file.stem}_measures.json")
    if kept.exists() and kept.stat().st_mtime >= results_file.stat().st_mtime:
        return json.loads(kept.read_text())
    results = read_results(results_file, truth.dataset)
    fitting = best_fitting(truth.dataset, results)
    tracks = _tracks(truth, fitting)
    matches = match_videos(truth.dataset, results)
    measures = _summary(truth.dataset, truth, results, matches, tracks)
    measures["domains"] = {}
    for domain in sorted(set(truth.domains.values())):
        videos = tuple(video for video in truth.dataset.videos if truth.domains[video.id] == domain)
        ids = {video.id for video in videos}
        part = replace(truth.dataset, videos=videos)
        of_part = [result for result in results if result.video_id in ids]
        those = [track for track in tracks if track["video"] in ids]
        measures["domains"][domain] = _summary(part, truth, of_part, matches, those)
    measures["tracks"] = tracks
    measures["matches"] = {
        video: {
            "scores": match.scores_D.tolist(),
            "matched": match.matched_ID.astype(int).tolist(),
            "ignored": match.ignored_ID.astype(int).tolist(),
            "positives": match.positives,
        }
        for video, match in matches.items()
    }
    write_json(kept, measures)
    return json.loads(kept.read_text())


def _summary(
    dataset: VideoDataset,
    truth: Truth,
    results: Sequence[TrackResult],
    matches: dict[int, VideoMatch],
    tracks: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    metrics = evaluate(dataset, results)
    numbers = {name: getattr(metrics, name) for name in ("ap", "ap50", "ar10")}
    numbers["agnostic_ap"] = average_precision([matches[video.id] for video in dataset.videos])
    numbers["j"] = float(np.mean([track["j"] for track in tracks]))
    by_source: dict[str, list[float]] = {}
    for track in tracks:
        by_source.setdefault(truth.sources[track["video"]], []).append(track["j"])
    numbers["j_sources"] = float(np.mean([np.mean(values) for values in by_source.values()]))
    return numbers | {error: float(np.mean([track[error] for track in tracks])) for error in ERRORS}


def _tracks(truth: Truth, fitting: Sequence[TrackResult]) -> list[dict[str, Any]]:
    """J and errors of the best-fitting tube of every track. Errors are shares of the true area, over all frames."""
    j = {(track.video, track.track_id): track.j for track in mean_j(truth.dataset, fitting).tracks}
    chosen = {(result.video_id, result.track_id): result for result in fitting}
    tracks = []
    for video in truth.dataset.videos:
        for track in video.tracks:
            if (video.name, track.id) not in j:
                continue
            area, errors = 0, dict.fromkeys(ERRORS, 0)
            for t in np.flatnonzero(track.present_T):
                size = video.height, video.width
                true = decode_mask(track.segmentations[t], *size, file=str(truth.dataset.path), record=f"{track.id}")
                rle = chosen[video.id, track.id].segmentations[t]
                found = np.zeros_like(true) if rle is None else decode_mask(rle, *size, file="results", record="")
                box = filled_box(track.boxes_T4[t], *size)
                area += int(true.sum())
                errors["missed"] += int((true & ~found).sum())
                errors["inside"] += int((found & ~true & box).sum())
                errors["outside"] += int((found & ~box).sum())
            shares = {name: pixels / max(area, 1) for name, pixels in errors.items()}
            tracks.append({"video": video.id, "track": track.id, "j": j[video.name, track.id], **shares})
    return tracks


@dataclass(frozen=True)
class Difference:
    """A variant minus the reference, averaged over the seeds that both have."""

    mean: float
    low: float
    high: float
    """95 % interval of the bootstrap over sources."""
    seeds: tuple[float, ...]
    """For each seed."""


def differences(
    variant: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], truth: Truth, draws: int = 1000
) -> dict[str, Difference]:
    """Class-agnostic AP, J and J by sources of runs minus those of as many others, paired by seed.

    Sources are drawn with replacement, since the clips of a source are correlated; both sides get the same ones.
    """
    sources = sorted(set(truth.sources.values()))
    videos = {source: [video for video, name in truth.sources.items() if name == source] for source in sources}
    sides = [[_Sample(run, videos) for run in runs] for runs in (variant, reference)]
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(sources), len(sources)) for _ in range(draws)]
    found = {}
    for name in ("agnostic_ap", "j", "j_sources"):
        values = [[getattr(run, name)(range(len(sources))) for run in side] for side in sides]
        seeds = np.subtract(*values)
        sampled = [np.subtract(*(np.mean([getattr(r, name)(d) for r in side]) for side in sides)) for d in drawn]
        low, high = np.percentile(sampled, [2.5, 97.5])
        found[name] = Difference(float(seeds.mean()), float(low), float(high), tuple(map(float, seeds)))
    return found


class _Sample:
    """The measures of one run on any list of sources, given by their indices."""

    def __init__(self, run: dict[str, Any], videos: dict[str, list[int]]):
        by_video: dict[int, list[float]] = {}
        for track in run["tracks"]:
            by_video.setdefault(track["video"], []).append(track["j"])
        self.tracks = [[j for video in part for j in by_video.get(video, [])] for part in videos.values()]
        self.matches = [[_match(run["matches"][str(video)]) for video in part] for part in videos.values()]

    def agnostic_ap(self, drawn: Sequence[int]) -> float:
        return average_precision([match for source in drawn for match in self.matches[source]])

    def j(self, drawn: Sequence[int]) -> float:
        return float(np.mean([j for source in drawn for j in self.tracks[source]]))

    def j_sources(self, drawn: Sequence[int]) -> float:
        return float(np.mean([np.mean(self.tracks[source]) for source in drawn if self.tracks[source]]))


def _match(values: dict[str, Any]) -> VideoMatch:
    scores = np.array(values["scores"], float)
    matched, ignored = (np.array(values[name], bool).reshape(-1, len(scores)) for name in ("matched", "ignored"))
    return VideoMatch(scores, matched, ignored, values["positives"])
