"""``mfvis eval``: results against a data set's masks, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.data.jsonfile import write_json
from mfvis.data.rle import decode_mask
from mfvis.data.ytvis import load_dataset, read_results
from mfvis.errors import DataError, Problem
from mfvis.eval.ytvis import MeanJ, Metrics, as_rle, evaluate, mean_j
from mfvis.types import TrackResult, VideoDataset


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate a results.json (mask AP of YouTube-VIS) or the output of `mfvis label` (mean J)."""

    results: Annotated[Path, tyro.conf.Positional]
    """A YouTube-VIS results list, or a YouTube-VIS data set whose tracks were given masks."""
    data: Path
    """The YouTube-VIS JSON with the true masks."""
    out: Path | None = None
    """Where to write the numbers as JSON."""


def run(config: EvalConfig) -> Metrics | MeanJ:
    """Evaluate, print the table, write `config.out` if asked. DataError names everything wrong with the results."""
    dataset = load_dataset(config.data, boxes_from_masks=True)
    if not any(track.segmentations for video in dataset.videos for track in video.tracks):
        problem = Problem(
            str(config.data), "annotations", "no track has masks to compare with", "Give a file with masks"
        )
        raise DataError([problem])
    # A labelled data set is an object, a results file a list; `read_results` says what is wrong with anything else.
    if config.results.is_file() and config.results.read_bytes()[:64].lstrip().startswith(b"{"):
        metrics: Metrics | MeanJ = mean_j(dataset, labelled_tracks(dataset, load_dataset(config.results)))
        print(j_table(metrics))
    else:
        metrics = evaluate(dataset, checked_results(config.results, dataset))
        print(ap_table(metrics))
    if config.out is not None:
        write_json(config.out, asdict(metrics))
    return metrics


def checked_results(path: Path, dataset: VideoDataset) -> list[TrackResult]:
    """The tracks of a results.json, every mask in it sound; DataError names everything that is not."""
    results = read_results(path, dataset)
    if not results:
        raise DataError([Problem(str(path), "file", "holds no result", "Predict something before evaluating")])
    sizes = {video.id: (video.height, video.width) for video in dataset.videos}
    return _sound_masks(results, sizes, path, lambda place, result: f"results[{place}]")


def labelled_tracks(dataset: VideoDataset, labelled: VideoDataset) -> list[TrackResult]:
    """The masks that a labelled data set gives to the tracks of `dataset`; DataError names every track without them."""
    given = {(video.id, track.id): track for video in labelled.videos for track in video.tracks}
    results, problems = [], []
    for video in dataset.videos:
        for track in video.tracks:
            found = given.get((video.id, track.id))
            if found is None or found.segmentations is None or len(found.segmentations) != video.length:
                what = "is missing" if found is None else f"has no masks for the {video.length} frames"
                record = f"track {track.id} of video {video.name!r}"
                problems.append(Problem(str(labelled.path), record, what, "Label the same boxes that are evaluated"))
                continue
            results.append(TrackResult(video.id, found.category_id, 1.0, found.segmentations, found.boxes_T4, track.id))
    if problems:
        raise DataError(problems)
    sizes = {video.id: (video.height, video.width) for video in dataset.videos}
    return _sound_masks(results, sizes, labelled.path, lambda place, result: f"annotation {result.track_id}")


def _sound_masks(
    results: list[TrackResult],
    sizes: dict[int, tuple[int, int]],
    path: Path,
    record: Callable[[int, TrackResult], str],
) -> list[TrackResult]:
    """The same results with compressed RLEs. All masks are checked first: pycocotools trusts what it is given."""
    problems: list[Problem] = []
    for place, result in enumerate(results):
        for t, segmentation in enumerate(result.segmentations):
            where = f"{record(place, result)}, frame {t}"
            try:
                decode_mask(segmentation, *sizes[result.video_id], file=str(path), record=where)
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError(problems)
    return [
        replace(result, segmentations=tuple(as_rle(s, *sizes[result.video_id]) for s in result.segmentations))
        for result in results
    ]


def ap_table(metrics: Metrics) -> str:
    """The twelve lines of the reference program, then one line per class."""
    numbers = [
        ("Precision", "AP", "0.50:0.95", "all", 100, metrics.ap),
        ("Precision", "AP", "0.50", "all", 100, metrics.ap50),
        ("Precision", "AP", "0.75", "all", 100, metrics.ap75),
        ("Precision", "AP", "0.50:0.95", "small", 100, metrics.ap_small),
        ("Precision", "AP", "0.50:0.95", "medium", 100, metrics.ap_medium),
        ("Precision", "AP", "0.50:0.95", "large", 100, metrics.ap_large),
        ("Recall", "AR", "0.50:0.95", "all", 1, metrics.ar1),
        ("Recall", "AR", "0.50:0.95", "all", 10, metrics.ar10),
        ("Recall", "AR", "0.50:0.95", "all", 100, metrics.ar100),
        ("Recall", "AR", "0.50:0.95", "small", 100, metrics.ar_small),
        ("Recall", "AR", "0.50:0.95", "medium", 100, metrics.ar_medium),
        ("Recall", "AR", "0.50:0.95", "large", 100, metrics.ar_large),
    ]
    lines = [
        f" {f'Average {what}':18} ({short}) @[ IoU={iou:9} | area={area:>6} | maxDets={most:>3} ] = {value:0.3f}"
        for what, short, iou, area, most, value in numbers
    ]
    width = max([len(entry.name) for entry in metrics.classes] + [5])
    lines += ["", f" {'class':{width}}     AP   AP50   AP75  AR100"]
    lines += [
        f" {entry.name:{width}}  {entry.ap:5.3f}  {entry.ap50:5.3f}  {entry.ap75:5.3f}  {entry.ar100:5.3f}"
        for entry in metrics.classes
    ]
    return "\n".join(lines)


def j_table(metrics: MeanJ) -> str:
    """One line per track, the mean over all object-frames last."""
    width = max([len(track.video) for track in metrics.tracks] + [5])
    names = max([len(track.category) for track in metrics.tracks] + [5])
    lines = [f" {'video':{width}}  track  {'class':{names}}  frames      J  filled box"]
    lines += [
        f" {track.video:{width}}  {track.track_id:5}  {track.category:{names}}  {track.frames:6}  {track.j:5.3f}"
        f"  {track.filled_box_j:10.3f}"
        for track in metrics.tracks
    ]
    total = f" {'all':{width}}  {len(metrics.tracks):5}  {'':{names}}  {metrics.object_frames:6}"
    lines.append(f"{total}  {metrics.j:5.3f}  {metrics.filled_box_j:10.3f}")
    return "\n".join(lines)
