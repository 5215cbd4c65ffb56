"""First act of the demo: ``mfvis label`` generates masks from the boxes of generated videos."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mfvis.data.jsonfile import read_json, write_json
from mfvis.data.synthetic import write_videos
from mfvis.data.ytvis import load_dataset
from mfvis.demo.config import DemoConfig
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.eval.run import labeled_tracks
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.run import run as label
from mfvis.parsing import build, load_preset
from mfvis.types import TrackResult, VideoDataset

BOXES = "boxes.json"


@dataclass(frozen=True)
class LabelingResult:
    """Masks that `mfvis label` made from boxes, compared with the true masks."""

    truth: VideoDataset
    j: MeanJ
    seconds: float
    """Time for all videos."""
    results: tuple[TrackResult, ...]
    command: str
    """Command line that gives the same masks."""


def label_boxes(config: DemoConfig) -> LabelingResult:
    """Write videos, label them from a JSON without masks, and compare the result with the true masks."""
    videos, out = config.out / "videos", config.out / "labeled"
    settings = load_preset(config.label_preset) | {"data": str(videos / BOXES), "out": str(out)}
    label_config = build(LabelConfig, settings, f"preset {config.label_preset}")
    for folder in (videos, out):
        shutil.rmtree(folder, ignore_errors=True)
    truth = load_dataset(write_videos(videos, "truth", config.label_videos.videos, config.label_videos))
    _write_boxes(truth.path, videos / BOXES)
    command = f"mfvis label {videos / BOXES} --preset {config.label_preset} --out {out}"
    print(f"{command}\n", flush=True)
    started = time.perf_counter()
    labeled = load_dataset(label(label_config), videos / "JPEGImages")
    seconds = time.perf_counter() - started
    results = labeled_tracks(truth, labeled)
    return LabelingResult(truth, mean_j(truth, results), seconds, tuple(results), command)


def _write_boxes(annotated: Path, boxes: Path) -> None:
    """Copy a data set without its masks, so that labeling cannot read them."""
    content = read_json(annotated, [])
    for annotation in content["annotations"]:
        del annotation["segmentations"], annotation["areas"]
    write_json(boxes, content)
