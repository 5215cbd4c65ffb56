"""``mfvis data join``: several annotation files, or several results files, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mfvis.data import coco
from mfvis.data.jsonfile import as_integer, kind_of, read_json, write_json
from mfvis.data.ytvis import moved_record, parse_ytvis
from mfvis.errors import ConfigError, DataError, Problem, require
from mfvis.text import counted, shortened
from mfvis.types import Video, VideoDataset


@dataclass(frozen=True)
class JoinConfig:
    """Join YouTube-VIS JSONs, such as the imports of single videos, or results.json of parts of a data set."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files to join: all annotations, or all results."""
    out: Path
    """JSON to write. Frames stay where they are."""

    def __post_init__(self) -> None:
        require(self, {"files": (len(self.files) > 0, "one or more JSON files")})


def run(config: JoinConfig) -> None:
    """Join, write, and print a summary.

    Categories are joined by name. Ids of categories, videos and annotations are kept if they are unique in all files;
    otherwise they are changed, with a note. All fields of a record, known or not, are kept.

    Raises:
        ConfigError: `out` is one of the files, or files of both kinds are given.
        DataError: with every problem of the files, and every video that is in two of them.
    """
    paths = [path.resolve() for path in config.files]
    if config.out.resolve() in paths:
        raise ConfigError(f"out is {config.out}, which is one of the files to join; name another")
    if repeated := [str(path) for path, count in Counter(paths).items() if count > 1]:
        raise ConfigError(f"files has {', '.join(repeated)} twice; name each file once")
    problems: list[Problem] = []
    roots = [read_json(path, problems) for path in config.files]
    if problems:
        raise DataError(problems)
    if all(isinstance(root, list) for root in roots):
        joined_results = _join_results(config.files, roots)
        write_json(config.out, joined_results, allow_nan=True)
        print(f"{config.out}: {counted(len(joined_results), 'result')} of {counted(len(config.files), 'file')}")
        return
    if any(isinstance(root, list) for root in roots):
        kinds = ", ".join(f"{file}: {kind_of(root)}" for file, root in zip(config.files, roots, strict=True))
        raise ConfigError(f"files are of two kinds ({kinds}); join annotations and results separately")
    joined, notes = join_annotations(config.files, roots, config.out)
    write_json(config.out, joined, allow_nan=True)
    nouns = {"videos": "video", "annotations": "track", "categories": "category"}
    counts = ", ".join(counted(len(joined[key]), noun) for key, noun in nouns.items())
    print(f"{config.out}: {counts} of {counted(len(config.files), 'file')}")
    for note in notes:
        print(f"note: {note}")


def join_annotations(
    files: Sequence[Path], roots: Sequence[dict[str, Any]], out: Path
) -> tuple[dict[str, Any], list[str]]:
    """Content of a YouTube-VIS JSON at `out` with the videos of all files, and notes on changed ids.

    Args:
        files: paths of the files.
        roots: their contents.
        out: path of the joined file.

    Raises:
        DataError: with every problem of the files, and every video that is in two of them.
    """
    problems: list[Problem] = []
    datasets: list[VideoDataset] = []
    for file, root in zip(files, roots, strict=True):
        if not isinstance(root, dict):
            problems.append(Problem(str(file), "top level", f"is {kind_of(root)}", "Give annotations or results"))
            continue
        if coco.is_coco(root):
            problem, remedy = (
                "is COCO, with images and no videos",
                "Join YouTube-VIS JSONs; mfvis data import makes them",
            )
            problems.append(Problem(str(file), "file", problem, remedy))
            continue
        dataset, found = parse_ytvis(file, boxes_from_masks=True, root=root)
        datasets.append(dataset)
        problems += found
    if not problems:
        problems = _repeated_videos(files, datasets)
    if problems:
        raise DataError(problems)
    category_ids, categories, notes = _joined_categories(files, roots)
    video_ids = _joined_ids(roots, "videos", notes)
    annotation_ids = _joined_ids(roots, "annotations", notes)
    videos, annotations = [], []
    for i, (root, dataset) in enumerate(zip(roots, datasets, strict=True)):
        by_id = {video.id: video for video in dataset.videos}
        for entry in root["videos"]:
            id = as_integer(entry["id"])
            videos.append(moved_record(entry, by_id[id], out) | {"id": video_ids[i, id]})
        for entry in root.get("annotations") or ():
            ids = {
                "id": annotation_ids[i, as_integer(entry["id"])],
                "video_id": video_ids[i, as_integer(entry["video_id"])],
                "category_id": category_ids[i, as_integer(entry["category_id"])],
            }
            annotations.append(entry | ids)
    names = Counter(video["name"] for video in videos)
    if twice := [name for name, count in names.items() if count > 1]:
        notes.append(
            f"videos of different frames have one name, such as {shortened(twice[0])}; their ids distinguish them"
        )
    return roots[0] | {"videos": videos, "annotations": annotations, "categories": categories}, notes


