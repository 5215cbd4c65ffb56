"""Data sets by name: how one is written on the command line, where its files lie, what its classes are called.

    [NAME:]PATH[@OPTION,...]    ytvis2021:/data/ytvis_2021    coco:/data/coco@0.25,length=3    own.json@boxes=masks

NAME is one of `LAYOUTS`, PATH the data set's folder or one of its JSON files; without NAME it is a JSON file in the
layout of YouTube-VIS or COCO, with any classes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mfvis.data import bdd100k, coco, ytvis
from mfvis.data.jsonfile import LARGEST, read_object
from mfvis.errors import ConfigError, DataError, Problem
from mfvis.text import path_fault
from mfvis.types import Category, VideoDataset

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Source:
    """A data set as the user wrote it, and, for training, how much of it is used and how."""

    path: Path
    name: str = ""
    """One of `LAYOUTS`; empty for a JSON file in the layout of YouTube-VIS or COCO."""
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


@dataclass(frozen=True)
class Layout:
    """Where the files of a published data set lie below its folder, in the order of preference, and its classes.

    In the patterns ``{split}`` stands for one of the split's names.
    """

    annotations: tuple[str, ...]
    frames: tuple[str, ...]
    classes: tuple[Category, ...]
    videos: int
    """Videos, or pictures, with objects in the published training split."""
    splits: tuple[tuple[str, ...], ...] = (("train",), ("valid", "val"), ("test",))
    """Names of the splits train, valid and test."""


def _categories(names: str, ids: Sequence[int] | None = None) -> tuple[Category, ...]:
    words = [name.strip() for name in names.split(",")]
    return tuple(Category(number, name) for number, name in zip(ids or range(1, len(words) + 1), words, strict=True))


_YTVIS_2019 = _categories(
    "person, giant_panda, lizard, parrot, skateboard, sedan, ape, dog, snake, monkey, hand, rabbit, duck, cat, cow, "
    "fish, train, horse, turtle, bear, motorbike, giraffe, leopard, fox, deer, owl, surfboard, airplane, truck, zebra, "
    "tiger, elephant, snowboard, boat, shark, mouse, frog, eagle, earless_seal, tennis_racket"
)
_YTVIS_2021 = _categories(
    "airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal, elephant, fish, flying_disc, fox, frog, "
    "giant_panda, giraffe, horse, leopard, lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark, "
    "skateboard, snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck, turtle, whale, zebra"
)
_OVIS = _categories(
    "Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe, Poultry, Giant_panda, Lizard, Parrot, "
    "Monkey, Rabbit, Tiger, Fish, Turtle, Bicycle, Motorcycle, Airplane, Boat, Vehical"
)
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO = _categories(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush",
    [number for number in range(1, 91) if number not in _COCO_GAPS],
)

_YTVIS_FILES = (
    "{split}.json",
    "{split}/instances.json",
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
)
_YTVIS_FRAMES = ("{split}/JPEGImages", "{split}")
LAYOUTS = {
    "ytvis2019": Layout(_YTVIS_FILES, _YTVIS_FRAMES, _YTVIS_2019, 2238),
    "ytvis2021": Layout(_YTVIS_FILES, _YTVIS_FRAMES, _YTVIS_2021, 2985),
    # Its training videos and classes are those of 2021.
    "ytvis2022": Layout(_YTVIS_FILES, _YTVIS_FRAMES, _YTVIS_2021, 2985),
    "ovis": Layout(
        (
            "annotations_{split}.json",
            "annotations/annotations_{split}.json",
            "annotations/{split}.json",
            "{split}.json",
        ),
        ("{split}", "{split}/JPEGImages", "Images/{split}"),
        _OVIS,
        607,
    ),
    "coco": Layout(
        ("annotations/instances_{split}.json", "annotations/image_info_{split}.json"),
        ("{split}", "images/{split}"),
        _COCO,
        117266,
        (("train2017",), ("val2017",), ("test-dev2017", "test2017")),
    ),
    # Its files are found by `load_bdd100k`.
    "bdd100k-mots": Layout((), (), bdd100k.CATEGORIES, 154, (("train",), ("val",), ("test",))),
}

COUNTERPARTS = {
    ("coco", "ytvis2019"): {
        1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32, 23: 20, 24: 30,
        25: 22, 35: 33, 36: 33, 41: 5, 42: 27, 43: 40,
    },
    ("coco", "ytvis2021"): {
        1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12, 23: 2, 24: 40,
        25: 18, 34: 14, 35: 31, 36: 31, 41: 29, 42: 33, 43: 34,
    },
    ("coco", "ovis"): {
        1: 1, 2: 21, 3: 25, 4: 22, 5: 23, 6: 25, 8: 25, 9: 24, 17: 3, 18: 4, 19: 5, 20: 6, 21: 7, 22: 8, 23: 9, 24: 10,
        25: 11,
    },
    ("coco", "bdd100k-mots"): {1: 1, 2: 8, 3: 3, 4: 7, 6: 5, 7: 6, 8: 4},
}  # fmt: skip
"""Category ids of one data set, and those of another that stand for the same there. The first three are the field's
(SeqFormer and VITA, ECCV and NeurIPS 2022; MaskFreeVIS): bicycles are motorbikes and skis snowboards to YouTube-VIS.
Any other two data sets are joined by the names of their classes."""
COUNTERPARTS["coco", "ytvis2022"] = COUNTERPARTS["coco", "ytvis2021"]


def parse_source(text: str) -> Source:
    """A data set as it is written on the command line (see the head of this module).

    Options: ``split=train|valid|test``, ``share=0.25`` or the number alone, ``supervision=boxes|masks``, ``length=T``,
    ``boxes=masks``.

    Raises:
        ConfigError: for an unknown name or option.
    """
    if text and path_fault(text) is None and Path(text).exists():
        return Source(Path(text))
    place, _, options = text.rpartition("@")
    # An @ in a path is no option: options are numbers and assignments alone.
    if not place or not all(re.fullmatch(r"[\d.]+|\w+=[^/]*", option) for option in options.split(",")):
        place, options = text, ""
    name, colon, path = place.partition(":")
    if not colon or name not in LAYOUTS:
        if colon and re.fullmatch(r"[\w-]{2,}", name):
            close = difflib.get_close_matches(name, LAYOUTS, n=1)
            guess = f", did you mean {close[0]}?" if close else ""
            raise ConfigError(f"data {text}: there is no data set {name!r}{guess}; there are {', '.join(LAYOUTS)}")
        name, path = "", place
    if not path:
        raise ConfigError(f"data {text!r} names no file or folder; write NAME:FOLDER or FILE.json")
    return Source(Path(path), name, **_options(text, options))


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
                f"data {text}: {option!r} is no option; expected share=NUMBER (above 0), length=FRAMES (1 or more), "
                "supervision=boxes or masks, split=train, valid or test, or boxes=masks"
            )
    return known


def load_source(
    source: Source, split: Split = "train", frames_dir: str | Path | None = None, *, with_masks: bool = True
) -> VideoDataset:
    """Read a data set; neither a picture nor, unless its boxes come from there, a mask is touched.

    Args:
        source: what `parse_source` returned.
        split: the part that is read where `source` does not say.
        frames_dir: where the frames lie, if not where the layout has them.
        with_masks: False says that nobody will ask for masks, so that large ones need not be kept.

    Raises:
        DataError: when its files are not where the layout has them, their classes are not those of the named data set,
            or for any problem in them.
    """
    split = source.split or split
    if source.name == "bdd100k-mots":
        return bdd100k.load_bdd100k(source.path, _splits(source.name, split)[0], with_masks=with_masks)
    if not source.name:
        dataset, problems = parse_file(source, frames_dir, with_masks=with_masks)
        if problems:
            raise DataError(problems)
        return dataset
    json_path, found = files_of(source, split)
    frames_dir, boxes_from_masks = frames_dir or found, source.boxes_from_masks
    if source.name == "coco":
        dataset = coco.load_coco(
            json_path, frames_dir, with_masks=with_masks, boxes_from_masks=boxes_from_masks, lenient=True
        )
    else:
        dataset = ytvis.load_dataset(json_path, frames_dir, boxes_from_masks=boxes_from_masks, lenient=True)
    return _with_classes(dataset, source.name)


def parse_file(
    source: Source, frames_dir: str | Path | None = None, *, with_masks: bool = True
) -> tuple[VideoDataset, list[Problem]]:
    """What is valid in a JSON file in the layout of YouTube-VIS or COCO, and what is not. The arguments are
    `load_source`'s; `source` has no name."""
    problems: list[Problem] = []
    root = read_object(source.path, problems)
    if root is None:
        return VideoDataset(source.path, (), ()), problems
    boxes_from_masks = source.boxes_from_masks
    if coco.is_coco(root):
        return coco.parse_coco(
            source.path, frames_dir, with_masks=with_masks, boxes_from_masks=boxes_from_masks, root=root
        )
    return ytvis.parse_ytvis(source.path, frames_dir, boxes_from_masks=boxes_from_masks, root=root)


