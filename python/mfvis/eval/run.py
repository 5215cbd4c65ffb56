"""``mfvis eval``: compare results with a data set's masks, and report metrics as a table and as JSON."""

from __future__ import annotations

import gc
from dataclasses import asdict, replace
from pathlib import Path

from mfvis.data.bdd100k import FOLDERS, Labels, label_path
from mfvis.data.datasets import DatasetSpec, parse_spec
from mfvis.data.jsonfile import write_json
from mfvis.data.masks import compress_masks
from mfvis.data.results import parse_results
from mfvis.data.ytvis import load_dataset
from mfvis.errors import DataError, Problem
from mfvis.eval.ap_metrics import COCO, YOUTUBE_VIS, Metrics
from mfvis.eval.bitmask_tracks import read_bitmask_tracks
from mfvis.eval.config import EvalConfig
from mfvis.eval.grabcut import grabcut_j
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.eval.mots import MotsMetrics, evaluate_mots
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from mfvis.eval.table import ap_table, as_json, j_table, mots_table
from mfvis.eval.ytvis import evaluate
from mfvis.text import counted
from mfvis.types import TrackResult, VideoDataset


def run(config: EvalConfig) -> Metrics | MotsMetrics | MeanJ:
    """Evaluate, print the table, and write `config.out` if requested. DataError names all problems of the results."""
    # Hundreds of thousands of small objects live until the end, so that garbage collection would free nothing.
    collecting = gc.isenabled()
    gc.disable()
    try:
        metrics = measure(config)
    finally:
        if collecting:
            gc.enable()
    if config.out is not None:
        write_json(config.out, asdict(metrics) if isinstance(metrics, MeanJ) else as_json(metrics))
    return metrics


