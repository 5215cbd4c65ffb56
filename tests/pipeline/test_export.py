"""Exports, read back by mfvis' importers and by the readers that their users have."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from import_helpers import WIDTH, write, write_images
from mfvis.cli import main
from mfvis.data.exporters.label_studio import brush_rle
from mfvis.data.exporters.table import EXPORTERS
from mfvis.data.outlines import connected, mask_polygons
from mfvis.data.rle import decode_mask, encode_mask
from PIL import Image
from pycocotools.coco import COCO

HEIGHT, LENGTH = 60, 3
CLASSES = ("a <car>", "pedestrian")


def peer(name: str) -> ModuleType:
    """A reader that is installed for tests only; the test is skipped where it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed ({error}): pip install --no-deps {name.split('.')[0]}")


def masks_of(video: int) -> dict[int, list[np.ndarray | None]]:
    """Masks of the two tracks of a video: a ring with a speck and a gap; a triangle that ends at the edge."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rings = [(np.hypot(y - 20 - t, x - 20 - video) < 12) & (np.hypot(y - 20 - t, x - 20) > 5) for t in range(LENGTH)]
    for ring in rings:
        ring[50, 3 + video] = True
    triangles = [(x - 20 > y - t) & (y > 30) for t in range(LENGTH)]
    return {7: [rings[0], None, rings[2]], 9: triangles}


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Two videos with frames of the same names, two tracks each, with masks."""
    videos, annotations = [], []
    for v in range(2):
        write_images(tmp_path / "frames" / f"video {v}", length=LENGTH)
        names = [f"frames/video {v}/{t:06d}.jpg" for t in range(1, LENGTH + 1)]
        shape = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
        videos.append({"id": v + 1, "file_names": names, "name": f"video {v}"} | shape)
        for category, (track_id, masks) in enumerate(masks_of(v).items(), 3):
            rles = [None if mask is None else encode_mask(mask) for mask in masks]
            boxes = [None if mask is None else box_of(mask) for mask in masks]
            ids = {"id": len(annotations) + 1, "track_id": track_id, "video_id": v + 1, "category_id": category}
            annotations.append(ids | {"bboxes": boxes, "segmentations": rles})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 3)]
    return write(tmp_path / "boxes.json", {"videos": videos, "annotations": annotations, "categories": categories})


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def export(labeled: Path, format: str, out: str, *flags: str) -> Path:
    path = labeled.parent / out
    assert main(["data", "export", str(labeled), "--format", format, "--out", str(path), *flags]) == 0
    return path


def masks_in(path: Path) -> dict[tuple[str, int, str], list[list[int] | None]]:
    """Areas and sums of positions of the masks of a YouTube-VIS JSON, by video, track and class."""
    root = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in root["categories"]}
    videos = {video["id"]: video for video in root["videos"]}
    found = {}
    for annotation in root["annotations"]:
        masks = [None if s is None else decode_mask(s, HEIGHT, WIDTH) for s in annotation["segmentations"]]
        key = (videos[annotation["video_id"]]["name"], annotation["track_id"], names[annotation["category_id"]])
        found[key] = [None if m is None else np.packbits(m).tolist() for m in masks]
    return found


EXPECTED = {
    (f"video {v}", track_id, name): [None if m is None else np.packbits(m).tolist() for m in masks]
    for v in range(2)
    for (track_id, masks), name in zip(masks_of(v).items(), CLASSES, strict=True)
}


@pytest.mark.parametrize("form", ["rle", "list", "polygons"])
def test_youtube_vis(labeled: Path, form: str) -> None:
    path = export(labeled, "youtube-vis", "sub/y.json", "--masks", form)
    assert masks_in(path) == EXPECTED
    kinds = {"rle": str, "list": list}
    masks = [s for a in json.loads(path.read_text())["annotations"] for s in a["segmentations"] if s]
    assert all(isinstance(s, list) if form == "polygons" else isinstance(s["counts"], kinds[form]) for s in masks)
    assert main(["data", "check", str(path)]) == 0


