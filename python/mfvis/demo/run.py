"""``mfvis demo``: synthetic videos, training from their boxes, evaluation against their masks, one HTML report.

Two experiments: a model is trained to detect and segment the objects of new videos; a small box-prompted network is
trained with TK-Loss and without it. In the second, TK-Loss is what prevents masks from filling the whole box.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from mfvis.config import Config
from mfvis.data.config import ClipConfig
from mfvis.data.jsonfile import write_json
from mfvis.data.results import write_results
from mfvis.data.synthetic import write_demo
from mfvis.data.ytvis import load_dataset
from mfvis.demo.box_prompted import segment_boxes, train_box_prompted
from mfvis.demo.config import BoxPromptedConfig, DemoConfig
from mfvis.demo.page import BoxPromptedResult, TrainingResult, page
from mfvis.eval.mean_j import mean_j
from mfvis.eval.ytvis import evaluate
from mfvis.losses.config import LossConfig
from mfvis.predict.assignment import assign_results
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import predict_video, sized_as_trained
from mfvis.train.checkpoint import load_model
from mfvis.train.engine import train
from mfvis.types import VideoDataset
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


def run(config: DemoConfig) -> None:
    """Write data, train, evaluate, and print the path of the report."""
    with run_lock(config.out):
        _run(config)


def _run(config: DemoConfig) -> None:
    started = time.perf_counter()
    shutil.rmtree(config.out / "data", ignore_errors=True)
    train_json, val_json = write_demo(config.out / "data", config.synthetic)
    val = load_dataset(val_json)
    boxes = Config((str(train_json),), model=config.model, clip=config.clip, loss=config.loss, train=config.train)
    runs = {"boxes": ("boxes alone", boxes)}
    if config.twin:
        runs["boxes-no-tk"] = ("boxes alone, without TK-Loss", replace(boxes, loss=_without_tk(config.loss)))
        runs["masks"] = ("masks (the supervised twin)", replace(boxes, supervision="masks"))
    outcomes = []
    for folder, (name, training) in runs.items():
        outcomes.append(_outcome(name, replace(training, out=config.out / "runs" / folder), val, config.infer))
        print(
            f"{name}: AP {outcomes[-1].metrics.ap:.3f}, J {outcomes[-1].j.j:.3f}, {outcomes[-1].seconds:.0f} s",
            flush=True,
        )

    videos, fillings = load_dataset(train_json), []
    for name, loss in (
        ("without TK-Loss", _without_tk(config.box_prompted.loss)),
        ("with TK-Loss", config.box_prompted.loss),
    ):
        fillings.append(_filling(name, replace(config.box_prompted, loss=loss), config.clip, videos, val))
        print(f"box-prompted, {name}: J {fillings[-1].j.j:.3f}, {fillings[-1].seconds:.0f} s", flush=True)

    summary = {"model": [_numbers(outcome) for outcome in outcomes], "box_prompted": [*map(_filling_numbers, fillings)]}
    write_json(config.out / "metrics.json", summary)
    report = config.out / "report.html"
    write_report(report, page(config, val, outcomes, fillings, time.perf_counter() - started))
    print(json.dumps(summary, indent=1))
    print(f"\nreport: {report.resolve()}")


def _outcome(name: str, config: Config, val: VideoDataset, infer: InferConfig) -> TrainingResult:
    shutil.rmtree(config.out, ignore_errors=True)
    started = time.perf_counter()
    checkpoint = train(config)
    seconds = time.perf_counter() - started
    model, categories, trained = load_model(checkpoint)
    infer = sized_as_trained(infer, trained.clip)
    results, assigned = [], []
    for video in val.videos:
        found = predict_video(model, video, categories, infer)
        results += found
        assigned += assign_results(video, found)
    write_results(config.out / "results.json", results)
    curves = read_curves(config.out / "log.jsonl")
    return TrainingResult(name, evaluate(val, results), mean_j(val, assigned), seconds, tuple(results), curves)


def _without_tk(loss: LossConfig) -> LossConfig:
    return replace(loss, temporal=replace(loss.temporal, weight=0.0))


def _filling(
    name: str, config: BoxPromptedConfig, clip: ClipConfig, videos: VideoDataset, val: VideoDataset
) -> BoxPromptedResult:
    started = time.perf_counter()
    reader = train_box_prompted(videos, clip, config)
    seconds = time.perf_counter() - started
    results = tuple(result for video in val.videos for result in segment_boxes(reader, val, video, clip))
    return BoxPromptedResult(name, mean_j(val, results), seconds, results)


def read_curves(log: Path) -> tuple[Curve, ...]:
    """Loss curves of a training by name; losses that were always 0 are omitted."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = tuple(record["step"] for record in records)
    curves = [Curve(name, steps, tuple(record.get(term, 0.0) for record in records)) for term, name in TERMS.items()]
    return tuple(curve for curve in curves if any(curve.values))


def _numbers(outcome: TrainingResult) -> dict[str, object]:
    """The outcome in the form of metrics.json."""
    return {
        "supervision": outcome.name,
        **{name: round(value, 4) for name, value in outcome.metrics.as_dict().items()},
        "j": round(outcome.j.j, 4),
        "filled_box_j": round(outcome.j.filled_box_j, 4),
        "train_seconds": round(outcome.seconds, 1),
    }


def _filling_numbers(filling: BoxPromptedResult) -> dict[str, object]:
    return {
        "supervision": f"boxes alone, {filling.name}",
        "j": round(filling.j.j, 4),
        "filled_box_j": round(filling.j.filled_box_j, 4),
        "train_seconds": round(filling.seconds, 1),
    }
