"""Content of the demo's report: metrics, figures and curves of its three acts."""

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
    """Result of one training of the detecting model on the validation videos."""

    name: str
    metrics: Metrics
    j: MeanJ
    seconds: float
    """Training time."""
    results: tuple[TrackResult, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class BoxPromptedResult:
    """Result of one training of the box-prompted network on the validation videos."""

    name: str
    j: MeanJ
    seconds: float
    """Training time."""
    results: tuple[TrackResult, ...]


def page(
    config: DemoConfig,
    labels: Gallery,
    val: VideoDataset,
    trained: Sequence[TrainingResult],
    prompted: Sequence[BoxPromptedResult],
    seconds: float,
) -> Report:
    """The report. Figures show the first training.

    Args:
        labels: `label_gallery` of the first act.
        prompted: Results without TK-Loss, then with it.
        seconds: Total time.
    """
    synthetic, settings = config.synthetic, config.train
    tables = [_by_class(trained[0])]
    if len(trained) > 1:
        tables.insert(0, _by_supervision(trained))
    charts = []
    for result in trained:
        prefix = "" if len(trained) == 1 else f"{result.name}: "
        shape = [curve for curve in result.curves if curve.name != "class"]
        label = [curve for curve in result.curves if curve.name == "class"]
        charts += [Chart(f"{prefix}mask losses", tuple(shape)), Chart(f"{prefix}class loss", tuple(label))]
    return Report(
        title="Masks from boxes",
        lead=(
            "Everything on this page was trained on this machine, from boxes. No mask was used, except to measure the "
            "results and to show the true masks."
        ),
        galleries=(
            labels,
            _detections(synthetic.videos, val, trained[0]),
            _tk_effect(config, val, *prompted),
        ),
        tables=tuple(tables),
        charts=tuple(charts),
        notes=(
            "The figures are middle frames of the first videos, not a selection. In the second gallery predicted "
            f"tracks with a score of {SHOWN_SCORE} or more are drawn, in the color of the true track whose boxes they "
            "fit best. Other predictions, such as a second class for the same object, have other colors. In the third "
            "gallery masks are not clipped to the boxes.",
            "In the videos of the first gallery no object has a color of the ground. In the others every object has "
            "one, which is harder: mfvis label would lose parts of these objects.",
            "AP measures detection, classification, and one mask tube through the video. J measures only the masks: "
            "each true track is compared with the predicted tube whose boxes fit best, regardless of class and score. "
            "A filled box scores well on compact objects and badly on crescents.",
            "TK-Loss helps networks that get the boxes: that of the third gallery, and on real video those of mfvis "
            "label (benchmarks/results/study/labels_losses.md). The detecting model of the second gallery gains little "
            "from it: benchmarks/results/demo.md has the measurements, and mfvis demo --twin trains that model without "
            "TK-Loss, too. How far the weights of the losses matter: benchmarks/results/given_boxes.md.",
            f"Tables and curves refer to the detecting model. Losses are averages over {settings.log_every} "
            "steps, weighted as trained, summed over decoder layers.",
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
        figures=tuple(
            _prompted_figure(video, [("", labeling.j, labeling.results)], with_frame=False) for video in videos[:SHOWN]
        ),
    )


def _detections(videos: int, val: VideoDataset, result: TrainingResult) -> Gallery:
    return Gallery(
        title="Objects in new videos",
        lead=(
            f"A video instance segmentation model, trained on the boxes of {videos} videos. Its only input is the "
            f"frames of these new videos. Its training took {_minutes(result.seconds)}."
        ),
        tiles=(
            Tile("Mask AP", f"{result.metrics.ap:.3f}", "YouTube-VIS AP, IoU .50 to .95, on unseen videos"),
            Tile("Mask AP50", f"{result.metrics.ap50:.3f}", "a track counts from IoU .50 over its whole tube"),
            Tile("J", f"{result.j.j:.3f}", f"mean IoU over {result.j.object_frames} object-frames"),
            _filled_box(result.j),
        ),
        captions=("frame", "boxes (not shown to the model)", "predicted masks", "true masks"),
        figures=tuple(_detected_figure(video, result.results) for video in val.videos[:SHOWN]),
    )


def _tk_effect(
    config: DemoConfig, val: VideoDataset, without: BoxPromptedResult, with_tk: BoxPromptedResult
) -> Gallery:
    loss = config.box_prompted.loss
    weights = {"projection": loss.projection, "background": loss.background, "pairwise": loss.pairwise.weight}
    others = " and ".join(f"the {name} loss" for name, weight in weights.items() if weight > 0)
    panels = [(result.name, result.j, result.results) for result in (without, with_tk)]
    return Gallery(
        title="Effect of TK-Loss",
        lead=(
            "Shown with a second, small box-prompted network: it gets every object's box, in these new videos too, and "
            "predicts its mask. Only the losses prevent it from simply filling the boxes. It was trained on boxes "
            f"twice, for {config.box_prompted.optim.steps} steps from the same initial weights with the same clips and "
            f"settings: with {others} ({_minutes(without.seconds)}), and with TK-Loss in addition "
            f"({_minutes(with_tk.seconds)}). TK-Loss encourages matching patches of two frames to get the same label."
        ),
        tiles=(
            Tile("J without TK-Loss", f"{without.j.j:.3f}", f"mean IoU over {without.j.object_frames} object-frames"),
            Tile("J with TK-Loss", f"{with_tk.j.j:.3f}", "the same network and object-frames"),
            _filled_box(without.j),
        ),
        captions=("frame", "boxes (given to the network)", "masks without TK-Loss", "masks with TK-Loss", "true masks"),
        figures=tuple(_prompted_figure(video, panels) for video in val.videos[:SHOWN]),
    )


def _filled_box(j: MeanJ) -> Tile:
    return Tile("J of a filled box", f"{j.filled_box_j:.3f}", "score of the true box used as a mask")


def _by_supervision(trained: Sequence[TrainingResult]) -> Table:
    twin = next(result for result in trained if result.name.startswith("masks"))
    rows = [
        (
            result.name,
            *(f"{value:.3f}" for value in (result.metrics.ap, result.metrics.ap50, result.metrics.ap75)),
            f"{100 * result.metrics.ap / twin.metrics.ap:.0f} %" if twin.metrics.ap > 0 else "-",
            f"{result.j.j:.3f}",
            f"{result.seconds:.0f} s",
        )
        for result in trained
    ]
    rows.append(("a filled box", "", "", "", "", f"{trained[0].j.filled_box_j:.3f}", ""))
    header = ("trained from", "AP", "AP50", "AP75", "of the twin's AP", "J", "training")
    note = "Same videos, model, steps and seed; only the supervision differs."
    return Table("What the supervision changes", note, header, tuple(rows))


def _by_class(result: TrainingResult) -> Table:
    rows = [
        (entry.name, *(f"{value:.3f}" for value in (entry.ap, entry.ap50, entry.ap75, entry.ar100)))
        for entry in result.metrics.classes
        if entry.ap >= 0  # -1: no track of this class in the validation videos
    ]
    return Table("By class", "", ("class", "AP", "AP50", "AP75", "AR100"), tuple(rows))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _detected_figure(video: Video, results: Sequence[TrackResult]) -> Figure:
    drawn = [result for result in results if result.video_id == video.id and result.score >= SHOWN_SCORE]
    owner = {id(result.segmentations): result.track_id for result in assign_results(video, drawn)}
    colors = {track.id: color for color, track in enumerate(video.tracks)}
    ids = [colors.get(owner.get(id(result.segmentations)), len(colors) + n) for n, result in enumerate(drawn)]
    scores = ", ".join(f"{result.score:.2f}" for result in drawn) or "none"
    return _figure(video, [(drawn, ids)], f"scores of the predicted tracks: {scores}")


def _prompted_figure(
    video: Video, results: Sequence[tuple[str, MeanJ, Sequence[TrackResult]]], with_frame: bool = True
) -> Figure:
    """A figure of masks that were predicted for given boxes. results: name, J and masks of each panel."""
    ids = {track.id: color for color, track in enumerate(video.tracks)}
    masks, notes = [], []
    for name, j, tracks in results:
        of_video = [result for result in tracks if result.video_id == video.id]
        masks.append((of_video, [ids[result.track_id] for result in of_video]))
        measured = [track for track in j.tracks if track.video == video.name]
        if measured:  # a video without any visible object has none
            mean = np.average([track.j for track in measured], weights=[track.frames for track in measured])
            notes.append(f"{mean:.2f} {name}".strip())
    return _figure(video, masks, f"J over the whole video: {', '.join(notes) or 'no object'}", with_frame)


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
