"""``mfvis data split``: a development split of a training file, to evaluate without an evaluation server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mfvis.data.datasets import DATASETS, locate, parse_spec
from mfvis.data.jsonfile import as_integer, read_object, write_json
from mfvis.data.ytvis import moved_record
from mfvis.errors import ConfigError, require
from mfvis.text import counted
from mfvis.types import Video, VideoDataset
from mfvis.writing import run_lock


@dataclass(frozen=True)
class SplitConfig:
    """Split the videos of an annotation file into train.json and val.json."""

    file: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="DATA",
            help="A YouTube-VIS JSON, or a named data set, NAME:FOLDER, of which the training file is split. Names: "
            + ", ".join(name for name, info in DATASETS.items() if info.can_be_split),
        ),
    ]
    out: Path
    """Output folder for train.json and val.json. The frames stay in their folder."""
    share: float = 0.1
    """Fraction of the videos that goes to val.json."""
    seed: int = 0
    """Random seed."""
    frames: Path | None = None
    """Folder that file_names are relative to. Default: JPEGImages next to the JSON, else the JSON's folder."""

    def __post_init__(self) -> None:
        require(
            self, {"share": (0 < self.share < 1, "more than 0 and less than 1"), "seed": (self.seed >= 0, "0 or more")}
        )


def run(config: SplitConfig) -> tuple[Path, Path]:
    """Write the two files and return their paths.

    All fields of a record, known or not, are kept. Only the file names change: they are made relative to the frame
    folder of the new files.

    Raises:
        ConfigError: for images or Scalabel files, which are not YouTube-VIS JSON, for a target that is the source, or
            if every video has a class that no other video has.
        DataError: for any problem of the file.
    """
    spec = parse_spec(config.file)
    dataset = spec.load("train", config.frames) if spec.info.can_be_split else None
    if dataset is None or dataset.of_images:
        raise ConfigError(f"file is {config.file}: only data sets of YouTube-VIS' format can be split")
    json_path, _ = locate(spec, "train")
    root = read_object(json_path, [])
    paths = config.out / "train.json", config.out / "val.json"
    if json_path.resolve() in [path.resolve() for path in paths]:
        raise ConfigError(f"out is {config.out}, where {json_path} would be replaced; choose another directory")
    chosen = val_videos(dataset, config.share, config.seed)
    if not chosen:
        raise ConfigError(f"file {json_path}: no video can be held out, each has a class that no other video has")
    with run_lock(config.out):  # the two files could otherwise come from different splits
        for path, validation in zip(paths, (False, True), strict=True):
            part = _part(root, [video for video in dataset.videos if (video.id in chosen) == validation], path)
            write_json(path, part, allow_nan=True)
            classes = len({annotation["category_id"] for annotation in part["annotations"]})
            videos, tracks = counted(len(part["videos"]), "video"), counted(len(part["annotations"]), "track")
            print(f"{path}: {videos}, {tracks} of {counted(classes, 'class')}")
    return paths


def val_videos(dataset: VideoDataset, share: float, seed: int) -> set[int]:
    """Ids of the videos to hold out: the fraction `share`, rounded, but at least one; fewer if a class would be lost.

    Every class keeps a video for training. Every class with two or more videos gets one for validation, rarest first,
    as far as the number allows. The rest is drawn at random.
    """
    random = np.random.default_rng(seed)
    videos = [dataset.videos[i] for i in random.permutation(len(dataset.videos))]
    left = Counter(category_id for video in videos for category_id in _classes(video))
    target = min(max(1, round(share * len(videos))), len(videos) - 1)
    chosen: dict[int, Video] = {}

    def spare(video: Video) -> bool:
        return video.id not in chosen and all(left[category_id] > 1 for category_id in _classes(video))

    def choose(video: Video) -> None:
        chosen[video.id] = video
        left.subtract(_classes(video))

    for category_id, _ in sorted(left.items(), key=lambda item: (item[1], item[0])):
        covered = any(category_id in _classes(video) for video in chosen.values())
        candidates = [video for video in videos if category_id in _classes(video) and spare(video)]
        if not covered and candidates and len(chosen) < target:
            choose(candidates[0])
    for video in videos:
        if len(chosen) < target and spare(video):
            choose(video)
    return set(chosen)


def _classes(video: Video) -> set[int]:
    return {track.category_id for track in video.tracks}


def _part(root: dict[str, Any], videos: Sequence[Video], path: Path) -> dict[str, Any]:
    """Content of the file at `path` with some of the videos."""
    by_id = {video.id: video for video in videos}
    videos = [
        moved_record(entry, by_id[id], path) for entry in root["videos"] if (id := as_integer(entry["id"])) in by_id
    ]
    annotations = [entry for entry in root.get("annotations") or () if as_integer(entry["video_id"]) in by_id]
    return root | {"videos": videos, "annotations": annotations}
