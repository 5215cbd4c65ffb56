"""Specifications of data sets on the command line, the locations of their files, their readers and evaluators.

    [NAME:]PATH[@OPTION,...]    ytvis2021:/data/ytvis_2021    coco:/data/coco@0.25,length=3    own.json@boxes=masks

NAME is one of `DATASETS`, PATH the data set's folder or one of its JSON files. Without NAME, PATH is a JSON file in the
layout of YouTube-VIS or COCO with any categories.

To add a data set, add an entry to `DATASETS`, with a loader if its files have another layout.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mfvis.data import bdd100k, categories, coco, ytvis
from mfvis.data.bdd100k_results import write_tracking_file
from mfvis.data.jsonfile import LARGEST, read_object
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.text import path_fault
from mfvis.types import Category, TrackResult, VideoDataset

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as specified by the user, with its use in training."""

    path: Path
    name: str = ""
    """One of `DATASETS`. Empty for a JSON file in the layout of YouTube-VIS or COCO."""
    split: Split | None = None
    """Split to read. Default: train for training, valid otherwise."""
    share: float | None = None
    """Share of every batch. Default: an equal part of the share that the other data sets leave."""
    supervision: Literal["boxes", "masks"] | None = None
    """Supervision in training. Default: that of the training configuration."""
    length: int | None = None
    """Frames per clip. Default: that of the training configuration. With more than one, a single image becomes a
    pseudo-clip."""
    boxes_from_masks: bool = False
    """Compute missing boxes of annotations from their masks."""

    @property
    def info(self) -> DatasetInfo:
        """Entry of the data set in `DATASETS`, or `OWN_FILE`."""
        return DATASETS[self.name] if self.name else OWN_FILE

    def load(
        self, split: Split = "train", frames_dir: str | Path | None = None, *, with_masks: bool = True
    ) -> VideoDataset:
        """Read the data set. Images are not read, and masks are only read if boxes are computed from them.

        Args:
            split: the split to read if the specification names none.
            frames_dir: the folder of the frames, if they are not in their usual folder.
            with_masks: False if masks are not needed, so that large ones are not kept.

        Raises:
            DataError: when files are not in their usual locations, when their categories are not those of the
                named data set, or for any problem in them.
        """
        frames_dir = None if frames_dir is None else Path(frames_dir)
        return self.info.load(self, self.split or split, frames_dir, with_masks)


