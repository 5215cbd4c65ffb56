"""Data sets as objects: how one is written on the command line, where its files lie, how it is read and evaluated.

    [NAME:]PATH[@OPTION,...]    ytvis2021:/data/ytvis_2021    coco:/data/coco@0.25,length=3    own.json@boxes=masks

NAME is one of `DATASETS`, PATH the data set's folder or one of its JSON files; without NAME it is a JSON file in the
layout of YouTube-VIS or COCO, with any categories.

Adding a data set: one entry of `DATASETS`, with a loader if its files are in another layout.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mfvis.data import bdd100k, categories, coco, ytvis
from mfvis.data.bdd100k_results import write_tracking_file
from mfvis.data.jsonfile import LARGEST, read_object
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.text import path_fault
from mfvis.types import Category, TrackResult, VideoDataset

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as the user wrote it, and, for training, how much of it is used and how."""

    path: Path
    name: str = ""
    """One of `DATASETS`; empty for a JSON file in the layout of YouTube-VIS or COCO."""
    split: Split | None = None
    """Which part; by default what the command works on: training on train, everything else on valid."""
    share: float | None = None
    """Its part of every batch; what the others leave, in equal parts, where none is given."""
    supervision: Literal["boxes", "masks"] | None = None
    """By default that of the training."""
    length: int | None = None
    """Frames of a clip; by default those of the training. Of a single picture, more than one make a pseudo-clip."""
    boxes_from_masks: bool = False
    """Annotations without boxes get those of their masks."""

    @property
    def info(self) -> DatasetInfo:
        """Its entry in `DATASETS`, or `OWN_FILE`."""
        return DATASETS[self.name] if self.name else OWN_FILE

    def load(
        self, split: Split = "train", frames_dir: str | Path | None = None, *, with_masks: bool = True
    ) -> VideoDataset:
        """Read the data set; neither a picture nor, unless its boxes come from there, a mask is touched.

        Args:
            split: the part that is read where the specification does not say.
            frames_dir: where the frames lie, if not where the data set has them.
            with_masks: False if masks are not needed, so that large ones are not kept.

        Raises:
            DataError: when its files are not where the data set has them, their categories are not those of the named
                data set, or for any problem in them.
        """
        frames_dir = None if frames_dir is None else Path(frames_dir)
        return self.info.load(self, self.split or split, frames_dir, with_masks)


@dataclass(frozen=True)
class DatasetInfo:
    """A published data set: where its files lie below its folder, in the order of preference, and what is done with it.

    In the patterns ``{split}`` stands for one of the split's names.
    """

    title: str
    load: Callable[[DatasetSpec, Split, Path | None, bool], VideoDataset]
    """Reads a split, from frames in a folder if that is given, with masks or without."""
    categories: tuple[Category, ...] = ()
    num_videos: int = 0
    """Videos, or pictures, with objects in the published training split."""
    annotations: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    splits: dict[Split, tuple[str, ...]] = field(
        default_factory=lambda: {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
    )
    """The names that each split has in file names."""
    evaluator: Literal["ap", "tracking"] = "ap"
    """AP of tracks, or the tracking numbers of BDD100K from bitmasks or Scalabel files."""
    write_own_results: Callable[[Path, VideoDataset, Sequence[TrackResult], float], list[str]] = lambda *_: []
    """Writes the files that its own evaluation takes besides results.json into a folder, and returns their names. The
    number is the least score of tracks where scores do not count."""
    can_be_split: bool = False
    """Whether its training annotations are one YouTube-VIS JSON, of which `mfvis data split` makes two."""


def parse_spec(text: str) -> DatasetSpec:
    """A data set as it is written on the command line (see the head of this module).

    Options: ``split=train|valid|test``, ``share=0.25`` or just the number, ``supervision=boxes|masks``, ``length=T``,
    ``boxes=masks``.

    Raises:
        ConfigError: for an unknown name or option.
    """
    if text and path_fault(text) is None and Path(text).exists():
        return DatasetSpec(Path(text))
    location, _, options = text.rpartition("@")
    # An @ in a path is not an option: options are numbers and assignments only.
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
    spec: DatasetSpec, frames_dir: str | Path | None = None, *, with_masks: bool = True
) -> tuple[VideoDataset, list[Problem]]:
    """What is valid in a JSON file in the layout of YouTube-VIS or COCO, and what is not. The arguments are those of
    `DatasetSpec.load`; `spec` has no name."""
    problems: list[Problem] = []
    root = read_object(spec.path, problems)
    if root is None:
        return VideoDataset(spec.path, (), ()), problems
    options = {"boxes_from_masks": spec.boxes_from_masks, "root": root}
    if coco.is_coco(root):
        return coco.parse_coco(spec.path, frames_dir, with_masks=with_masks, **options)
    return ytvis.parse_ytvis(spec.path, frames_dir, **options)


def locate(spec: DatasetSpec, split: Split) -> tuple[Path, Path | None]:
    """The JSON of a split and the folder its frames lie in (None: where a YouTube-VIS JSON without a name has them).

    Raises:
        DataError: when one of them is nowhere the data set has it.
    """
    if not spec.name:
        return spec.path, None
    info, names = spec.info, spec.info.splits[spec.split or split]
    if spec.path.suffix == ".json":
        # A file of the user's own, such as a local split, of the named data set: the frames are those of any split.
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
            (frames, "frames", ", ".join(map(str, folders)), "Unpack the pictures there; for eval name only the JSON"),
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
    # Its training videos and categories are those of 2021.
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
"""The names of the data sets, for help texts."""
