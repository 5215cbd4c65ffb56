"""Content of the demo's report: metrics, figures and curves of its two acts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.eval.ap_metrics import Metrics
from mfvis.eval.mean_j import MeanJ
from mfvis.predict.assignment import assign_results
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.draw import side_by_side
from mfvis.vis.report import Chart, Curve, Figure, Gallery, Report, Table, Tile

if TYPE_CHECKING:
    from mfvis.demo.config import DemoConfig
    from mfvis.demo.labeling import LabelingResult

SHOWN = 8
"""Validation videos in each gallery: always the first ones, so that results are not hand-picked."""
SHOWN_SCORE = 0.5
"""Minimum score of drawn predictions."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of one training on the validation videos."""

    name: str
    metrics: Metrics
    j: MeanJ
    seconds: float
    """Training time."""
    results: tuple[TrackResult, ...]
    curves: tuple[Curve, ...]


def page(
    config: DemoConfig,
    labels: Gallery,
    val: VideoDataset,
    trained: Sequence[TrainingResult],
    seconds: float,
) -> Report:
    """The report.

    Args:
        labels: `label_gallery` of the first act.
        trained: Results from boxes without TK-Loss, then with it, then from masks if there is the twin.
        seconds: Total time.
    """
    synthetic, settings = config.synthetic, config.train
    charts = []
    for result in trained:
        shape = [curve for curve in result.curves if curve.name != "class"]
        label = [curve for curve in result.curves if curve.name == "class"]
        charts += [
            Chart(f"{result.name}: mask losses", tuple(shape)),
            Chart(f"{result.name}: class loss", tuple(label)),
        ]
    return Report(
        title="Masks from boxes",
        lead=(
            "Everything on this page was trained on this machine, from boxes. No mask was used, except to measure the "
            "results and to show the true masks."
        ),
        galleries=(labels, _tk_effect(config, val, *trained[:2])),
        tables=(_by_supervision(trained), _by_class(trained[1])),
        charts=tuple(charts),
        notes=(
            "The figures are middle frames of the first videos, not a selection. In the second gallery predicted "
            f"tracks with a score of {SHOWN_SCORE} or more are drawn, in the color of the true track whose boxes they "
            "fit best. Other predictions, such as a second class for the same object, have other colors.",
            "In the videos of the first gallery no object has a color of the ground. In the others every object has "
            "one, which is harder: mfvis label would lose parts of these objects.",
            "AP measures detection, classification, and one mask tube through the video. J measures only the masks: "
            "each true track is compared with the predicted tube whose boxes fit best, regardless of class and score. "
            "A filled box scores well on compact objects and badly on crescents.",
            "The color-pairwise loss does part of TK-Loss's work on these videos, and is left out by default. All "
            "combinations, with three seeds: benchmarks/results/study/synthetic_losses.md.",
            f"Losses are averages over {settings.log_every} steps, weighted as trained, summed over decoder layers.",
            f"{settings.steps} steps of {settings.batch_size} clips of {config.clip.frames} frames, "
            f"{synthetic.width} x {synthetic.height} pixels; torch {torch.__version__}, {platform.machine()}, threads: "
            f"{torch.get_num_threads()}. Everything together took {_minutes(seconds)}.",
        ),
    )


def label_gallery(labeling: LabelingResult) -> Gallery:
    """Boxes, masks and true masks of the first act."""
    videos = labeling.truth.videos
    frames = sum(video.length for video in videos)
    return Gallery(
        title="Boxes in, masks out",
        lead=(
            f"{labeling.command} generated these masks. Its only input is {frames} frames of {len(videos)} videos with "
            f"a box around each object. It took {_minutes(labeling.seconds)}."
        ),
        tiles=(
            Tile("J of the masks", f"{labeling.j.j:.3f}", f"mean IoU over {labeling.j.object_frames} object-frames"),
            _filled_box(labeling.j),
        ),
        captions=("boxes in", "masks out", "true masks"),
        figures=tuple(_labeled_figure(video, labeling) for video in videos[:SHOWN]),
    )


