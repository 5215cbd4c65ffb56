"""Data sets by name: how they are written, where they are found, how their classes are joined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import publish
from mfvis.data.check import check_source
from mfvis.data.datasets import (
    COUNTERPARTS,
    LAYOUTS,
    Source,
    counterparts,
    files_of,
    load_source,
    parse_source,
    translated,
)
from mfvis.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("train.json", Source(Path("train.json"))),
        ("ytvis2021:/data/y", Source(Path("/data/y"), "ytvis2021")),
        ("coco:c@0.25", Source(Path("c"), "coco", share=0.25)),
        ("coco:c@.5,length=3", Source(Path("c"), "coco", share=0.5, length=3)),
        ("a.json@share=2,supervision=masks", Source(Path("a.json"), share=2.0, supervision="masks")),
        ("ovis:o@split=test", Source(Path("o"), "ovis", split="test")),
        ("a.json@boxes=masks", Source(Path("a.json"), boxes_from_masks=True)),
        ("ovis:/home/me@work/ovis", Source(Path("/home/me@work/ovis"), "ovis")),
        ("ovis:/home/me@work/ovis@1", Source(Path("/home/me@work/ovis"), "ovis", share=1.0)),
        ("./odd:name.json", Source(Path("./odd:name.json"))),
    ],
)
def test_how_a_data_set_is_written(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ytvis2020:/data", "there is no data set 'ytvis2020', did you mean ytvis20"),
        ("cityscapes:/data", "there is no data set 'cityscapes'; there are ytvis2019"),
        ("coco:", "names no file or folder"),
        ("", "names no file or folder"),
        ("coco:c@share=0", "'share=0' is no option"),
        ("coco:c@length=0", "'length=0' is no option"),
        ("coco:c@lenght=3", "'lenght=3' is no option"),
        ("coco:c@supervision=points", "expected share=NUMBER"),
        ("coco:c@0.5,share=0.5", "share is given twice"),
        ("coco:c@1.2.3", "'1.2.3' is no option"),
    ],
)
def test_errors_in_how_it_is_written(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="data") as raised:
        parse_source(text)
    assert message in str(raised.value)


def test_a_path_that_exists_is_that_path(tmp_path: Path) -> None:
    (odd := tmp_path / "coco:x@2").mkdir()
    assert parse_source(str(odd)) == Source(odd)


def test_class_lists_are_the_published_ones() -> None:
    assert {name: len(layout.classes) for name, layout in LAYOUTS.items()} == {
        **{"ytvis2019": 40, "ytvis2021": 40, "ytvis2022": 40, "ovis": 25, "coco": 80, "bdd100k-mots": 8}
    }
    named = {name: {c.id: c.name for c in layout.classes} for name, layout in LAYOUTS.items()}
    assert (named["coco"][1], named["coco"][13], named["coco"][90]) == ("person", "stop sign", "toothbrush")
    assert named["coco"][44] == "bottle" and named["coco"][67] == "dining table" and named["coco"][84] == "book"
    assert named["ytvis2019"][40] == "tennis_racket" and named["ytvis2021"][26] == "person"
    assert named["ovis"][25] == "Vehical"


def test_counterparts_mean_the_same() -> None:
    meant = {
        "bicycle": {"motorbike", "Bicycle"},
        "motorcycle": {"motorbike"},
        "car": {"sedan", "Vehical"},
        "bus": {"Vehical"},
        "truck": {"Vehical"},
        "frisbee": {"flying_disc"},
        "skis": {"snowboard"},
        "person": {"pedestrian"},
    }
    for (name, target), ids in COUNTERPARTS.items():
        here, there = ({c.id: c.name for c in LAYOUTS[n].classes} for n in (name, target))
        for number, other in ids.items():
            alike = here[number].replace(" ", "_").lower() == there[other].lower()
            assert alike or there[other] in meant[here[number]], (target, here[number], there[other])


def test_other_data_sets_are_joined_by_name() -> None:
    ovis, ytvis = LAYOUTS["ovis"].classes, LAYOUTS["ytvis2021"].classes
    ids = counterparts("ovis", ovis, "ytvis2021", ytvis)
    assert ids[13] == 17, "Giant_panda"
    assert 12 not in ids, "Poultry has no counterpart"


@pytest.mark.parametrize("name", ["ytvis2019", "ovis", "coco"])
def test_train_and_valid_as_published(name: str, tmp_path: Path) -> None:
    answers = publish(name, tmp_path)
    train = load_source(Source(tmp_path, name))
    assert train.categories == LAYOUTS[name].classes
    assert any(video.tracks for video in train.videos)
    assert all(file.is_file() for video in train.videos for file in video.frames)
    valid = load_source(Source(tmp_path, name), "valid")
    assert all(file.is_file() for video in valid.videos for file in video.frames)
    if name != "coco":
        assert not any(video.tracks for video in valid.videos)
        own = load_source(Source(Path(answers), name, split="valid"))
        assert own.videos[0].frames == valid.videos[0].frames, "a file of one's own finds the frames of its split"


def test_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no annotations; sought: .*train.json.*\n.*has no frames"):
        load_source(Source(tmp_path, "ytvis2019"))
    _, problems = check_source(Source(tmp_path, "coco"))
    assert len(problems) == 2 and "instances_train2017.json" in problems[0].problem


def test_another_data_set_under_the_name(tmp_path: Path) -> None:
    publish("ytvis2019", tmp_path)
    with pytest.raises(DataError, match="category 1: is 'person', in ytvis2021 it is 'airplane'"):
        load_source(Source(tmp_path, "ytvis2021"))


def test_what_nobody_can_mend_is_noted(tmp_path: Path) -> None:
    publish("ytvis2019", tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    first, second = (next(a for a in content["annotations"] if a["video_id"] == v["id"]) for v in content["videos"])
    first["bboxes"][0], second["bboxes"][0] = [3, 4, 0, 5], [-20, 4, 30, 5]
    (tmp_path / "train.json").write_text(json.dumps(content))
    dataset = load_source(Source(tmp_path, "ytvis2019"))
    assert [note.split(": ")[1] for note in dataset.notes] == [
        "1 boxes without size, taken as absent",
        "1 boxes that reached outside their picture, clipped to it",
    ]
    by_file = load_source(Source(tmp_path / "train.json"))
    assert by_file.notes == dataset.notes
    assert [video.frames for video in by_file.videos] == [video.frames for video in dataset.videos]


def test_translated_tracks(tmp_path: Path) -> None:
    publish("coco", tmp_path)
    dataset = load_source(Source(tmp_path, "coco"))
    person, *_ = LAYOUTS["ytvis2019"].classes
    kept = translated(dataset, LAYOUTS["ytvis2019"].classes, {1: person.id})
    before = sum(track.category_id == 1 for video in dataset.videos for track in video.tracks)
    assert sum(len(video.tracks) for video in kept.videos) == before
    assert "1 of 80 classes" in kept.notes[-1]
    with pytest.raises(DataError, match="none of its 80 classes is one of the 25 that are trained"):
        translated(dataset, LAYOUTS["ovis"].classes, {})


def test_files_of_prefers_the_frames_of_the_named_split(tmp_path: Path) -> None:
    publish("coco", tmp_path)
    _, frames = files_of(Source(tmp_path / "annotations" / "instances_val2017.json", "coco"), "train")
    assert frames == tmp_path / "val2017"


def test_boxes_of_masks_on_request(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    content = json.loads(demo_data[0].read_text())
    for annotation in content["annotations"]:
        del annotation["bboxes"]
    (path := tmp_path / "masks.json").write_text(json.dumps(content))
    frames = demo_data[0].parent / "JPEGImages"
    with pytest.raises(DataError, match="FILE@boxes=masks"):
        load_source(parse_source(str(path)), frames_dir=frames)
    whole, made = load_source(Source(demo_data[0])), load_source(parse_source(f"{path}@boxes=masks"), frames_dir=frames)
    for video, other in zip(whole.videos, made.videos, strict=True):
        assert [t.boxes_T4.tolist() for t in video.tracks] == [t.boxes_T4.tolist() for t in other.tracks]
