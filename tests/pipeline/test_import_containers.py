"""Archives and folders, and files of other kinds, which are recognized by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from import_helpers import MOT, imported, notes_of, problems_of, tracks_of, write, write_images
from mfvis.data.importers import containers

TRACK = (
    '<track id="4" label="car"><box frame="0" keyframe="1" outside="0" xtl="1" ytl="2" xbr="9" ybr="11"/>'
    '<box frame="1" keyframe="1" outside="1" xtl="1" ytl="2" xbr="9" ybr="11"/></track>'
)
CVAT = f"<annotations><meta><task><size>6</size></task></meta>{TRACK}</annotations>"
NONE = [None] * 5


def zipped(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archives(tmp_path: Path, six_images: Path) -> None:
    file = zipped(tmp_path / "walk.zip", **{"annotations.xml": CVAT, "images/frame_000000.PNG": b"no image"})
    root = imported(file, six_images)
    assert tracks_of(root) == [("car", [[1, 2, 8, 9], *NONE])]
    mot = {"gt/gt.txt": "1,1,10,20,30,40,1,2,1.0\n", "gt/labels.txt": "cat\ndog\n", "img1/000001.jpg": b""}
    root = imported(zipped(tmp_path / "task.zip", **mot), six_images)
    assert tracks_of(root) == [("dog", [[10, 20, 30, 40], *NONE])] and root["videos"][0]["name"] == "task"
    yolo = {"data.yaml": "names: {1: dog}", "labels/train/frame_000000.txt": "1 0.5 0.5 0.25 0.5 7\n", "train.txt": "x"}
    root = imported(zipped(tmp_path / "yolo.zip", **yolo), six_images)
    assert tracks_of(root) == [("dog", [[30, 15, 20, 30], *NONE])]
    broken = zipped(tmp_path / "broken.zip", **{"a/gt/gt.txt": "1,1,1\n"})
    assert f"{broken}/a/gt/gt.txt: line 1: '1,1,1' is not 6 to 11" in problems_of(
        broken, six_images, format="motchallenge"
    )
    assert "has no file of box tracks in it" in problems_of(zipped(tmp_path / "no.zip", a=b""), six_images)


def test_hostile_archives(tmp_path: Path, six_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = zipped(tmp_path / "a.zip", **{"../../annotations.xml": CVAT, "gt/gt.txt": MOT})
    before = sorted(tmp_path.parent.rglob("annotations.xml"))
    assert len(imported(file, six_images)["annotations"]) in (1, 2)
    assert sorted(tmp_path.parent.rglob("annotations.xml")) == before
    monkeypatch.setattr(containers, "MAX_BYTES", 100)
    assert "GiB of annotations. Unpack it" in problems_of(file, six_images)
    damaged = bytearray(zipped(tmp_path / "b.zip", **{"annotations.xml": CVAT}).read_bytes())
    damaged[60] ^= 255
    monkeypatch.undo()
    assert "cannot be unpacked" in problems_of(write(tmp_path / "b.zip", bytes(damaged)), six_images)


def test_folders(tmp_path: Path, six_images: Path) -> None:
    write(tmp_path / "export" / "annotations.xml", CVAT)
    assert len(imported(tmp_path / "export", six_images)["annotations"]) == 1
    write(tmp_path / "many" / "a.csv", "frame,id,x,y,w,h,class\n0,1,1,2,8,9,dog\n")
    write(tmp_path / "many" / "b.csv", "frame,id,x,y,w,h,class\n0,1,1,2,8,9,cat\n")
    for name in ("a", "b"):
        write_images(tmp_path / "frames" / name, length=1)
    root = imported(tmp_path / "many", tmp_path / "frames")
    assert tracks_of(root) == [("dog", [[1, 2, 8, 9]]), ("cat", [[1, 2, 8, 9]])]
    write(tmp_path / "mixed" / "a.txt", MOT)
    write(tmp_path / "mixed" / "b.txt", "1,1,1,1\n")
    assert "has files of several formats: motchallenge, sot" in problems_of(tmp_path / "mixed", six_images)
    assert "1 file of other formats was left out" in notes_of(
        tmp_path / "mixed", write_images(tmp_path / "mixed-frames" / "a").parent, format="motchallenge"
    )
    (tmp_path / "empty").mkdir()
    assert "has no file of box tracks in it. Name the file" in problems_of(tmp_path / "empty", six_images)


COCO = {"images": [{"id": 1, "width": 8, "height": 8, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
BOX = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
KINDS: dict[str, tuple[Any, str]] = {
    "youtube-vis": ({"videos": [], "annotations": [], "categories": []}, "a YouTube-VIS JSON. Use it as it is"),
    "youtube-vis results": (
        [{"video_id": 1, "category_id": 1, "segmentations": [], "score": 1}],
        "YouTube-VIS results",
    ),
    "coco": (COCO | {"annotations": [BOX | {"id": i} for i in (1, 2)]}, "COCO, of images without tracks"),
    "coco info": (COCO, "COCO, a list of images without annotations"),
    "coco results": ([BOX | {"score": 0.9}], "COCO results, predictions"),
    "coco panoptic": (COCO | {"annotations": [{"segments_info": []}]}, "COCO panoptic"),
    "labelme": (
        {"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg"},
        "LabelMe, the shapes of one image",
    ),
    "datumaro": ({"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "Datumaro"),
    "vott": ({"name": "a", "tags": [], "assets": {}}, "VoTT, boxes without tracks"),
    "vott asset": ({"asset": {}, "regions": []}, "VoTT"),
    "cvat server": ([{"version": 0, "tags": [], "shapes": [], "tracks": []}], "the JSON of a CVAT server"),
    "label studio": ([{"id": 1, "data": {"video": "a.mp4"}}], "Label Studio's tasks without annotations"),
    "supervisely": ({"framesCount": 5, "objects": [], "frames": []}, "Supervisely"),
    "darwin": ({"version": "2.0", "item": {}, "annotations": []}, "V7's Darwin"),
    "sa-1b": ({"image": {}, "annotations": []}, "SA-1B"),
    "voc": ("<?xml version='1.0'?>\n<annotation><filename/></annotation>", "Pascal VOC, the boxes of one image"),
    "nothing": ([], "a JSON of no format that is known (no keys)"),
    "a list of numbers": ([1, 2], "a JSON of no format that is known (no keys)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_recognized(tmp_path: Path, six_images: Path, kind: str) -> None:
    content, name = KINDS[kind]
    problems = problems_of(write(tmp_path / "a.json", content), six_images)
    assert f"file: is {name}" in problems and problems.startswith("1 problem") and "Scalabel" not in problems
    folder = write(tmp_path / "folder" / f"a.{'xml' if kind == 'voc' else 'json'}", content).parent
    assert f": file: is {name}" in problems_of(folder, six_images)
