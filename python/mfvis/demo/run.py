"""``mfvis demo``: masks from the boxes of synthetic videos, then trainings from boxes, and one HTML report.

Two acts: `mfvis label` makes masks from boxes; a video Mask2Former is trained from boxes to detect and segment the
objects of new videos, once without TK-Loss and once with it.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from mfvis.data.images import save_image
from mfvis.data.jsonfile import write_json
from mfvis.data.results import write_results
from mfvis.data.synthetic import write_demo
from mfvis.data.ytvis import load_dataset
from mfvis.demo.config import DemoConfig
from mfvis.demo.labeling import LabelingResult, label_boxes
from mfvis.demo.page import TrainingResult, label_gallery, page
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.eval.ytvis import evaluate
from mfvis.predict.assignment import assign_results
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import predict_video, sized_as_trained
from mfvis.train.checkpoint import load_model
from mfvis.train.config import Config
from mfvis.train.engine import train
from mfvis.types import VideoDataset
from mfvis.vis.draw import sheet
from mfvis.vis.report import Curve, write_report
from mfvis.writing import run_lock

TERMS = {
    "classification": "class",
    "box_l1": "box L1",
    "box_giou": "box GIoU",
    "projection": "projection",
    "background": "background",
    "pairwise": "pairwise",
    "temporal": "TK-Loss",
    "mask_bce": "BCE",
    "mask_dice": "dice",
}
"""Losses in the training log and their titles in the report."""
IMAGE = "masks-from-boxes.jpg"
"""Image of the first act."""


def run(config: DemoConfig) -> None:
    """Label, train, evaluate, and print the path of the report."""
    with run_lock(config.out):
        _run(config)


def _run(config: DemoConfig) -> None:
    started = time.perf_counter()
    print("1 of 2: masks from boxes\n")
    labeling = label_boxes(config)
    labels = label_gallery(labeling)
    image = sheet([row.pixels_HW3 for row in labels.figures], labels.captions)
    save_image(config.out / IMAGE, image, quality=80)
    print(
        f"\nmasks from boxes: J {labeling.j.j:.3f} (filled boxes {labeling.j.filled_box_j:.3f}), "
        f"{labeling.seconds:.0f} s; see {config.out / IMAGE}\n\n"
        "2 of 2: a model that finds the objects of new videos, trained from boxes without and with TK-Loss\n",
        flush=True,
    )

    shutil.rmtree(config.out / "data", ignore_errors=True)
    train_json, val_json = write_demo(config.out / "data", config.synthetic)
    val = load_dataset(val_json)
    trained = []
    for folder, (name, training) in _trainings(config, train_json).items():
        trained.append(_train(name, replace(training, out=config.out / "runs" / folder), val, config.infer))
        print(f"{name}: AP {trained[-1].metrics.ap:.3f}, J {trained[-1].j.j:.3f}, {trained[-1].seconds:.0f} s\n")

    summary = {
        "label": _label_metrics(labeling),
        "model": [_model_metrics(result) for result in trained],
    }
    write_json(config.out / "metrics.json", summary)
    write_report(config.out / "report.html", page(config, labels, val, trained, time.perf_counter() - started))
    print(json.dumps(summary, indent=1))
    print(f"\nreport: {(config.out / 'report.html').resolve()}")


def _trainings(config: DemoConfig, train_json: Path) -> dict[str, tuple[str, Config]]:
    """Name and configuration of every training, by folder."""
    boxes = Config((str(train_json),), model=config.model, clip=config.clip, loss=config.loss, train=config.train)
    without = replace(boxes, loss=replace(config.loss, temporal=replace(config.loss.temporal, weight=0.0)))
    trainings = {"boxes-no-tk": ("boxes, without TK-Loss", without), "boxes": ("boxes, with TK-Loss", boxes)}
    if config.twin:
        trainings["masks"] = ("masks (the supervised twin)", replace(boxes, supervision="masks"))
    return trainings


def _train(name: str, config: Config, val: VideoDataset, infer: InferConfig) -> TrainingResult:
    shutil.rmtree(config.out, ignore_errors=True)
    started = time.perf_counter()
    checkpoint = train(config)
    seconds = time.perf_counter() - started
    model, categories, trained = load_model(checkpoint)
    infer = sized_as_trained(infer, trained.clip)
    results, assigned = [], []
    for video in val.videos:
        tracks = predict_video(model, video, categories, infer)
        results += tracks
        assigned += assign_results(video, tracks)
    write_results(config.out / "results.json", results)
    curves = read_curves(config.out / "log.jsonl")
    return TrainingResult(name, evaluate(val, results), mean_j(val, assigned), seconds, tuple(results), curves)


def read_curves(log: Path) -> tuple[Curve, ...]:
    """Loss curves of a training by name; losses that were always 0 are omitted."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = tuple(record["step"] for record in records)
    curves = [Curve(name, steps, tuple(record.get(term, 0.0) for record in records)) for term, name in TERMS.items()]
    return tuple(curve for curve in curves if any(curve.values))


def _label_metrics(result: LabelingResult) -> dict[str, object]:
    return {"command": result.command, **_j_metrics(result.j), "seconds": round(result.seconds, 1)}


def _model_metrics(result: TrainingResult) -> dict[str, object]:
    return {
        "supervision": result.name,
        **{name: round(value, 4) for name, value in result.metrics.as_dict().items()},
        **_j_metrics(result.j),
        "train_seconds": round(result.seconds, 1),
    }


def _j_metrics(j: MeanJ) -> dict[str, float]:
    return {"j": round(j.j, 4), "filled_box_j": round(j.filled_box_j, 4)}
