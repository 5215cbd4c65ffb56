"""``mfvis data split``: a development split of a training file, to measure on without an evaluation server."""

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
from mfvis.types import Video, VideoDataset
from mfvis.writing import run_lock


@dataclass(frozen=True)
class SplitConfig:
    """Deal the videos of an annotation file out to train.json and val.json."""

    file: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="DATA",
            help="A YouTube-VIS JSON, or a data set by its name, NAME:FOLDER: then its training file. Names: "
            + ", ".join(name for name, info in DATASETS.items() if info.can_be_split),
        ),
    ]
    out: Path
    """Directory for train.json and val.json. The frames stay where they are."""
    share: float = 0.1
    """Part of the videos that goes to val.json."""
    seed: int = 0
    """Another number, another split."""
    frames: Path | None = None
    """The folder that file_names start from; default JPEGImages beside the JSON, else its folder."""

    def __post_init__(self) -> None:
        require(
            self, {"share": (0 < self.share < 1, "more than 0 and less than 1"), "seed": (self.seed >= 0, "0 or more")}
        )


def run(config: SplitConfig) -> tuple[Path, Path]:
    """Write the two files and return their paths.

    Everything a record holds, known or not, stays, but for the file names, which lead from where the new files seek
    them to where the frames lie.

    Raises:
        ConfigError: for pictures or Scalabel files, which are no YouTube-VIS JSON, for a target that is the source, or
            where every video has a class of its own.
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
    with run_lock(config.out):  # or the two files could be of two splits
        for path, wanted in zip(paths, (False, True), strict=True):
            part = _part(root, [video for video in dataset.videos if (video.id in chosen) == wanted], path)
            write_json(path, part, allow_nan=True)
            classes = len({annotation["category_id"] for annotation in part["annotations"]})
            print(f"{path}: {len(part['videos'])} videos, {len(part['annotations'])} tracks of {classes} classes")
    return paths


def val_videos(dataset: VideoDataset, share: float, seed: int) -> set[int]:
    """The ids of the videos that are held out: `share` of them, rounded, or one; fewer where a class would be lost.

    Every class keeps a video to be learned from; every class that has two, the rarest first, gets one to be measured
    on, as far as the number allows. The rest is drawn at random.
    """
    random = np.random.default_rng(seed)
    videos = [dataset.videos[place] for place in random.permutation(len(dataset.videos))]
    left = Counter(number for video in videos for number in _classes(video))
    wanted = min(max(1, round(share * len(videos))), len(videos) - 1)
    chosen: dict[int, Video] = {}

    def spare(video: Video) -> bool:
        return video.id not in chosen and all(left[number] > 1 for number in _classes(video))

    def choose(video: Video) -> None:
        chosen[video.id] = video
        left.subtract(_classes(video))

    for number, _ in sorted(left.items(), key=lambda item: (item[1], item[0])):
        covered = any(number in _classes(video) for video in chosen.values())
        candidates = [video for video in videos if number in _classes(video) and spare(video)]
        if not covered and candidates and len(chosen) < wanted:
            choose(candidates[0])
    for video in videos:
        if len(chosen) < wanted and spare(video):
            choose(video)
    return set(chosen)


def _classes(video: Video) -> set[int]:
    return {track.category_id for track in video.tracks}


def _part(root: dict[str, Any], videos: Sequence[Video], path: Path) -> dict[str, Any]:
    """The content of the file at `path` with some of the videos."""
    by_id = {video.id: video for video in videos}
    videos = [
        moved_record(entry, by_id[id], path) for entry in root["videos"] if (id := as_integer(entry["id"])) in by_id
    ]
    annotations = [entry for entry in root.get("annotations") or () if as_integer(entry["video_id"]) in by_id]
    return root | {"videos": videos, "annotations": annotations}
