"""The Python interface: arrays and files in, arrays out, silent, with the command's defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mfvis
import mfvis.labeling.run
import numpy as np
import pytest
import torch
from mfvis import progress
from mfvis.data.video import read_frames
from mfvis.errors import ConfigError, DataError
from mfvis.labeling.config import LabelConfig
from mfvis.models.video_model import build_model
from mfvis.parsing import parse
from mfvis.train.checkpoint import TrainedModel
from mfvis.train.config import Config
from tiny import CATEGORIES, TINY

FAST = {
    "backbone": {"name": "tiny", "weights": None, "frozen": False},
    "optim": {"steps": 1, "warmup": 0},
    "propagation": {"weight": 0},
    "refine": {"steps": 0},
    **{"num_models": 1, "short_side": 32, "zoom": 1, "clip": 2, "device": "cpu"},
}


def trained(name: str) -> TrainedModel:
    torch.manual_seed(0)
    model = build_model(replace(TINY, name=name, num_queries=3, decoder_layers=1), len(CATEGORIES)).eval()
    return TrainedModel(model, CATEGORIES, Config(data=("x.json",)))


def test_import_needs_neither_torch_nor_the_operators():
    code = (
        "import sys, mfvis; mfvis.__version__; dir(mfvis); "
        "print(*{'torch', 'mfvis_ext', 'numpy'} & {*sys.modules}, 'label' in dir(mfvis))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
    with pytest.raises(AttributeError, match="'mfvis' has no attribute 'labels'"):
        mfvis.labels  # noqa: B018


def test_label_takes_arrays_tensors_files_and_videos(demo_data, capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    video = mfvis.load_dataset(demo_data[1]).videos[0]
    frames_TCHW = read_frames(video, range(2))
    boxes_NT4 = np.stack([track.boxes_T4[:2] for track in video.tracks[:2]])
    boxes_NT4[0, 1] = np.nan
    masks, quality = mfvis.label(frames_TCHW, boxes_NT4, **FAST)
    state = torch.get_rng_state()
    assert capsys.readouterr().out == ""
    assert masks.shape == (2, 2, video.height, video.width) and masks.dtype == bool
    assert quality.shape == (2, 2) and quality.dtype == np.float32
    assert np.isnan(quality[0, 1]) and (quality[~np.isnan(quality)] <= 1).all()
    assert masks.any((2, 3)).tolist() == (~np.isnan(quality)).tolist()

    array_THW3 = frames_TCHW.permute(0, 2, 3, 1).numpy()
    again = mfvis.label(array_THW3, torch.from_numpy(boxes_NT4), progress=True, **FAST)
    assert (again.masks == masks).all()
    said = capsys.readouterr().out
    assert "model 1/1: step 1/1\n" in said and said.splitlines()[-1].startswith("100%, 0:00:00 left")
    assert (torch.get_rng_state() == state).all()
    short = replace(video, length=2, frames=video.frames[:2])
    tracks = [replace(track, boxes_T4=np.nan_to_num(boxes)) for track, boxes in zip(video.tracks, boxes_NT4)]  # noqa: B905
    assert (mfvis.label(replace(short, tracks=tuple(tracks)), **FAST).masks == masks).all()


def test_label_keeps_and_obeys_corrections(demo_data, tmp_path):
    """As arrays, and in a JSON, where they mean the same as for the command."""
    content = json.loads(demo_data[1].read_text())
    video, annotation = content["videos"][0], content["annotations"][0]
    del annotation["segmentations"]
    content |= {"videos": [video], "annotations": [annotation]}
    file = tmp_path / "one.json"
    file.write_text(json.dumps(content))
    (tmp_path / "JPEGImages").symlink_to(demo_data[1].parent / "JPEGImages")
    x, y, w, h = annotation["bboxes"][2]
    mask_HW = np.zeros((video["height"], video["width"]), bool)
    mask_HW[int(y) : int(y + h), int(x) : int(x + w / 2)] = True
    line = [(x + w / 4, y + h / 2), (x + w / 2, y + h / 2)]
    given = {"masks": {(0, 2): mask_HW}, "points": [(0, np.int64(3), *annotation["bboxes"][3][:2], False)]}
    masks, quality = mfvis.label(file, **given, scribbles=[(0, 2, line, True), (0, 1, line, False)], **FAST)
    assert (masks[0, 2] == mask_HW).all() and quality[0, 2] == 1 and quality[0, 1] < 1
    assert not masks[0, 1, int(line[0][1]), int(line[0][0])]
    annotation["scribbles"] = [[1, [*line[0], *line[1]], 1]]
    file.write_text(json.dumps(content))
    assert mfvis.label(file, **FAST).masks[0, 1, int(line[0][1]), int(line[0][0])]
    with pytest.raises(DataError) as error:
        mfvis.label(
            file,
            masks={(0, 9): mask_HW, (0, 1): mask_HW[1:], 3: mask_HW},
            points=[(1, 0, 5, 5, 1), (0, 0, -5, 5, 1), (0,)],
            scribbles=[(0, 0, [], True)],
            **FAST,
        )
    records = [problem.record for problem in error.value.problems]
    assert records == [
        "masks[(0, 9)]",
        "masks[(0, 1)]",
        "masks[3]",
        *(f"points[{i}]" for i in range(3)),
        "scribbles[0]",
    ]


def test_label_has_the_defaults_of_the_command():
    assert parse(LabelConfig, ["x.json"], "mfvis label") == LabelConfig(Path("x.json"))


@pytest.mark.parametrize(
    ("frames", "boxes", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros((1, 2, 4)), r"frames is float32 \[2, 8, 8, 3\]; expected uint8"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), np.zeros((1, 2, 4)), r"a tensor \[2, 8, 8, 3\].*\[T, 3, H, W\]"),
        (None, np.zeros((1, 3, 4)), r"boxes has shape \[1, 3, 4\]; expected \[N, 2, 4\]"),
        (None, [["a"]], "boxes is not an array of numbers"),
        (None, np.zeros((1, 2, 4)), "has no boxes"),
        (None, None, "has no boxes"),
        (
            None,
            [[[0, 0, 4, np.nan], [5, 0, 3, 2]], [[9, 0, 12, 4], [0, 0, 4, 4]]],
            r"(?s)boxes\[0, 0\].*NaN.*boxes\[0, 1\].*negative size.*boxes\[1, 0\].*outside the frame, 8 x 8",
        ),
        (None, np.full((1, 2, 4), (0.1, 0.1, 0.4, 0.9)), "as large as a pixel"),
    ],
)
def test_faulty_frames_and_boxes_are_refused(frames, boxes, message):
    with pytest.raises(ConfigError, match=message):
        mfvis.label(np.zeros((2, 8, 8, 3), np.uint8) if frames is None else frames, boxes, **FAST)


def test_faulty_settings_are_refused(demo_data):
    with pytest.raises(ConfigError, match=r"(?s)unknown key clips.*num_models is 'two'"):
        mfvis.label(demo_data[1], clips=3, num_models="two")
    with pytest.raises(ConfigError, match="out is a setting of the command"):
        mfvis.label(demo_data[1], out="x")
    with pytest.raises(ConfigError, match=r"has 2 videos.*mfvis label"):
        mfvis.label(demo_data[1], **FAST)


def test_predict_and_evaluate_in_memory(demo_data, capsys):
    dataset = mfvis.load_dataset(demo_data[1])
    model = trained("mask2former")
    video = dataset.videos[0]
    results = mfvis.predict_video(model, video, short_side=32, max_tracks=2)
    assert [len(result.segmentations) for result in results] == [video.length] * 2
    frames_TCHW = read_frames(video, range(video.length))
    in_memory = mfvis.predict_video(model, frames_TCHW, short_side=32, max_tracks=2)
    assert [result.segmentations for result in in_memory] == [result.segmentations for result in results]
    kept = [replace(result, category_id=dataset.categories[0].id) for result in results]
    assert 0 <= mfvis.evaluate(kept, dataset).ap <= 1
    labeled = mfvis.evaluate(demo_data[1], demo_data[1])
    assert labeled.j == 1 and capsys.readouterr().out == ""


def test_export_writes_and_returns_notes(demo_data, tmp_path, capsys):
    assert mfvis.export(demo_data[1], "coco", tmp_path / "coco.json", masks="rle") == ()
    assert (tmp_path / "coco.json").is_file() and capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"format is 'cocoo', did you mean coco\?"):
        mfvis.export(demo_data[1], "cocoo", tmp_path / "x.json")


@pytest.mark.parametrize("name", ["mask2former", "seqformer"])
def test_exported_programs_give_the_outputs_of_the_model(name, tmp_path):
    model = trained(name)
    path = tmp_path / "model.pt2"
    mfvis.export_model(model, (2, 32, 64), path)
    program = torch.export.load(path).module()
    frames_BTCHW = torch.randint(0, 256, (1, 2, 3, 32, 64), dtype=torch.uint8)
    sizes_B2 = torch.tensor([[30, 60]])
    with torch.no_grad():
        expected = model.model(frames_BTCHW, sizes_B2, last_only=True)
        scores_BQK, masks_BQTHW = program(frames_BTCHW, sizes_B2)
    torch.testing.assert_close(scores_BQK, expected.scores_LBQK[-1])
    torch.testing.assert_close(masks_BQTHW[0], expected.masks.all_queries(-1, 0))
    with pytest.raises(ConfigError, match=r"size is \(2, 30, 64\); expected .* multiples of 32"):
        mfvis.export_model(model, (2, 30, 64))
