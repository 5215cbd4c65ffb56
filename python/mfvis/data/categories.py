"""Categories of the published data sets, and the mappings between those of different data sets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

from mfvis.errors import DataError, Problem
from mfvis.types import Category, VideoDataset


def _categories(names: str, ids: Sequence[int] | None = None) -> tuple[Category, ...]:
    words = [name.strip() for name in names.split(",")]
    return tuple(Category(id, name) for id, name in zip(ids or range(1, len(words) + 1), words, strict=True))


YTVIS_2019 = _categories(
    "person, giant_panda, lizard, parrot, skateboard, sedan, ape, dog, snake, monkey, hand, rabbit, duck, cat, cow, "
    "fish, train, horse, turtle, bear, motorbike, giraffe, leopard, fox, deer, owl, surfboard, airplane, truck, zebra, "
    "tiger, elephant, snowboard, boat, shark, mouse, frog, eagle, earless_seal, tennis_racket"
)
YTVIS_2021 = _categories(
    "airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal, elephant, fish, flying_disc, fox, frog, "
    "giant_panda, giraffe, horse, leopard, lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark, "
    "skateboard, snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck, turtle, whale, zebra"
)
OVIS = _categories(
    "Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe, Poultry, Giant_panda, Lizard, Parrot, "
    "Monkey, Rabbit, Tiger, Fish, Turtle, Bicycle, Motorcycle, Airplane, Boat, Vehical"
)
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO = _categories(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush",
    [id for id in range(1, 91) if id not in _COCO_GAPS],
)

CATEGORY_MAPS = {
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
"""Pairs of equivalent category ids, by the names of two data sets: the ids of the first, and those of the second. The
first three mappings are the usual ones (SeqFormer and VITA, ECCV and NeurIPS 2022; MaskFreeVIS): in YouTube-VIS
bicycles are motorbikes, and skis are snowboards. Other pairs of data sets are mapped by category name."""
CATEGORY_MAPS["coco", "ytvis2022"] = CATEGORY_MAPS["coco", "ytvis2021"]


def category_map(
    name: str, categories: Sequence[Category], target_name: str, target: Sequence[Category]
) -> dict[int, int]:
    """Mapping of category ids from one data set to another: by `CATEGORY_MAPS`, or else by equal names."""
    if (name, target_name) in CATEGORY_MAPS:
        return CATEGORY_MAPS[name, target_name]
    ids = {plain(category.name): category.id for category in target}
    return {category.id: ids[plain(category.name)] for category in categories if plain(category.name) in ids}


def remap_categories(dataset: VideoDataset, categories: Sequence[Category], ids: dict[int, int]) -> VideoDataset:
    """The data set with the categories of another. Tracks whose category is not in `ids` are left out, and
    `VideoDataset.notes` gives their count.

    Raises:
        DataError: when no category of the data set is in `ids`.
    """
    if not ids:
        problem = f"none of its {len(dataset.categories)} classes is one of the {len(categories)} that are trained"
        remedy = "Put the data set first whose classes shall be learned, or rename classes"
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
    total, kept = (sum(len(video.tracks) for video in each) for each in (dataset.videos, videos))
    note = f"{dataset.path}: {len(ids)} of {len(dataset.categories)} classes are trained, {kept} of {total} objects"
    return replace(dataset, categories=tuple(categories), videos=videos, notes=(*dataset.notes, note))


def with_categories(dataset: VideoDataset, name: str, categories: tuple[Category, ...]) -> VideoDataset:
    """The data set with all categories of the published data set `name`. DataError if the file's categories contradict
    them.

    Other spellings of a name, such as Vehicle for Vehical, are noted.
    """
    published = {category.id: category for category in categories}
    differing = [
        category
        for category in dataset.categories
        if category.id not in published or plain(category.name) != plain(published[category.id].name)
    ]
    spelled = [
        category
        for category in differing
        if category.id in published and _alike(plain(category.name), plain(published[category.id].name))
    ]
    problems = [
        Problem(
            str(dataset.path),
            f"category {category.id}",
            f"is {category.name!r}, in {name} it is {published[category.id].name!r}"
            if category.id in published
            else f"{category.name!r} is not in {name}",
            f"Name another data set, or none: --data {dataset.path}",
        )
        for category in differing
        if category not in spelled
    ]
    if problems:
        raise DataError(problems)
    notes = tuple(
        f"{dataset.path}: category {each.id} is spelled {each.name!r}, in {name} {published[each.id].name!r}"
        for each in spelled
    )
    return replace(dataset, categories=categories, notes=(*dataset.notes, *notes))


def _alike(name: str, other: str) -> bool:
    """True if two names are spellings of the same word."""
    return difflib.SequenceMatcher(None, name, other).ratio() > 0.8


def plain(name: str) -> str:
    """A category name without differences of spelling: case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]", "", name).lower()