@dataclass(frozen=True)
class DatasetInfo:
    """A published data set: patterns of its files below its folder, in order of preference, and its reader and
    evaluator.

    In the patterns, ``{split}`` is replaced by one of the split's names.
    """

    title: str
    load: Callable[[DatasetSpec, Split, Path | None, bool], VideoDataset]
    """Function that reads a split, optionally with the frames in another folder, with or without masks."""
    categories: tuple[Category, ...] = ()
    num_videos: int = 0
    """Number of videos, or images, with objects in the published training split."""
    annotations: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    splits: dict[Split, tuple[str, ...]] = field(
        default_factory=lambda: {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
    )
    """Names of each split in file names."""
    evaluator: Literal["ap", "tracking"] = "ap"
    """Metrics to compute: AP of tracks, or the tracking metrics of BDD100K from files in its own formats."""
    write_own_results: Callable[[Path, VideoDataset, Sequence[TrackResult], float], list[str]] = lambda *_: []
    """Function that writes the files for the data set's own evaluation, besides results.json, into a folder and returns
    their names. The float is the minimum score of tracks, for evaluations that ignore scores."""
    can_be_split: bool = False
    """True if the training annotations are one YouTube-VIS JSON, which `mfvis data split` can split."""


def parse_spec(text: str) -> DatasetSpec:
    """A data set specification parsed from its text on the command line (see the module's docstring).

    Options: ``split=train|valid|test``, ``share=0.25`` or only the number, ``supervision=boxes|masks``, ``length=T``,
    ``boxes=masks``.

    Raises:
        ConfigError: for an unknown name or option.
    """
    if text and path_fault(text) is None and Path(text).exists():
        return DatasetSpec(Path(text))
    location, _, options = text.rpartition("@")
    # An @ in a path does not start options: these are only numbers and assignments.
    if not location or not all(re.fullmatch(r"[\d.]+|\w+=[^/]*", option) for option in options.split(",")):
        location, options = text, ""
    name, colon, path = location.partition(":")
    if not colon or name not in DATASETS:
        if colon and re.fullmatch(r"[\w-]{2,}", name):
            close = difflib.get_close_matches(name, DATASETS, n=1)
            guess = f", did you mean {close[0]}?" if close else ""
            raise ConfigError(f"data {text}: there is no data set {name!r}{guess}; there are {', '.join(DATASETS)}")
        name, path = "", location
    if not path:
        raise ConfigError(f"data {text!r} names no file or folder; write NAME:FOLDER or FILE.json")
    return DatasetSpec(Path(path), name, **_options(text, options))


def _options(text: str, options: str) -> dict[str, object]:
    known: dict[str, object] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.rpartition("=")
        key = key or "share"
        if key in known or (key == "boxes" and "boxes_from_masks" in known):
            raise ConfigError(f"data {text}: {key} is given twice")
        if key == "share" and re.fullmatch(r"[0-9]*\.?[0-9]+", value) and 0 < float(value) <= LARGEST:
            known[key] = float(value)
        elif key == "length" and re.fullmatch(r"[0-9]{1,7}", value) and int(value) > 0:
            known[key] = int(value)
        elif (key, value) == ("boxes", "masks"):
            known["boxes_from_masks"] = True
        elif (key == "supervision" and value in ("boxes", "masks")) or (
            key == "split" and value in ("train", "valid", "test")
        ):
            known[key] = value
        else:
            raise ConfigError(
                f"data {text}: {option!r} is not an option; expected share=NUMBER (above 0), length=FRAMES (1 or "
                "more), supervision=boxes or masks, split=train, valid or test, or boxes=masks"
            )
    return known


def parse_file(
    spec: DatasetSpec,
    frames_dir: str | Path | None = None,
    *,
    with_masks: bool = True,
    root: dict[str, Any] | None = None,
) -> tuple[VideoDataset, list[Problem]]:
    """The valid part of a JSON file in the layout of YouTube-VIS or COCO, and its problems. The arguments are those of
    `DatasetSpec.load`; `spec` has no name.

    root: the content of the file, if already read.
    """
    problems: list[Problem] = []
    root = read_object(spec.path, problems) if root is None else root
    if root is None:
        return VideoDataset(spec.path, (), ()), problems
    options = {"boxes_from_masks": spec.boxes_from_masks, "root": root}
    if coco.is_coco(root):
        return coco.parse_coco(spec.path, frames_dir, with_masks=with_masks, **options)
    return ytvis.parse_ytvis(spec.path, frames_dir, **options)


def locate(spec: DatasetSpec, split: Split) -> tuple[Path, Path | None]:
    """JSON of a split and folder of its frames. The folder is None for a YouTube-VIS JSON without a data set name.

    Raises:
        DataError: when one of them is not in any of its usual locations.
    """
    if not spec.name:
        return spec.path, None
    info, names = spec.info, spec.info.splits[spec.split or split]
    if spec.path.suffix == ".json":
        # A JSON of the user, such as a local split of the named data set, uses the frames of any split.
        if spec.split is None:
            every = [name for group in info.splits.values() for name in group]
            names = tuple(sorted(every, key=lambda name: name not in str(spec.path)))
        roots = (spec.path.parent, spec.path.parent.parent)
        candidates = [root / pattern.format(split=name) for root in roots for name in names for pattern in info.frames]
        nested = spec.path.parent / "JPEGImages"
        return spec.path, nested if nested.is_dir() else next(filter(Path.is_dir, candidates), spec.path.parent)
    files = [spec.path / pattern.format(split=name) for name in names for pattern in info.annotations]
    folders = [spec.path / pattern.format(split=name) for name in names for pattern in info.frames]
    json_path, frames = next(filter(Path.is_file, files), None), next(filter(Path.is_dir, folders), None)
    problems = [
        Problem(str(spec.path), f"{spec.name}, {spec.split or split}", f"has no {what}; sought: {sought}", remedy)
        for there, what, sought, remedy in (
            (json_path, "annotations", ", ".join(map(str, files)), "Unpack the data set there, or name its JSON file"),
            (frames, "frames", ", ".join(map(str, folders)), "Unpack the images there; for eval name only the JSON"),
        )
        if there is None
    ]
    if json_path is None or frames is None:
        raise DataError(problems)
    return json_path, frames


def _load_file(spec: DatasetSpec, split: Split, frames_dir: Path | None, with_masks: bool) -> VideoDataset:
    dataset, problems = parse_file(spec, frames_dir, with_masks=with_masks)
    if problems:
        raise DataError(problems)
    return dataset


def _load_ytvis(spec: DatasetSpec, split: Split, frames_dir: Path | None, with_masks: bool) -> VideoDataset:
    json_path, frames = locate(spec, split)
    dataset = ytvis.load_dataset(json_path, frames_dir or frames, boxes_from_masks=spec.boxes_from_masks, lenient=True)
    return categories.with_categories(dataset, spec.name, spec.info.categories)


def _load_coco(spec: DatasetSpec, split: Split, frames_dir: Path | None, with_masks: bool) -> VideoDataset:
    json_path, images = locate(spec, split)
    dataset = coco.load_coco(
        json_path,
        frames_dir or images,
        with_masks=with_masks,
        boxes_from_masks=spec.boxes_from_masks,
        lenient=True,
    )
    return categories.with_categories(dataset, spec.name, spec.info.categories)


def _load_bdd100k(spec: DatasetSpec, split: Split, frames_dir: Path | None, with_masks: bool) -> VideoDataset:
    (name,) = spec.info.splits[split]
    return bdd100k.load_bdd100k(spec.path, name, with_masks=with_masks)


_YTVIS_FILES = (
    "{split}.json",
    "{split}/instances.json",
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
)
OWN_FILE = DatasetInfo("A JSON file in the layout of YouTube-VIS or COCO", _load_file, can_be_split=True)


def _like_ytvis(
    title: str,
    classes: tuple[Category, ...],
    num_videos: int,
    annotations: tuple[str, ...] = _YTVIS_FILES,
    frames: tuple[str, ...] = ("{split}/JPEGImages", "{split}"),
) -> DatasetInfo:
    return DatasetInfo(title, _load_ytvis, classes, num_videos, annotations, frames, can_be_split=True)


DATASETS = {
    "ytvis2019": _like_ytvis("YouTube-VIS 2019", categories.YTVIS_2019, 2238),
    "ytvis2021": _like_ytvis("YouTube-VIS 2021", categories.YTVIS_2021, 2985),
    # The training videos and categories are those of 2021.
    "ytvis2022": _like_ytvis("YouTube-VIS 2022", categories.YTVIS_2021, 2985),
    "ovis": _like_ytvis(
        "OVIS",
        categories.OVIS,
        607,
        annotations=(
            "annotations_{split}.json",
            "annotations/annotations_{split}.json",
            "annotations/{split}.json",
            "{split}.json",
        ),
        frames=("{split}", "{split}/JPEGImages", "Images/{split}"),
    ),
    "coco": DatasetInfo(
        "COCO 2017",
        _load_coco,
        categories.COCO,
        117266,
        annotations=("annotations/instances_{split}.json", "annotations/image_info_{split}.json"),
        frames=("{split}", "images/{split}"),
        splits={"train": ("train2017",), "valid": ("val2017",), "test": ("test-dev2017", "test2017")},
    ),
    "bdd100k-mots": DatasetInfo(
        "BDD100K segmentation tracking",
        _load_bdd100k,
        bdd100k.CATEGORIES,
        154,
        splits={"train": ("train",), "valid": ("val",), "test": ("test",)},
        evaluator="tracking",
        write_own_results=write_tracking_file,
    ),
}
DATASET_NAMES = ", ".join(DATASETS)
"""Names of the data sets, for help texts."""