def measure(config: EvalConfig) -> Metrics | MotsMetrics | MeanJ:
    """Evaluate and print the table. DataError names all problems of the results."""
    spec = parse_spec(str(config.data))
    for path, remedy in ((config.results, "Check the path of the results"), (spec.path, "Check --data")):
        if not path.exists():
            raise DataError([Problem(str(path), "file", "does not exist", remedy)])
        if not path.is_file() and not path.is_dir():  # opening it would block
            raise DataError([Problem(str(path), "file", "is a pipe or a device", "Name a file")])
    metrics: Metrics | MotsMetrics | MeanJ
    if _has_bitmasks(config.results):
        metrics = evaluate_mots(read_bitmask_tracks(config.results, _mots_labels(spec, "bitmasks")))
        print(mots_table(metrics))
    elif _is_scalabel(config.results):
        labels = _mots_labels(spec, "rles", "boxes")
        metrics = evaluate_mots(read_scalabel_tracks(config.results, labels, _box_labels(spec)))
        print(mots_table(metrics))
    elif config.results.is_dir():
        problem, remedy = "has neither bitmasks (PNG) nor Scalabel JSON in it", "Name the file of the results"
        raise DataError([Problem(str(config.results), "folder", problem, remedy)])
    else:
        dataset = _with_masks(spec)
        # A labeled data set is an object, a results file a list. `parse_results` reports the problems of anything else.
        if config.results.read_bytes()[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            if dataset.of_images:
                problem = "is an object, expected a list: there are no labeled data sets of images"
                remedy = "Give results: image_id, category_id, segmentation, score"
                raise DataError([Problem(str(config.results), "top level", problem, remedy)])
            labeled = labeled_tracks(dataset, load_dataset(config.results))
            metrics = mean_j(dataset, labeled)
            print(j_table(metrics))
            if (baseline := grabcut_j(dataset, labeled)) is not None:
                print(f"GrabCut has {baseline[0]:.3f} on {baseline[2]} of these masks, on which J is {baseline[1]:.3f}")
        else:
            content = parse_results(config.results, dataset)
            problems = content.problems
            if not content.results and not content.notes and not problems:
                remedy = "Predict something before evaluating"
                problems = [Problem(str(config.results), "file", "holds no result", remedy)]
            rules = COCO if dataset.of_images else YOUTUBE_VIS
            metrics = evaluate(dataset, content.results, rules=rules, file=str(config.results), problems=problems)
            metrics = replace(metrics, notes=(*content.notes, *metrics.notes))
            print(ap_table(metrics))
    return metrics


def _has_bitmasks(path: Path) -> bool:
    return path.is_dir() and next(path.rglob("[!.]*.png"), None) is not None


def _is_scalabel(path: Path) -> bool:
    """True if a file, or a folder of files, contains labels of frames instead of videos."""
    files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    return any(file.is_file() and b'"videoName"' in file.read_bytes() for file in files)


def _mots_labels(spec: DatasetSpec, *forms: Labels) -> Path:
    """Path of the annotations to compare results with: the first of these forms that exists."""
    if not spec.name:
        return spec.path
    if spec.info.evaluator != "tracking":
        fault = "is not a data set of bitmasks or Scalabel labels"
        problem = Problem(str(spec.path), spec.name, fault, "Correct --data")
        raise DataError([problem])
    (split,) = spec.info.splits[spec.split or "valid"]
    label_file = next((path for form in forms if (path := label_path(spec.path, form, split))), None)
    if label_file is None:
        remedy = "Unpack the labels of BDD100K's tracking, or name their folder or file: --data PATH"
        folders = ", ".join(f"{FOLDERS[form]}/{split}" for form in forms)
        raise DataError([Problem(str(spec.path), f"split {split}", f"has no {folders}", remedy)])
    return label_file


def _box_labels(spec: DatasetSpec) -> Path | None:
    """Path of BDD100K's annotated box tracks. None for data that are given by a path."""
    return _mots_labels(spec, "boxes", "rles") if spec.name else None


def _with_masks(spec: DatasetSpec) -> VideoDataset:
    """The data set. DataError unless it has masks to compare with."""
    if not spec.name and spec.path.is_dir() and not _has_bitmasks(spec.path):
        problem, remedy = "is a folder, expected the JSON of the true masks", f"Name the file, or NAME:{spec.path}"
        raise DataError([Problem(str(spec.path), "annotations", problem, remedy)])
    if not spec.name and (spec.path.is_dir() or _is_scalabel(spec.path)):
        remedy = "Give results of the same form, or the YouTube-VIS JSON of the true masks"
        raise DataError([Problem(str(spec.path), "annotations", "are BDD100K's, the results are not", remedy)])
    dataset = replace(spec, boxes_from_masks=True).load("valid")
    if not any(track.segmentations for video in dataset.videos for track in video.tracks):
        remedy = "Give a file with masks: those of published valid and test splits are with the servers"
        raise DataError([Problem(str(spec.path), "annotations", "no track has masks to compare with", remedy)])
    return dataset


def labeled_tracks(dataset: VideoDataset, labeled: VideoDataset) -> list[TrackResult]:
    """Masks that a labeled data set assigns to the tracks of `dataset`. DataError names every track without masks, and
    every video that differs between the two."""
    labels = {(video.id, track.id): track for video in labeled.videos for track in video.tracks}
    names = {video.id: video.name for video in labeled.videos}
    results, problems = [], []
    for video in dataset.videos:
        if names.get(video.id, video.name) != video.name:
            what = f"is {names[video.id]!r}, in {dataset.path} it is {video.name!r}"
            remedy = "Label the same videos that are evaluated"
            problems.append(Problem(str(labeled.path), f"video {video.id}", what, remedy))
            continue
        for track in video.tracks:
            label = labels.get((video.id, track.id))
            if label is None or label.segmentations is None or len(label.segmentations) != video.length:
                what = "is missing" if label is None else f"has no masks for the {counted(video.length, 'frame')}"
                record = f"track {track.id} of video {video.name!r}"
                problems.append(Problem(str(labeled.path), record, what, "Label the same boxes that are evaluated"))
                continue
            masks = [
                (f"annotation {track.id}, frame {t}", mask, video.height, video.width)
                for t, mask in enumerate(label.segmentations)
            ]
            rles = tuple(compress_masks(masks, file=str(labeled.path), problems=problems).rles)
            results.append(TrackResult(video.id, label.category_id, 1.0, rles, label.boxes_T4, track.id))
    if problems:
        raise DataError(problems)
    return results