@pytest.mark.parametrize("form", ["list", "rle", "polygons"])
def test_coco_as_pycocotools_and_other_readers_see_it(
    labeled: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(labeled, "coco", "coco.json", "--masks", form, "--images")
    coco = COCO(str(path))
    names = {image["id"]: image["file_name"] for image in coco.imgs.values()}
    assert sorted(names.values()) == [f"video {v}/{t:06d}.jpg" for v in range(2) for t in range(1, LENGTH + 1)]
    assert all((labeled.parent / "images" / name).is_file() for name in names.values())
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = masks_of(int(image["file_name"][6]))[annotation["track_id"]][image["frame_id"]]
        assert (coco.annToMask(annotation) == mask).all() and annotation["area"] == mask.sum()
    if form == "list":
        check_supervision(path)
        check_datumaro(path)
    elif form == "polygons":
        check_labelformat(path)
    back = labeled.with_name("back.json")
    frames = str(labeled.parent / "frames")
    assert main(["data", "import", str(path), "--frames", frames, "--out", str(back)]) == 0
    assert masks_in(back) == EXPECTED


def check_supervision(path: Path) -> None:
    try:
        supervision = importlib.import_module("supervision")
    except ImportError:
        return
    dataset = supervision.DetectionDataset.from_coco(str(path.with_name("images")), str(path), force_masks=True)
    assert len(dataset) == 2 * LENGTH
    for name, _, detections in dataset:
        v, t = int(Path(name).parent.name[6]), int(Path(name).stem) - 1
        expected = [masks[t] for masks in masks_of(v).values() if masks[t] is not None]
        assert (np.asarray(detections.mask) == np.array(expected)).all()


def check_datumaro(path: Path) -> None:
    try:
        datumaro = importlib.import_module("datumaro")
    except ImportError:
        return
    folder = path.parent / "datumaro"
    write(folder / "annotations" / "instances_train.json", path.read_bytes())
    (folder / "images").mkdir()
    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    masks = [a for item in dataset for a in item.annotations if a.type == datumaro.AnnotationType.mask]
    assert len(masks) == 10 and {mask.attributes["track_id"] for mask in masks} == {7, 9}
    assert sum(int(mask.image.sum()) for mask in masks) == sum(
        m.sum() for v in range(2) for ms in masks_of(v).values() for m in ms if m is not None
    )


def check_labelformat(path: Path) -> None:
    try:
        coco = importlib.import_module("labelformat.formats.coco")
    except ImportError:
        return
    labels = list(coco.COCOInstanceSegmentationInput(input_file=path).get_labels())
    objects = [entry for label in labels for entry in label.objects]
    assert len(objects) == 10 and {entry.category.name for entry in objects} == set(CLASSES)
    assert sum(len(entry.segmentation.polygons) for entry in objects) == 4 * 3 + 6


def test_cvat_masks_and_polygons_come_back(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = str(labeled.parent / "frames")
    for form in ("rle", "polygons"):
        folder = export(labeled, "cvat", f"cvat-{form}", "--masks", form)
        assert {path.name for path in folder.iterdir()} == {"video 0.xml", "video 1.xml"}
        back = labeled.with_name(f"{form}.json")
        assert main(["data", "import", str(folder), "--frames", frames, "--out", str(back)]) == 0
        found = masks_in(back)
        if form == "rle":
            assert found == EXPECTED
        else:  # CVAT has no name for a polygon's track
            assert sorted(map(str, found.values())) == sorted(map(str, EXPECTED.values()))
    assert "grouped by object; --masks polygons writes tracks (10)" in capsys.readouterr().out
    text = (labeled.parent / "cvat-rle" / "video 0.xml").read_text()
    # CVAT imports only the first mask of a track, so each mask is a track that ends after one frame.
    assert text.count("<track ") == 5 and text.count("<mask ") == 5 + 3 and text.count('group_id="7"') == 2


def test_yolo_polygons_are_those_that_users_read(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(labeled, "yolo", "yolo", "--images")
    assert "masks of several parts or with holes were written as one polygon (4)" in capsys.readouterr().out
    lines = (folder / "labels" / "train" / "video 0" / "000001.txt").read_text().splitlines()
    for line, masks in zip(lines, masks_of(0).values(), strict=True):
        shares = np.array(line.split()[1:], float).reshape(-1, 2) * (WIDTH, HEIGHT)
        assert (decode_mask([shares.ravel().tolist()], HEIGHT, WIDTH) == masks[0]).all()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert len((folder / "labels" / "train" / "video 1" / "000002.txt").read_text().splitlines()) == 1
    assert (folder / "images" / "train" / "video 1" / "000002.jpg").is_file()
    supervision, labelformat = peer("supervision"), peer("labelformat.formats.yolov8")
    labels = labelformat.YOLOv8InstanceSegmentationInput(folder / "data.yaml", "train").get_labels()
    assert sum(len(label.objects) for label in labels) == 10
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images" / "train" / "video 0"),
        str(folder / "labels" / "train" / "video 0"),
        str(folder / "data.yaml"),
        force_masks=True,
    )
    assert dataset.classes == list(CLASSES) and sum(len(detections) for *_, detections in dataset) == 5


def test_davis_images_have_the_ids(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(labeled, "davis", "davis")
    with Image.open(folder / "Annotations" / "video 1" / "000003.png") as image:
        ids_HW, palette = np.asarray(image), image.getpalette()
    assert image.mode == "P" and palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    for track_id, masks in masks_of(1).items():
        assert (ids_HW == track_id)[masks[2]].all() and (ids_HW == track_id).sum() == masks[2].sum()
    assert "video 1,9,pedestrian" in (folder / "categories.csv").read_text()


@pytest.mark.parametrize("format", ["mots", "mots-text"])
def test_mots_comes_back(labeled: Path, format: str) -> None:
    folder = export(labeled, format, "mots", "--images")
    images = folder / "video 1" / ("img1" if format == "mots-text" else "images")
    assert sorted(path.name for path in images.iterdir()) == [f"{t:06d}.jpg" for t in range(1, LENGTH + 1)]
    back = labeled.with_name("back.json")
    names = ["--class-names", str(folder / "classes.txt")] if format == "mots-text" else []
    frames = str(labeled.parent / "frames")
    assert main(["data", "import", str(folder), "--frames", frames, "--out", str(back), *names]) == 0
    numbers = {7: 3007, 9: 2009}  # class times 1000 plus index
    assert masks_in(back) == {(v, numbers[i], name): masks for (v, i, name), masks in EXPECTED.items()}


def test_mots_and_polygons_of_cvat_as_datumaro_reads_them(labeled: Path) -> None:
    datumaro = peer("datumaro")
    areas = [int(m.sum()) for masks in masks_of(0).values() for m in masks if m is not None]
    mots = datumaro.Dataset.import_from(str(export(labeled, "mots", "mots") / "video 0"), "mots")
    labels = mots.categories()[datumaro.AnnotationType.label]
    found = [annotation for item in mots for annotation in item.annotations]
    assert sorted(int(mask.image.sum()) for mask in found) == sorted(areas)
    assert {labels[mask.label].name for mask in found} == set(CLASSES)
    folder = export(labeled, "cvat", "cvat", "--masks", "polygons")
    cvat = datumaro.Dataset.import_from(str(folder / "video 0.xml"), "cvat")
    polygons = [a for item in cvat for a in item.annotations if not a.attributes["outside"]]
    assert sorted(int(polygon.get_area()) for polygon in polygons) == sorted(areas)


def test_mots_text_as_trackeval_reads_it(labeled: Path, tmp_path: Path) -> None:
    trackeval = peer("trackeval")
    text = json.loads(labeled.read_text())
    for category, name in zip(text["categories"], ("car", "pedestrian"), strict=True):
        category["name"] = name
    write(labeled, text)
    folder = export(labeled, "mots-text", "gt")
    write(folder / "maps" / "seq.txt", "name\nvideo 0\nvideo 1\n")
    for v in range(2):
        write(folder / "trackers" / "ours" / "data" / f"video {v}.txt", (folder / f"video {v}/gt/gt.txt").read_bytes())
    config = {
        **{"GT_FOLDER": str(folder), "TRACKERS_FOLDER": str(folder / "trackers"), "SKIP_SPLIT_FOL": True},
        **{"SEQMAP_FILE": str(folder / "maps" / "seq.txt"), "PRINT_CONFIG": False},
    }
    dataset = trackeval.datasets.MOTSChallenge(config)
    for v in range(2):
        raw = dataset.get_raw_seq_data("ours", f"video {v}")
        data = dataset.get_preprocessed_seq_data(raw, "pedestrian")
        assert data["num_gt_dets"] == data["num_tracker_dets"] == LENGTH
        assert all(similarity == 1 for frame in data["similarity_scores"] for similarity in frame.ravel())


def test_motchallenge_comes_back(labeled: Path) -> None:
    folder = export(labeled, "motchallenge", "mot")
    back = labeled.with_name("back.json")
    frames = str(labeled.parent / "frames")
    assert main(["data", "import", str(folder), "--frames", frames, "--out", str(back)]) == 0
    boxes = {(a["video_id"], a["track_id"]): a["bboxes"] for a in json.loads(labeled.read_text())["annotations"]}
    assert {(a["video_id"], a["track_id"]): a["bboxes"] for a in json.loads(back.read_text())["annotations"]} == boxes


def test_label_studio_masks(labeled: Path) -> None:
    tasks = json.loads(export(labeled, "label-studio", "ls.json").read_text())
    assert len(tasks) == 2 * LENGTH and tasks[3]["data"]["image"] == "/data/local-files/?d=video 1/000001.jpg"
    for task in tasks:
        for region in task["annotations"][0]["result"]:
            track_id = int(region["meta"]["text"][0].split()[1])
            mask = masks_of(int(task["data"]["video"][6]))[track_id][task["data"]["frame"]]
            assert (brush_pixels(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4) == 255 * mask[..., None]).all()
            assert region["value"]["brushlabels"] == [CLASSES[track_id == 9]]


def brush_pixels(rle: list[int]) -> np.ndarray:
    """Bytes of an image in Label Studio's encoding, written after the reader in its documentation."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    pixels, word = np.zeros(read(32), np.uint8), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    i = 0
    while i < len(pixels):
        same, end = read(1), i + 1 + read(sizes[read(2)])
        if same:
            pixels[i:end] = read(word)
        else:
            pixels[i:end] = [read(word) for _ in range(end - i)]
        i = end
    return pixels


def test_results_of_predict_are_exported(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = encode_mask(masks_of(0)[7][0])
    results = [
        {"video_id": 1, "category_id": 3, "score": score, "segmentations": [mask, None, None]} for score in (0.9, 0.1)
    ]
    file = write(labeled.with_name("results.json"), results)
    argv = ["data", "export", str(file), "--format", "coco", "--out", str(labeled.with_name("c.json"))]
    assert main(argv) == 2
    assert "name the data that were predicted on with --data" in capsys.readouterr().err
    assert main([*argv, "--data", str(labeled)]) == 0
    assert "results below the score of 0.3 were left out (1)" in capsys.readouterr().out
    (annotation,) = json.loads(labeled.with_name("c.json").read_text())["annotations"]
    assert annotation["score"] == 0.9 and annotation["bbox"] == box_of(masks_of(0)[7][0])


def test_track_ids_of_0_are_kept_where_the_format_has_them(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CVAT numbers its tracks from 0."""
    root = json.loads(labeled.read_text())
    for annotation in root["annotations"]:
        annotation["track_id"] = {7: 0, 9: 1}[annotation["track_id"]]
    write(labeled, root)
    coco = json.loads(export(labeled, "coco", "coco.json").read_text())
    assert {annotation["track_id"] for annotation in coco["annotations"]} == {0, 1}
    assert "note" not in capsys.readouterr().out
    text = (export(labeled, "cvat", "cvat") / "video 0.xml").read_text()
    assert 'group_id="1"' in text and 'group_id="2"' in text and 'group_id="0"' not in text
    assert "were numbered from 1 (2)" in capsys.readouterr().out


def test_faults_are_refused(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*argv: str, file: Path = labeled) -> str:
        assert main(["data", "export", str(file), *argv]) == 2
        return capsys.readouterr().err

    here = labeled.parent
    assert "expected a file *.json for --format coco" in error_of("--format", "coco", "--out", str(here / "x"))
    assert "expected a folder, without a suffix" in error_of("--format", "davis", "--out", str(here / "x.png"))
    assert "which holds other files" in error_of("--format", "davis", "--out", str(here / "frames"))
    assert "which is read" in error_of("--format", "coco", "--out", str(labeled))
    assert "there are 2 videos" in error_of("--format", "cvat", "--out", str(here / "x.xml"))
    assert "a choice of coco, youtube-vis, cvat only" in error_of(
        "--format", "yolo", "--out", str(here / "x"), "--masks", "rle"
    )
    boxes = json.loads(labeled.read_text())
    for annotation in boxes["annotations"]:
        del annotation["segmentations"]
    file = write(here / "only.json", boxes)
    error = error_of("--format", "yolo", "--out", str(here / "x"), file=file)
    assert "has no masks, which yolo needs. Generate them first: mfvis label" in error and not (here / "x").exists()
    assert main(["data", "export", str(file), "--format", "cvat", "--out", str(here / "boxes")]) == 0
    assert (here / "boxes" / "video 0.xml").read_text().count("<box ") == 6


def test_every_format_is_in_the_help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["data", "export", "--help"])
    text = capsys.readouterr().out
    assert all(f"{exporter.name}: {exporter.summary}" in text for exporter in EXPORTERS)


@settings(max_examples=25, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_and_brushes_are_exact(mask_HW: np.ndarray) -> None:
    polygons = mask_polygons(mask_HW)
    assert (decode_mask(polygons, *mask_HW.shape) == mask_HW).all()
    if polygons:
        assert (decode_mask([connected(polygons)], *mask_HW.shape) == mask_HW).all()
    pixels = brush_pixels(list(brush_rle(encode_mask(mask_HW))))
    assert (pixels.reshape(*mask_HW.shape, 4) == 255 * mask_HW[..., None]).all()