def files_of(source: Source, split: Split) -> tuple[Path, Path | None]:
    """The JSON of a split and the folder its frames lie in (None: where a YouTube-VIS JSON without a name has them).

    Raises:
        DataError: when one of them is nowhere the layout has it.
    """
    if not source.name:
        return source.path, None
    layout, names = LAYOUTS[source.name], _splits(source.name, source.split or split)
    if source.path.suffix == ".json":
        # A file of one's own, a local split for instance, of the named data set: the frames are those of any split.
        if source.split is None:
            every = [name for group in layout.splits for name in group]
            names = tuple(sorted(every, key=lambda name: name not in str(source.path)))
        roots = (source.path.parent, source.path.parent.parent)
        candidates = [
            root / pattern.format(split=name) for root in roots for name in names for pattern in layout.frames
        ]
        nested = source.path.parent / "JPEGImages"
        return source.path, nested if nested.is_dir() else next(filter(Path.is_dir, candidates), source.path.parent)
    files = [source.path / pattern.format(split=name) for name in names for pattern in layout.annotations]
    folders = [source.path / pattern.format(split=name) for name in names for pattern in layout.frames]
    json_path, frames = next(filter(Path.is_file, files), None), next(filter(Path.is_dir, folders), None)
    problems = [
        Problem(str(source.path), f"{source.name}, {source.split or split}", f"has no {what}; sought: {sought}", remedy)
        for there, what, sought, remedy in (
            (json_path, "annotations", ", ".join(map(str, files)), "Unpack the data set there, or name its JSON file"),
            (frames, "frames", ", ".join(map(str, folders)), "Unpack the pictures there; for eval name the JSON alone"),
        )
        if there is None
    ]
    if json_path is None or frames is None:
        raise DataError(problems)
    return json_path, frames


