"""Damaged files: every reader says what is wrong, or has read what the file now says. Never a crash, never for ever.

Each reader gets 500 files: a valid one cut off, shuffled, with bytes changed, or with values replaced by hostile ones.
What it reads is compared with a second, tiny reading of the same bytes that shares no code with it.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import independent_parsers as tiny
import numpy as np
import pytest
import valid_files as valid
from corruptions import bytes_changed, json_changed, png_changed, shuffled, truncated, words_changed
from independent_parsers import HEIGHT, LENGTH, WIDTH, Tracks
from mfvis.data.bdd100k import CATEGORIES, FOLDERS, load_bdd100k
from mfvis.data.bitmask import read_bitmask
from mfvis.data.coco import load_coco
from mfvis.data.importers import import_tracks
from mfvis.data.masks import compress_masks
from mfvis.data.results import masks_of, parse_results
from mfvis.data.rle import decode_mask
from mfvis.data.scalabel import read_scalabel
from mfvis.data.ytvis import load_dataset
from mfvis.errors import DataError, MfvisError
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
CASES = 500
SECONDS = 10.0
"""For one file of some kilobytes, on a busy machine; most take some milliseconds."""


def imported(path: Path) -> Tracks:
    written = path.with_name("out.json")
    root, _ = import_tracks(path, path.parent.parent / "frames", written)
    names = {category["id"]: category["name"] for category in root["categories"]}
    assert all(len(annotation["bboxes"]) == root["videos"][0]["length"] for annotation in root["annotations"])
    # What is imported is a data set that the reader takes.
    written.write_text(json.dumps(root))
    load_dataset(written)
    tracks = []
    for annotation in root["annotations"]:
        seen = ((t, box) for t, box in enumerate(annotation["bboxes"]) if box)
        tracks.append((names[annotation["category_id"]], {t: (x, y, x + w, y + h) for t, (x, y, w, h) in seen}))
    return tracks


def dataset_of(dataset: Any) -> Any:
    tracks = {}
    for video in dataset.videos:
        for track in video.tracks:
            boxes = [tuple(box) if any(box) else None for box in track.boxes_T4.tolist()]
            tracks[track.id] = (video.id, track.category_id, bool(track.iscrowd), boxes)
    names = {category.id: category.name for category in dataset.categories}
    return names, {video.id: (video.width, video.height, video.length) for video in dataset.videos}, tracks


def read_labels(path: Path) -> list[Any]:
    read = []
    for frame in read_scalabel(path):
        labels = [(b.id, b.category, b.box, b.crowd, b.ignored, b.segmentation) for b in frame.labels]
        read.append((frame.name, frame.video, frame.index, labels))
    return read


def read_published(path: Path) -> Tracks:
    videos = load_bdd100k(path.parents[2], "train", "boxes").videos
    read = []
    for track in (track for video in videos for track in video.tracks):
        seen = {t: tuple(box) for t, box in enumerate(track.boxes_T4.tolist()) if any(box)}
        read.append((CATEGORIES[track.category_id - 1].name, seen))
    return read


def read_results(path: Path) -> Any:
    dataset = load_dataset(path.with_name("truth.json"))
    content = parse_results(path, dataset)
    problems = list(content.problems)
    rles = iter(compress_masks(masks_of(dataset, content.results), file=str(path), problems=problems).rles)
    if problems or not content.results:
        raise DataError(problems)
    read = []
    for result in content.results:
        masks = [decode_mask(next(rles), HEIGHT, WIDTH).tobytes() for _ in result.segmentations]
        read.append((result.video_id, result.category_id, result.score, masks))
    return read


def read_mots(path: Path) -> Any:
    videos = read_scalabel_tracks(path, path.with_name("truth-mots.json")).videos
    read = []
    for frame in videos[0]:
        true = list(zip(frame.true_ids_G.tolist(), frame.true_labels_G.tolist(), strict=True))
        found = list(zip(frame.predicted_ids_P.tolist(), frame.predicted_labels_P.tolist(), strict=True))
        read.append((true, found, frame.iou_GP.tolist()))
    return read


@dataclass(frozen=True)
class Target:
    """A reader, what it should say, and a valid file to damage."""

    file: str
    valid: Callable[[], bytes]
    read: Callable[[Path], Any]
    said: Callable[[bytes], Any]
    structure: Callable[[bytes, random.Random], bytes]


TARGETS = {
    "motchallenge": Target("in/gt.txt", valid.mot, imported, tiny.mot, words_changed),
    "csv": Target("in/a.csv", valid.csv_table, imported, tiny.csv_table, words_changed),
    "coco-vid": Target("in/h.json", valid.coco_video, imported, tiny.coco_video, json_changed),
    "kitti": Target("in/0000.txt", valid.kitti, imported, tiny.kitti, words_changed),
    "cvat": Target("in/a.xml", valid.cvat, imported, tiny.cvat, words_changed),
    "label-studio": Target("in/a.json", valid.label_studio, imported, tiny.label_studio, json_changed),
    "scalabel import": Target("in/b.json", valid.scalabel, imported, tiny.scalabel_tracks, json_changed),
    "scalabel": Target("in/c.json", valid.scalabel, read_labels, tiny.scalabel, json_changed),
    "bdd100k": Target(
        f"{FOLDERS['boxes']}/box_track_train.json", valid.scalabel, read_published, tiny.bdd100k, json_changed
    ),
    "ytvis": Target("in/d.json", valid.ytvis, lambda path: dataset_of(load_dataset(path)), tiny.ytvis, json_changed),
    "results": Target("in/e.json", valid.results, read_results, tiny.results, json_changed),
    "mots results": Target(
        "in/g.json", valid.mots, read_mots, lambda content: tiny.mots(content, valid.mots()), json_changed
    ),
    "coco": Target(
        "in/f.json", valid.coco, lambda path: dataset_of(load_coco(path, path.parent)), tiny.coco, json_changed
    ),
}


@contextmanager
def in_time(what: str) -> Iterator[None]:
    def late(*_: Any) -> None:
        pytest.fail(f"{what}: still reading after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def same(read: Any, said: Any) -> bool:
    """Equal, numbers to the precision of float32."""
    if isinstance(read, float) or isinstance(said, float):
        return bool(abs(read - said) <= 1e-4 + 1e-6 * abs(said))
    if isinstance(read, list | tuple) and isinstance(said, list | tuple):
        return len(read) == len(said) and all(map(same, read, said))
    if isinstance(read, dict) and isinstance(said, dict):
        return read.keys() == said.keys() and all(same(read[key], said[key]) for key in read)
    return bool(read == said)


def fuzz(name: str, path: Path, target: Target) -> None:
    content = target.valid()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert same(target.read(path), target.said(content)), "the two readings of the valid file differ"
    outcomes = {"read": 0, "refused": 0}
    ways = [truncated, shuffled, bytes_changed, target.structure, target.structure]
    for case in range(CASES):
        chance = random.Random(f"{name} {case}")
        damaged = ways[case % len(ways)](content, chance)
        path.write_bytes(damaged)
        with in_time(f"{name}, case {case}"):
            try:
                read = target.read(path)
            except MfvisError as error:
                assert path.name in str(error) and str(error).encode(), f"case {case}: {error!r}"
                outcomes["refused"] += 1
                continue
            except Exception as error:
                raise AssertionError(f"case {case} crashes the reader: {damaged!r}") from error
        assert same(read, target.said(damaged)), f"case {case} is read wrongly: {damaged!r}"
        outcomes["read"] += 1
    # Both must happen, or the damage is too crude, or too slight, to tell anything.
    assert outcomes["refused"] > CASES // 4 and outcomes["read"] > CASES // 50, outcomes


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """The other files that the readers look for: frames, a folder of images, the truth of results."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "in").mkdir()
    for t in range(LENGTH):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "frames" / f"{t + 1:06d}.jpg")
    (tmp_path / "in" / "truth.json").write_bytes(valid.ytvis())
    (tmp_path / "in" / "truth-mots.json").write_bytes(valid.mots())
    return tmp_path


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, ground: Path) -> None:
    fuzz(name, ground / TARGETS[name].file, TARGETS[name])


def test_damaged_bitmasks(ground: Path) -> None:
    def read(path: Path) -> Any:
        return [(channel_HW.shape, channel_HW.astype(np.uint16).tobytes()) for channel_HW in read_bitmask(path)]

    fuzz("bitmask", ground / "a.png", Target("a.png", lambda: valid.bitmask(ground), read, tiny.bitmask, png_changed))
