"""Annotated and predicted segmentation tracks of BDD100K, read from folders of bitmasks.

Input on which the toolkit (bdd100k 1.0.1) would crash is refused. All problems are reported together.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from mfvis.data.bitmask import CROWD, IGNORED, MOST_PER_FRAME, read_bitmask
from mfvis.errors import DataError, Problem
from mfvis.eval.mots_frame import MotsFrame, TrackingFrames
from mfvis.text import counted


def read_bitmask_tracks(results: Path, data: Path) -> TrackingFrames:
    """The frames of each video in two folders of bitmask folders.

    As in the toolkit, the folders of both sides are paired in the order of their names, and the images by their
    stems. Predictions for frames without annotations are ignored.

    Raises:
        DataError: with every missing folder, else every missing bitmask, else every damaged or mismatched one.
    """
    problems: list[Problem] = []
    annotated, predicted = _folders(data), _folders(results)
    for folder, folders in ((data, annotated), (results, predicted)):
        if not folders:
            problems.append(Problem(str(folder), "folder", "has no PNG in it", "Give a folder with a folder per video"))
    if not problems and len(annotated) != len(predicted):
        names = sorted({folder.name for folder in predicted} ^ {folder.name for folder in annotated})
        counts = f"has {counted(len(predicted), 'video')}, the annotations {len(annotated)}"
        problem = f"{counts}; in one only: {', '.join(names[:9])}"
        problems.append(Problem(str(results), "folder", problem, "Give every annotated video a folder, and no other"))
    if problems:
        raise DataError(problems)
    pairs: list[list[tuple[Path, Path]]] = []
    for (folder, files), (predicted_folder, predicted_files) in zip(annotated.items(), predicted.items(), strict=True):
        by_stem = {file.stem: file for file in predicted_files}
        for file in files:
            if file.stem not in by_stem:
                problem = f"has no {file.stem}.png, which {folder.name} has"
                remedy = "Write an all-zero PNG where nothing was found"
                problems.append(Problem(str(predicted_folder), "folder", problem, remedy))
        pairs.append([(file, by_stem[file.stem]) for file in files if file.stem in by_stem])
    if problems:
        raise DataError(problems)
    videos = [[_bitmask_frame(file, predicted_file, problems) for file, predicted_file in video] for video in pairs]
    if problems:
        raise DataError(problems)
    whole = [[frame for frame in video if frame is not None] for video in videos]
    return TrackingFrames("masks", whole, whole)


def _folders(root: Path) -> dict[Path, list[Path]]:
    """PNG files below a folder, grouped by their folder. Folders are in the order of their first files. Hidden files
    and folders, such as the ``._NAME`` that macOS leaves next to each file, are left out."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(root.rglob("[!.]*.png"), key=str):
        if not any(part.startswith(".") for part in file.relative_to(root).parts):
            folders[file.parent].append(file)
    return folders


def _bitmask_frame(annotated: Path, predicted: Path, problems: list[Problem]) -> MotsFrame | None:
    """Objects of two bitmasks. None, with a report, if one of them is damaged or their sizes differ."""
    images = [_read(path, problems) for path in (annotated, predicted)]
    if None in images:
        return None
    (*true_maps, true_HW), (*predicted_maps, predicted_HW) = images
    if true_HW.shape != predicted_HW.shape:
        problem = f"is {predicted_HW.shape[::-1]}, the annotation {true_HW.shape[::-1]} (width, height)"
        problems.append(Problem(str(predicted), "image", problem, "Write it at the annotation's size"))
        return None
    # Only runs in which neither id changes are compared: thousands of runs instead of a million pixels.
    true_pixels, predicted_pixels = true_HW.ravel(), predicted_HW.ravel()
    changes = (true_pixels[1:] != true_pixels[:-1]) | (predicted_pixels[1:] != predicted_pixels[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=true_pixels.size)
    true_ids, true_indices, true_of_run = np.unique(true_pixels[starts], return_index=True, return_inverse=True)
    ids, indices, of_run = np.unique(predicted_pixels[starts], return_index=True, return_inverse=True)
    pixels = np.bincount(true_of_run * len(ids) + of_run, lengths, len(true_ids) * len(ids))
    pixels = pixels.reshape(len(true_ids), len(ids))
    # The background, if there is any, has the first row and column: skip it.
    first, first_predicted = int(true_ids[0] == 0), int(ids[0] == 0)
    if len(ids) - first_predicted > MOST_PER_FRAME:
        problem = f"has {len(ids) - first_predicted} ids, at most {MOST_PER_FRAME} are evaluated"
        problems.append(Problem(str(predicted), "image", problem, f"Keep the {MOST_PER_FRAME} best of each frame"))
        return None
    true_area, area = pixels.sum(1)[first:, None], pixels.sum(0)[first_predicted:]
    shared = pixels[first:, first_predicted:]
    labels, attributes = (channel.ravel()[starts[true_indices[first:]]].astype(np.int64) for channel in true_maps)
    predicted_labels, predicted_attributes = (
        channel.ravel()[starts[indices[first_predicted:]]].astype(np.int64) for channel in predicted_maps
    )
    region, counted = attributes & (CROWD | IGNORED) != 0, predicted_attributes & (CROWD | IGNORED) == 0
    return MotsFrame(
        true_ids_G=true_ids[first:][~region].astype(np.int64),
        true_labels_G=labels[~region],
        predicted_ids_P=ids[first_predicted:][counted].astype(np.int64),
        predicted_labels_P=predicted_labels[counted],
        iou_GP=(shared / (true_area + area - shared))[~region][:, counted],
        covered_P=(shared / area)[region].max(0, initial=0.0)[counted],
    )


def _read(path: Path, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    try:
        return read_bitmask(path)
    except DataError as error:
        problems += error.problems
        return None
