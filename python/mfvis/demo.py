"""``mfvis demo``: synthetic videos, training from their boxes, evaluation against their masks, one HTML report."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import mfvis_ext
from mfvis.config import Config, TrainConfig
from mfvis.data.clips import ClipConfig
from mfvis.data.jsonfile import write_json
from mfvis.data.results import write_results
from mfvis.data.rle import decode_mask
from mfvis.data.synthetic import SyntheticConfig, write_demo
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.eval.numbers import Metrics
from mfvis.eval.ytvis import evaluate
from mfvis.infer.predictor import InferConfig, predict_video, sized_as_trained
from mfvis.losses.criterion import LossConfig
from mfvis.models.mask2former import ModelConfig
from mfvis.train.checkpoint import load_model
from mfvis.train.engine import train
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.draw import compare
from mfvis.vis.report import Chart, Curve, Picture, Report, Table, Tile, write_report

SHOWN = 8
"""Validation videos in the report: the first ones, whatever came out of them."""
SHOWN_SCORE = 0.5
"""Predictions below this are not drawn."""
TERMS = {
    "classification": "class",
    "projection": "projection",
    "background": "background",
    "pairwise": "pairwise",
    "temporal": "TK-Loss",
    "mask_bce": "BCE",
    "mask_dice": "dice",
}
"""The losses of the training's log, and what the report calls them."""


@dataclass(frozen=True)
class DemoConfig:
    """Show the whole path on this machine's CPU: synthetic videos, box-only training, evaluation, an HTML report."""

    out: Path = Path("demo")
    """Directory for data, runs and report.html; what an earlier demo wrote there is replaced."""
    twin: bool = False
    """Also train the mask-supervised twin and a box-only model without TK-Loss, and compare all three."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer: InferConfig = field(default_factory=InferConfig)


@dataclass(frozen=True)
class Outcome:
    """What one training came to on the validation videos."""

    name: str
    metrics: Metrics
    j: MeanJ
    seconds: float
    """Of training."""
    results: tuple[TrackResult, ...]
    curves: tuple[Curve, ...]


def run(config: DemoConfig) -> None:
    """Write data, train, evaluate, and say where the report lies."""
    started = time.perf_counter()
    synthetic = config.synthetic
    shutil.rmtree(config.out / "data", ignore_errors=True)
    train_json, val_json = write_demo(
        config.out / "data",
        seed=synthetic.seed,
        videos=synthetic.videos,
        val_videos=synthetic.val_videos,
        frames=synthetic.frames,
        size=(synthetic.height, synthetic.width),
        objects=(synthetic.fewest, synthetic.most),
    )
    val = load_dataset(val_json)
    boxes = Config((str(train_json),), model=config.model, clip=config.clip, loss=config.loss, train=config.train)
    runs = {"boxes": ("boxes alone", boxes)}
    if config.twin:
        without = replace(config.loss, temporal=replace(config.loss.temporal, weight=0.0))
        runs["boxes-no-tk"] = ("boxes alone, without TK-Loss", replace(boxes, loss=without))
        runs["masks"] = ("masks (the supervised twin)", replace(boxes, supervision="masks"))
    outcomes = []
    for folder, (name, training) in runs.items():
        outcomes.append(_outcome(name, replace(training, out=config.out / "runs" / folder), val, config.infer))
        print(
            f"{name}: AP {outcomes[-1].metrics.ap:.3f}, J {outcomes[-1].j.j:.3f}, {outcomes[-1].seconds:.0f} s",
            flush=True,
        )

    summary = [_numbers(outcome) for outcome in outcomes]
    write_json(config.out / "metrics.json", summary)
    report = config.out / "report.html"
    write_report(report, _report(config, val, outcomes, time.perf_counter() - started))
    print(json.dumps(summary, indent=1))
    print(f"\nreport: {report.resolve()}")


def _outcome(name: str, config: Config, val: VideoDataset, infer: InferConfig) -> Outcome:
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
        assigned += assign(video, found)
    write_results(config.out / "results.json", results)
    curves = read_curves(config.out / "log.jsonl")
    return Outcome(name, evaluate(val, results), mean_j(val, assigned), seconds, tuple(results), curves)


def assign(video: Video, results: list[TrackResult]) -> list[TrackResult]:
    """For each track of the video the predicted tube whose boxes fit the track's best, one each, whatever its class.

    Boxes alone decide, as in label mode, so that J is not measured on masks that were chosen by the true masks.
    """
    if not video.tracks:
        return []
    nothing = TrackResult(video.id, 0, 0.0, (None,) * video.length, np.zeros((video.length, 4), np.float32))
    candidates = [*results, *[nothing] * max(0, len(video.tracks) - len(results))]
    given, found = (
        torch.from_numpy(np.stack([track.boxes_T4 for track in tracks])) for tracks in (video.tracks, candidates)
    )
    rows, columns = linear_sum_assignment(mfvis_ext.box_tube_dice(given, found).numpy(), maximize=True)
    return [
        replace(candidates[column], track_id=video.tracks[row].id) for row, column in zip(rows, columns, strict=True)
    ]


def read_curves(log: Path) -> tuple[Curve, ...]:
    """The losses that a training logged, by name; those that were always 0 are left out."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = tuple(record["step"] for record in records)
    curves = [Curve(name, steps, tuple(record.get(term, 0.0) for record in records)) for term, name in TERMS.items()]
    return tuple(curve for curve in curves if any(curve.values))


