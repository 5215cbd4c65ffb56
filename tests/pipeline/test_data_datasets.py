"""Data sets by name: how they are written, where they are found, how their classes are joined."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from layouts import publish
from mfvis.data import datasets
from mfvis.data.categories import CATEGORY_MAPS, category_map, remap_categories
from mfvis.data.check import check_dataset
from mfvis.data.datasets import DATASETS, OWN_FILE, DatasetSpec, locate, parse_spec
from mfvis.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("train.json", DatasetSpec(Path("train.json"))),
        ("ytvis2021:/data/y", DatasetSpec(Path("/data/y"), "ytvis2021")),
        ("coco:c@0.25", DatasetSpec(Path("c"), "coco", share=0.25)),
        ("coco:c@.5,length=3", DatasetSpec(Path("c"), "coco", share=0.5, length=3)),
        ("a.json@share=2,supervision=masks", DatasetSpec(Path("a.json"), share=2.0, supervision="masks")),
        ("ovis:o@split=test", DatasetSpec(Path("o"), "ovis", split="test")),
        ("a.json@boxes=masks", DatasetSpec(Path("a.json"), boxes_from_masks=True)),
        ("ovis:/home/me@work/ovis", DatasetSpec(Path("/home/me@work/ovis"), "ovis")),
        ("ovis:/home/me@work/ovis@1", DatasetSpec(Path("/home/me@work/ovis"), "ovis", share=1.0)),
        ("./odd:name.json", DatasetSpec(Path("./odd:name.json"))),
    ],
)
def test_how_a_data_set_is_written(text: str, spec: DatasetSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ytvis2020:/data", "there is no data set 'ytvis2020', did you mean ytvis20"),
        ("cityscapes:/data", "there is no data set 'cityscapes'; there are ytvis2019"),
        ("coco:", "names no file or folder"),
        ("", "names no file or folder"),
        ("coco:c@share=0", "'share=0' is not an option"),
        ("coco:c@length=0", "'length=0' is not an option"),
        ("coco:c@lenght=3", "'lenght=3' is not an option"),
        ("coco:c@supervision=points", "expected share=NUMBER"),
        ("coco:c@0.5,share=0.5", "share is given twice"),
        ("coco:c@1.2.3", "'1.2.3' is not an option"),
    ],
)
def test_errors_in_how_it_is_written(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="data") as raised:
        parse_spec(text)
    assert message in str(raised.value)


def test_a_path_that_exists_is_that_path(tmp_path: Path) -> None:
    (odd := tmp_path / "coco:x@2").mkdir()
    assert parse_spec(str(odd)) == DatasetSpec(odd)


def test_what_is_done_with_each_data_set() -> None:
    """The table is the only place that says it: no other module compares names."""
    assert {name for name, info in DATASETS.items() if info.can_be_split} == {
        *("ytvis2019", "ytvis2021", "ytvis2022", "ovis")
    }
    assert {name for name, info in DATASETS.items() if info.evaluator == "tracking"} == {"bdd100k-mots"}
    assert all(info.num_videos > 0 and info.categories for info in DATASETS.values())
    assert DatasetSpec(Path("own.json")).info is OWN_FILE and not OWN_FILE.categories
    compared = re.compile(rf'(==|!=|\bin|\bcase) *[(\[{{]?"({"|".join(DATASETS)})"')
    assert compared.search('if name == "coco":') and compared.search('name in ("ovis", "coco")')
    sources = Path(datasets.__file__).parents[1].rglob("*.py")
    assert not [path for path in sources if compared.search(path.read_text())]


def test_class_lists_are_the_published_ones() -> None:
    assert {name: len(info.categories) for name, info in DATASETS.items()} == {
        **{"ytvis2019": 40, "ytvis2021": 40, "ytvis2022": 40, "ovis": 25, "coco": 80, "bdd100k-mots": 8}
    }
    named = {name: {c.id: c.name for c in info.categories} for name, info in DATASETS.items()}
    assert (named["coco"][1], named["coco"][13], named["coco"][90]) == ("person", "stop sign", "toothbrush")
    assert named["coco"][44] == "bottle" and named["coco"][67] == "dining table" and named["coco"][84] == "book"
    assert named["ytvis2019"][40] == "tennis_racket" and named["ytvis2021"][26] == "person"
    assert named["ovis"][25] == "Vehical"


def test_mapped_categories_mean_the_same() -> None:
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
    for (name, target), ids in CATEGORY_MAPS.items():
        here, there = ({c.id: c.name for c in DATASETS[n].categories} for n in (name, target))
        for number, other in ids.items():
            alike = here[number].replace(" ", "_").lower() == there[other].lower()
            assert alike or there[other] in meant[here[number]], (target, here[number], there[other])


def test_other_data_sets_are_joined_by_name() -> None:
    ovis, ytvis = DATASETS["ovis"].categories, DATASETS["ytvis2021"].categories
    ids = category_map("ovis", ovis, "ytvis2021", ytvis)
    assert ids[13] == 17, "Giant_panda"
    assert 12 not in ids, "Poultry has no counterpart"


@pytest.mark.parametrize("name", ["ytvis2019", "ovis", "coco"])
def test_train_and_valid_as_published(name: str, tmp_path: Path) -> None:
    answers = publish(name, tmp_path)
    train = DatasetSpec(tmp_path, name).load()
    assert train.categories == DATASETS[name].categories
    assert any(video.tracks for video in train.videos)
    assert all(file.is_file() for video in train.videos for file in video.frames)
    valid = DatasetSpec(tmp_path, name).load("valid")
    assert all(file.is_file() for video in valid.videos for file in video.frames)
    if name != "coco":
        assert not any(video.tracks for video in valid.videos)
        own = DatasetSpec(Path(answers), name, split="valid").load()
        assert own.videos[0].frames == valid.videos[0].frames, "a file of one's own finds the frames of its split"


def test_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no annotations; sought: .*train.json.*\n.*has no frames"):
        DatasetSpec(tmp_path, "ytvis2019").load()
    _, problems = check_dataset(DatasetSpec(tmp_path, "coco"))
    assert len(problems) == 2 and "instances_train2017.json" in problems[0].problem


def test_another_data_set_under_the_name(tmp_path: Path) -> None:
    publish("ytvis2019", tmp_path)
    with pytest.raises(DataError, match="category 1: is 'person', in ytvis2021 it is 'airplane'"):
        DatasetSpec(tmp_path, "ytvis2021").load()


def test_another_spelling_of_a_category_is_noted_and_another_category_refused(tmp_path: Path) -> None:
    publish("ovis", tmp_path)
    path = tmp_path / "annotations_train.json"
    path.write_text(path.read_text().replace('"Vehical"', '"Vehicle"').replace('"Giant_panda"', '"giant panda"'))
    dataset = DatasetSpec(tmp_path, "ovis").load()
    assert dataset.notes[-1] == f"{path}: category 25 is spelled 'Vehicle', in ovis 'Vehical'"
    assert dataset.categories == DATASETS["ovis"].categories
    path.write_text(path.read_text().replace('"Dog"', '"Fox"'))
    with pytest.raises(DataError, match="category 4: is .Fox., in ovis it is .Dog."):
        DatasetSpec(tmp_path, "ovis").load()


def test_problems_without_a_remedy_are_noted(tmp_path: Path) -> None:
    publish("ytvis2019", tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    first, second = (next(a for a in content["annotations"] if a["video_id"] == v["id"]) for v in content["videos"])
    first["bboxes"][0], second["bboxes"][0] = [3, 4, 0, 5], [-20, 4, 30, 5]
    (tmp_path / "train.json").write_text(json.dumps(content))
    dataset = DatasetSpec(tmp_path, "ytvis2019").load()
    assert [note.split(": ")[1] for note in dataset.notes] == [
        "boxes without size, taken as absent (1)",
        "boxes that reached outside their image, clipped to it (1)",
    ]
    by_file = DatasetSpec(tmp_path / "train.json").load()
    assert by_file.notes == dataset.notes
    assert [video.frames for video in by_file.videos] == [video.frames for video in dataset.videos]


def test_remapped_tracks(tmp_path: Path) -> None:
    publish("coco", tmp_path)
    dataset = DatasetSpec(tmp_path, "coco").load()
    person, *_ = DATASETS["ytvis2019"].categories
    kept = remap_categories(dataset, DATASETS["ytvis2019"].categories, {1: person.id})
    before = sum(track.category_id == 1 for video in dataset.videos for track in video.tracks)
    assert sum(len(video.tracks) for video in kept.videos) == before
    assert "1 of 80 classes" in kept.notes[-1]
    with pytest.raises(DataError, match="none of its 80 classes is one of the 25 that are trained"):
        remap_categories(dataset, DATASETS["ovis"].categories, {})


def test_a_file_is_located_with_the_frames_of_the_named_split(tmp_path: Path) -> None:
    publish("coco", tmp_path)
    _, frames = locate(DatasetSpec(tmp_path / "annotations" / "instances_val2017.json", "coco"), "train")
    assert frames == tmp_path / "val2017"


def test_boxes_of_masks_on_request(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    content = json.loads(demo_data[0].read_text())
    for annotation in content["annotations"]:
        del annotation["bboxes"]
    (path := tmp_path / "masks.json").write_text(json.dumps(content))
    frames = demo_data[0].parent / "JPEGImages"
    with pytest.raises(DataError, match="FILE@boxes=masks"):
        parse_spec(str(path)).load(frames_dir=frames)
    whole, made = DatasetSpec(demo_data[0]).load(), parse_spec(f"{path}@boxes=masks").load(frames_dir=frames)
    for video, other in zip(whole.videos, made.videos, strict=True):
        assert [t.boxes_T4.tolist() for t in video.tracks] == [t.boxes_T4.tolist() for t in other.tracks]