def _splits(name: str, split: Split) -> tuple[str, ...]:
    return LAYOUTS[name].splits[("train", "valid", "test").index(split)]


def _with_classes(dataset: VideoDataset, name: str) -> VideoDataset:
    """The data set with all classes of the named one; DataError if the file's own contradict them."""
    classes = {category.id: category for category in LAYOUTS[name].classes}
    problems = [
        Problem(
            str(dataset.path),
            f"category {category.id}",
            f"is {category.name!r}, in {name} it is {classes[category.id].name!r}"
            if category.id in classes
            else f"{category.name!r} is not in {name}",
            f"Name another data set, or none: --data {dataset.path}",
        )
        for category in dataset.categories
        if category.id not in classes or _plain(category.name) != _plain(classes[category.id].name)
    ]
    if problems:
        raise DataError(problems)
    return replace(dataset, categories=LAYOUTS[name].classes)


def counterparts(
    name: str, categories: Sequence[Category], target_name: str, target: Sequence[Category]
) -> dict[int, int]:
    """For the category ids of one data set those of another: by `COUNTERPARTS`, or else by equal names.

    Names are compared without regard to case, spaces, underscores and hyphens.
    """
    if (name, target_name) in COUNTERPARTS:
        return COUNTERPARTS[name, target_name]
    ids = {_plain(category.name): category.id for category in target}
    return {category.id: ids[_plain(category.name)] for category in categories if _plain(category.name) in ids}


def translated(dataset: VideoDataset, categories: Sequence[Category], ids: dict[int, int]) -> VideoDataset:
    """The data set in the classes of another. Tracks of classes without a counterpart in `ids` are left out, and
    `VideoDataset.notes` says how many.

    Raises:
        DataError: when no class has a counterpart.
    """
    if not ids:
        problem = f"none of its {len(dataset.categories)} classes is one of the {len(categories)} that are trained"
        remedy = "Put the data set first whose classes shall be learnt, or rename classes"
        raise DataError([Problem(str(dataset.path), "categories", problem, remedy)])
    videos = tuple(
        replace(
            video,
            tracks=tuple(
                replace(track, category_id=ids[track.category_id]) for track in video.tracks if track.category_id in ids
            ),
        )
        for video in dataset.videos
    )
    tracks, kept = (sum(len(video.tracks) for video in of) for of in (dataset.videos, videos))
    note = f"{dataset.path}: {len(ids)} of {len(dataset.categories)} classes are trained, {kept} of {tracks} objects"
    return VideoDataset(dataset.path, tuple(categories), videos, (*dataset.notes, note))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