def _tk_effect(config: DemoConfig, val: VideoDataset, without: TrainingResult, with_tk: TrainingResult) -> Gallery:
    loss = config.loss
    weights = {
        "box projection loss": loss.projection,
        "background loss": loss.background,
        "pairwise loss": loss.pairwise.weight,
        "position prior": loss.prior.weight,
    }
    others = " and ".join(f"the {name}" for name, weight in weights.items() if weight > 0)
    return Gallery(
        title="Objects in new videos, and the effect of TK-Loss",
        lead=(
            f"A video Mask2Former, trained on the boxes of {config.synthetic.videos} videos. Its only input is the "
            "frames of these new videos. It was trained twice, from the same initial weights with the same clips: with "
            f"{others} ({_minutes(without.seconds)}), and with TK-Loss in addition ({_minutes(with_tk.seconds)}). "
            "TK-Loss encourages matching patches of two frames to get the same label."
        ),
        tiles=(
            Tile("Mask AP without TK-Loss", f"{without.metrics.ap:.3f}", "YouTube-VIS AP, IoU .50 to .95"),
            Tile("Mask AP with TK-Loss", f"{with_tk.metrics.ap:.3f}", "the same model and videos"),
            Tile("J without TK-Loss", f"{without.j.j:.3f}", f"mean IoU over {without.j.object_frames} object-frames"),
            Tile("J with TK-Loss", f"{with_tk.j.j:.3f}", "the same model and object-frames"),
            _filled_box(without.j),
        ),
        captions=("frame", "boxes (not shown to the model)", "without TK-Loss", "with TK-Loss", "true masks"),
        figures=tuple(_detected_figure(video, (without, with_tk)) for video in val.videos[:SHOWN]),
    )


def _filled_box(j: MeanJ) -> Tile:
    return Tile("J of a filled box", f"{j.filled_box_j:.3f}", "score of the true box used as a mask")


def _by_supervision(trained: Sequence[TrainingResult]) -> Table:
    rows = [
        (
            result.name,
            *(f"{value:.3f}" for value in (result.metrics.ap, result.metrics.ap50, result.metrics.ap75, result.j.j)),
            f"{result.seconds:.0f} s",
        )
        for result in trained
    ]
    rows.append(("a filled box", "", "", "", f"{trained[0].j.filled_box_j:.3f}", ""))
    note = "Same videos, model, steps and seed; only the losses differ. mfvis demo --twin also trains from masks."
    return Table("What the losses change", note, ("trained from", "AP", "AP50", "AP75", "J", "training"), tuple(rows))


def _by_class(result: TrainingResult) -> Table:
    rows = [
        (entry.name, *(f"{value:.3f}" for value in (entry.ap, entry.ap50, entry.ap75, entry.ar100)))
        for entry in result.metrics.classes
        if entry.ap >= 0  # -1: no track of this class in the validation videos
    ]
    return Table("By class, with TK-Loss", "", ("class", "AP", "AP50", "AP75", "AR100"), tuple(rows))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _detected_figure(video: Video, trainings: Sequence[TrainingResult]) -> Figure:
    colors = {track.id: color for color, track in enumerate(video.tracks)}
    panels, scores = [], []
    for training in trainings:
        drawn = [result for result in training.results if result.video_id == video.id and result.score >= SHOWN_SCORE]
        owner = {id(result.segmentations): result.track_id for result in assign_results(video, drawn)}
        ids = [colors.get(owner.get(id(result.segmentations)), len(colors) + n) for n, result in enumerate(drawn)]
        panels.append((drawn, ids))
        scores.append(", ".join(f"{result.score:.2f}" for result in drawn) or "none")
    return _figure(video, panels, f"scores of the predicted tracks: {'; '.join(scores)}")


def _labeled_figure(video: Video, labeling: LabelingResult) -> Figure:
    ids = {track.id: color for color, track in enumerate(video.tracks)}
    labeled = [result for result in labeling.results if result.video_id == video.id]
    measured = [track for track in labeling.j.tracks if track.video == video.name]
    caption = "no object"
    if measured:  # a video without any visible object has none
        caption = f"{np.average([track.j for track in measured], weights=[track.frames for track in measured]):.2f}"
    masks = [(labeled, [ids[result.track_id] for result in labeled])]
    return _figure(video, masks, f"J over the whole video: {caption}", with_frame=False)


def _figure(
    video: Video,
    masks: Sequence[tuple[Sequence[TrackResult], Sequence[int]]],
    caption: str,
    with_frame: bool = True,
) -> Figure:
    """The middle frame, its boxes, the masks of each set of results in the colors of these ids, the ground truth."""
    t = video.length // 2
    tracks, ids = video.tracks, range(len(video.tracks))

    def drawn(rles: Sequence[object]) -> np.ndarray:
        size = video.height, video.width
        return np.array([decode_mask(rle, *size) for rle in rles]).reshape(-1, *size)

    sets = [(drawn([result.segmentations[t] for result in results]), colors) for results, colors in masks]
    pixels = side_by_side(
        read_frames(video, [t])[0].permute(1, 2, 0).numpy(),
        np.array([track.boxes_T4[t] for track in tracks]).reshape(-1, 4),
        ids,
        [*sets, (drawn([track.segmentations[t] for track in tracks]), ids)],
        with_frame,
    )
    return Figure(pixels, f"{video.name}, frame {t}; {caption}")