def _numbers(outcome: Outcome) -> dict[str, object]:
    """The outcome as metrics.json has it."""
    return {
        "supervision": outcome.name,
        **{name: round(value, 4) for name, value in outcome.metrics.named().items()},
        "j": round(outcome.j.j, 4),
        "filled_box_j": round(outcome.j.filled_box_j, 4),
        "train_seconds": round(outcome.seconds, 1),
    }


def _report(config: DemoConfig, val: VideoDataset, outcomes: list[Outcome], seconds: float) -> Report:
    first, synthetic, settings = outcomes[0], config.synthetic, config.train
    tiles = [
        Tile("Mask AP", f"{first.metrics.ap:.3f}", "YouTube-VIS AP, IoU .50 to .95, on unseen videos"),
        Tile("Mask AP50", f"{first.metrics.ap50:.3f}", "a track counts from IoU .50 over its whole tube"),
        Tile("J", f"{first.j.j:.3f}", f"mean IoU over {first.j.object_frames} object-frames"),
        Tile("J of a filled box", f"{first.j.filled_box_j:.3f}", "what the true box itself, taken as a mask, scores"),
    ]
    tables = []
    if len(outcomes) > 1:
        twin = next(outcome for outcome in outcomes if outcome.name.startswith("masks"))
        rows = [
            (
                outcome.name,
                *(f"{value:.3f}" for value in (outcome.metrics.ap, outcome.metrics.ap50, outcome.metrics.ap75)),
                f"{100 * outcome.metrics.ap / twin.metrics.ap:.0f} %" if twin.metrics.ap > 0 else "-",
                f"{outcome.j.j:.3f}",
                f"{outcome.seconds:.0f} s",
            )
            for outcome in outcomes
        ]
        rows.append(("a filled box", "", "", "", "", f"{first.j.filled_box_j:.3f}", ""))
        header = ("trained from", "AP", "AP50", "AP75", "of the twin's AP", "J", "training")
        note = "Same videos, model, steps and seed; only the supervision differs."
        tables.append(Table("What the supervision changes", note, header, tuple(rows)))
    tables.append(
        Table(
            "By class",
            "",
            ("class", "AP", "AP50", "AP75", "AR100"),
            tuple(
                (entry.name, *(f"{value:.3f}" for value in (entry.ap, entry.ap50, entry.ap75, entry.ar100)))
                for entry in first.metrics.classes
                if entry.ap >= 0  # -1: no track of this class in the validation videos
            ),
        )
    )
    charts = []
    for outcome in outcomes:
        prefix = "" if len(outcomes) == 1 else f"{outcome.name}: "
        shape = [curve for curve in outcome.curves if curve.name != "class"]
        label = [curve for curve in outcome.curves if curve.name == "class"]
        charts += [Chart(f"{prefix}mask losses", tuple(shape)), Chart(f"{prefix}class loss", tuple(label))]
    return Report(
        title="Masks from boxes",
        lead=(
            f"A model of video instance segmentation, trained on this machine in {_minutes(first.seconds)} from "
            f"{synthetic.videos} synthetic videos with boxes. It never saw a mask."
        ),
        tiles=tuple(tiles),
        captions=("frame", "boxes (not shown to the model)", "predicted masks", "true masks"),
        pictures=tuple(_picture(video, first.results) for video in val.videos[:SHOWN]),
        tables=tuple(tables),
        charts=tuple(charts),
        notes=(
            f"The pictures are the middle frames of the first {min(SHOWN, len(val.videos))} validation videos, not a "
            f"selection. Predicted tracks with a score of {SHOWN_SCORE} or more are drawn, in the colour of the true "
            "track whose boxes they fit best; those left over, such as one object found as two classes, have others.",
            "AP asks for everything at once: finding each object, naming its class, and one mask tube through the "
            "video. J asks for the mask alone: to each true track belongs the predicted tube whose boxes fit best, "
            "whatever its class and score. A filled box scores well on compact objects and badly on crescents.",
            f"Losses are averages over {settings.log_every} steps, weighted as trained, summed over decoder layers.",
            f"{settings.steps} steps of {settings.batch} clips of {config.clip.frames} frames, "
            f"{synthetic.width} x {synthetic.height} pixels; torch {torch.__version__}, {platform.machine()}, threads: "
            f"{torch.get_num_threads()}. Everything together took {_minutes(seconds)}.",
        ),
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _picture(video: Video, results: tuple[TrackResult, ...]) -> Picture:
    t = video.length // 2
    size = video.height, video.width
    mine = [result for result in results if result.video_id == video.id]
    drawn = [result for result in mine if result.score >= SHOWN_SCORE]
    owner = {id(result.segmentations): result.track_id for result in assign(video, drawn)}
    colours = {track.id: place for place, track in enumerate(video.tracks)}
    tracks = video.tracks
    pixels = compare(
        read_frames(video, [t])[0].permute(1, 2, 0).numpy(),
        boxes_N4=np.array([track.boxes_T4[t] for track in tracks]).reshape(-1, 4),
        true_NHW=np.array([decode_mask(track.segmentations[t], *size) for track in tracks]).reshape(-1, *size),
        true_ids=[colours[track.id] for track in tracks],
        predicted_MHW=np.array([decode_mask(result.segmentations[t], *size) for result in drawn]).reshape(-1, *size),
        predicted_ids=[
            colours.get(owner.get(id(result.segmentations)), len(colours) + place) for place, result in enumerate(drawn)
        ],
    )
    scores = ", ".join(f"{result.score:.2f}" for result in drawn) or "none"
    return Picture(pixels, f"{video.name}, frame {t}; scores of the predicted tracks: {scores}")
