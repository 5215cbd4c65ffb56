"""Several JSONs as one: ids and categories are remapped, and what collides is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from import_helpers import write, write_images
from mfvis.cli import main
from mfvis.data.ytvis import load_dataset


def annotations(folder: Path, name: str, categories: dict[int, str], ids: tuple[int, int] = (1, 1)) -> Path:
    """A JSON of one video with one track of the last of the categories, next to its frames."""
    video_id, annotation_id = ids
    if not (folder / name).exists():
        write_images(folder / name, length=1)
    video = {"id": video_id, "name": name, "width": 80, "height": 60, "file_names": [f"{name}/000001.jpg"], "mine": 5}
    track = {"id": annotation_id, "video_id": video_id, "category_id": [*categories][-1], "bboxes": [[1, 2, 3, 4]]}
    names = [{"id": id, "name": category} for id, category in categories.items()]
    content = {"info": {"by": "me"}, "videos": [video], "annotations": [track | {"note": "x"}], "categories": names}
    return write(folder / f"{name}.json", content)


def joined(out: Path, *files: Path) -> dict[str, Any]:
    assert main(["data", "join", *map(str, files), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_files_are_joined_and_frames_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = annotations(tmp_path / "a", "one", {1: "dog", 2: "cat"})
    second = annotations(tmp_path / "b", "two", {1: "cat", 2: "cow"})
    out = tmp_path / "c" / "all.json"
    root = joined(out, first, second)
    assert [(c["id"], c["name"]) for c in root["categories"]] == [(1, "dog"), (2, "cat"), (3, "cow")]
    assert [(a["id"], a["video_id"], a["category_id"], a["note"]) for a in root["annotations"]] == [
        (1, 1, 2, "x"),
        (2, 2, 3, "x"),
    ]
    assert root["info"] == {"by": "me"} and [video["mine"] for video in root["videos"]] == [5, 5]
    videos = load_dataset(out).videos
    assert all(video.frames[0].is_file() for video in videos) and [v.name for v in videos] == ["one", "two"]
    printed = capsys.readouterr().out
    assert "2 videos, 2 tracks, 3 categories of 2 files" in printed
    assert f"category 'cat' of {second} has id 2, not 1" in printed
    assert "videos have ids of another file's (1), so that all 2 videos were numbered from 1" in printed


def test_unique_ids_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = annotations(tmp_path, "one", {7: "dog"}, (3, 40))
    second = annotations(tmp_path, "two", {7: "dog"}, (9, 50))
    root = joined(tmp_path / "all.json", first, second)
    assert [(a["id"], a["video_id"], a["category_id"]) for a in root["annotations"]] == [(40, 3, 7), (50, 9, 7)]
    assert "note" not in capsys.readouterr().out


def test_results_of_shards_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [{"video_id": i, "category_id": 1, "score": 0.5, "segmentations": [None]} for i in (1, 2)]
    files = [write(tmp_path / f"{i}.json", [result]) for i, result in enumerate(results)]
    assert joined(tmp_path / "all.json", *files) == results
    again = write(tmp_path / "2.json", results[:1])
    assert main(["data", "join", *map(str, [*files, again]), "--out", str(tmp_path / "x.json")]) == 2
    assert f"{again}: video 1: has results in {files[0]}, too" in capsys.readouterr().err


def test_collisions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*files: Path, out: Path = tmp_path / "all.json") -> str:
        assert main(["data", "join", *map(str, files), "--out", str(out)]) == 2
        assert not (tmp_path / "all.json").exists()
        return capsys.readouterr().err

    first = annotations(tmp_path, "one", {1: "dog"})
    same = write(tmp_path / "same.json", first.read_bytes())
    assert f"{same}: video 1: has the frames of a video of {first}" in error_of(first, same)
    assert "which is one of the files to join" in error_of(first, same, out=first)
    assert "twice; name each file once" in error_of(first, first)
    images = write(tmp_path / "coco.json", {"images": [], "annotations": [], "categories": []})
    broken = write(tmp_path / "broken.json", {"videos": [{"id": 1}]})
    error = error_of(first, images, broken)
    assert "is COCO, with images and no videos" in error and "has no 'width'" in error
    assert "top level: is a number" in error_of(first, write(tmp_path / "number.json", 5))
    results = write(tmp_path / "results.json", [])
    assert "files are of two kinds" in error_of(first, results)
