"""Damaged files of the smaller formats and damaged archives: refused with what is wrong, or read as a data set."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from corruptions import bytes_changed, json_changed, shuffled, truncated, words_changed
from import_helpers import write
from mfvis.data.importers import import_tracks
from mfvis.data.ytvis import load_dataset
from mfvis.errors import MfvisError
from test_import_coco_tracks import coco_images
from test_import_containers import zipped
from test_import_sav import sav
from test_import_ultralytics import FRAMES
from test_import_via import REGIONS, via

CASES = 60
ROWS = [{"frame": t, "track_id": i, "x": 1, "y": 2, "w": 5, "h": 6, "class": "a"} for t in range(6) for i in (1, 2)]
CVAT = """<annotations><meta><project><tasks><task><id>4</id><size>6</size></task></tasks></project></meta>
<track id="0" label="a" task_id="4"><polygon frame="0" keyframe="1" outside="0" points="1,2;3,4;9,9"/>
<polygon frame="3" keyframe="1" outside="1" points="1,2;3,4;9,9"/></track>
<track id="1" label="a" task_id="4"><ellipse frame="1" keyframe="1" outside="0" cx="20" cy="20" rx="3" ry="4"/>
<ellipse frame="2" keyframe="0" outside="0" cx="20" cy="20" rx="3" ry="4" rotation="3"/></track></annotations>"""
FILES: dict[str, Any] = {
    "sa-v.json": sav(),
    "ultralytics.json": FRAMES,
    "via.json": via(*REGIONS),
    "coco.json": coco_images((2, 0, [1, 2, 8, 9], {}), (1, 0, [2, 2, 8, 9], {"rotation": 9.0})),
    "rows.json": ROWS,
    "visdrone.txt": "".join(f"{t},{i},{9 + t},2,30,5,1,{4 + i},0,1\n" for i in (1, 2) for t in range(1, 7)),
    "groundtruth.txt": "".join(f"{t},2,9,{t + 3}.5\n" for t in range(6)),
    "project.xml": CVAT,
    "gt.zip": b"",
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(tmp_path: Path, six_images: Path, name: str) -> None:
    file = write(tmp_path / name, FILES[name])
    if name == "gt.zip":
        zipped(file, **{"gt/gt.txt": "1,1,10,20,30,40,1,2,1.0\n", "gt/labels.txt": "cat\ndog\n"})
    content, out = file.read_bytes(), tmp_path / "out.json"
    structure = {".json": json_changed, ".zip": bytes_changed}.get(file.suffix, words_changed)
    outcomes = {"read": 0, "refused": 0}
    for case in range(CASES):
        way = (truncated, shuffled, bytes_changed, structure, structure)[case % 5]
        file.write_bytes(way(content, random.Random(f"{name} {case}")))
        try:
            root, notes = import_tracks(
                file, six_images, out, categories=("thing",) * (name in ("sa-v.json", "groundtruth.txt"))
            )
        except MfvisError as error:
            assert file.name in str(error) and str(error).encode(), f"case {case}: {error!r}"
            outcomes["refused"] += 1
            continue
        out.write_text(json.dumps(root))
        assert len(load_dataset(out, tmp_path).videos) == 1 and all(notes)
        outcomes["read"] += 1
    assert min(outcomes.values()) > 0, outcomes
