"""A development split: every class can be learned and, where it can be, measured; the frames are still found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import publish
from mfvis.cli import main
from mfvis.data.split import SplitConfig, run, val_videos
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError
from mfvis.types import Category, Track, Video, VideoDataset


def films(classes: list[set[int]]) -> VideoDataset:
    box = np.array([[0, 0, 2, 2]], np.float32)
    videos = [
        Video(place, str(place), 4, 4, 1, Path("v.mp4"), tuple(Track(number, number, box) for number in sorted(of)))
        for place, of in enumerate(classes)
    ]
    return VideoDataset(Path("f.json"), tuple(Category(n, str(n)) for n in range(5)), tuple(videos))


@given(
    st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=25), st.floats(0.05, 0.6), st.integers(0, 99)
)
@settings(max_examples=150, deadline=None)
def test_no_class_is_lost_to_training(classes: list[set[int]], share: float, seed: int) -> None:
    dataset = films(classes)
    chosen = val_videos(dataset, share, seed)
    assert chosen == val_videos(dataset, share, seed), "the same seed, the same split"
    assert len(chosen) <= max(1, round(share * len(classes)))
    left = set().union(*(of for place, of in enumerate(classes) if place not in chosen))
    assert left == set().union(*classes)


def test_rare_classes_are_measured_first() -> None:
    dataset = films([{0}] * 16 + [{1}, {1}, {2}, {2}])
    for seed in range(10):
        held_out = set().union(
            *({track.category_id for track in dataset.videos[n].tracks} for n in val_videos(dataset, 0.1, seed))
        )
        assert held_out == {1, 2}
    assert val_videos(dataset, 0.2, 1) != val_videos(dataset, 0.2, 2)


def test_both_files_are_data_sets_with_their_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish("ovis", tmp_path / "ovis", videos=5)
    out = tmp_path / "elsewhere" / "split"
    assert main(["data", "split", f"ovis:{tmp_path / 'ovis'}", "--out", str(out), "--share", "0.2"]) == 0
    assert "val.json: 1 video" in capsys.readouterr().out
    train, val = (load_dataset(out / name) for name in ("train.json", "val.json"))
    whole = load_dataset(tmp_path / "ovis" / "annotations_train.json", tmp_path / "ovis" / "train")
    assert sorted(video.id for part in (train, val) for video in part.videos) == [v.id for v in whole.videos]
    for video in (*train.videos, *val.videos):
        (same,) = [other for other in whole.videos if other.id == video.id]
        assert video.name == same.name and len(video.tracks) == len(same.tracks)
        assert [path.resolve() for path in video.frames] == [path.resolve() for path in same.frames]
    kept = json.loads((out / "val.json").read_text())
    assert all("occlusion" in annotation for annotation in kept["annotations"])
    assert len(kept["categories"]) == 25


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("coco:somewhere", "out", "only data sets of YouTube-VIS' format"),
        ("train.json", ".", "would be replaced"),
        ("single.json", "out", "no video can be held out"),
    ],
)
def test_refused(
    source: str, out: str, message: str, demo_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(demo_data[0].read_text())
    (tmp_path / "train.json").write_text(json.dumps(content))
    content["videos"], content["annotations"] = content["videos"][:1], []
    (tmp_path / "single.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(SplitConfig(source, Path(out)))


def test_a_share_is_a_part() -> None:
    with pytest.raises(ConfigError, match="share is 1.5; expected more than 0 and less than 1"):
        SplitConfig("train.json", Path("out"), share=1.5)