def _repeated_videos(files: Sequence[Path], datasets: Sequence[VideoDataset]) -> list[Problem]:
    """A problem for each video whose frames are those of a video of an earlier file."""
    owners: dict[Path, Path] = {}
    problems = []
    for file, dataset in zip(files, datasets, strict=True):
        for video in dataset.videos:
            first = _first_file(video).resolve()
            if first in owners:
                problem = f"has the frames of a video of {owners[first]} ({first})"
                problems.append(Problem(str(file), f"video {video.id}", problem, "Remove it from one of the two files"))
        owners |= {_first_file(video).resolve(): file for video in dataset.videos}
    return problems


def _first_file(video: Video) -> Path:
    return video.frames[0] if isinstance(video.frames, tuple) else video.frames


def _joined_categories(
    files: Sequence[Path], roots: Sequence[dict[str, Any]]
) -> tuple[dict[tuple[int, int], int], list[dict[str, Any]], list[str]]:
    """New id of each category by file and old id; the records; notes.

    A name keeps the id of the first file that has it, unless another name has that id.
    """
    ids: dict[tuple[int, int], int] = {}
    by_name: dict[str, dict[str, Any]] = {}
    changed = []
    for i, root in enumerate(roots):
        for entry in root.get("categories") or ():
            id = as_integer(entry["id"])
            name = str(entry.get("name") or id)
            if name not in by_name:
                taken = {record["id"] for record in by_name.values()}
                by_name[name] = entry | {"id": id if id not in taken else max(taken) + 1}
            ids[i, id] = by_name[name]["id"]
            if ids[i, id] != id:
                changed.append(f"category {shortened(name)} of {files[i]} has id {ids[i, id]}, not {id}")
    notes = changed[:10] + [f"{len(changed) - 10} more categories have other ids"] * (len(changed) > 10)
    return ids, sorted(by_name.values(), key=lambda record: record["id"]), notes


def _joined_ids(roots: Sequence[dict[str, Any]], key: str, notes: list[str]) -> dict[tuple[int, int], int]:
    """New id of each record of a list by file and old id: the old ids if all are unique, else 1, 2, ..."""
    old = [(i, as_integer(entry["id"])) for i, root in enumerate(roots) for entry in root.get(key) or ()]
    counts = Counter(id for _, id in old)
    repeated = sum(count - 1 for count in counts.values())
    if not repeated:
        return {pair: pair[1] for pair in old}
    notes.append(f"{key} have ids of another file's ({repeated}), so that all {len(old)} {key} were numbered from 1")
    return {pair: n for n, pair in enumerate(old, 1)}


def _join_results(files: Sequence[Path], roots: Sequence[list[Any]]) -> list[Any]:
    """Results of all files. DataError if two have results of one video."""
    owners: dict[Any, Path] = {}
    problems = []
    for file, root in zip(files, roots, strict=True):
        ids = {as_integer(entry.get("video_id", entry.get("image_id"))) for entry in root if isinstance(entry, dict)}
        problems += [
            Problem(str(file), f"video {id}", f"has results in {owners[id]}, too", "Join results of different videos")
            for id in sorted(ids & owners.keys(), key=str)
        ]
        owners |= dict.fromkeys(ids, file)
    if problems:
        raise DataError(problems)
    return [entry for root in roots for entry in root]
