"""Python interface: the commands as functions of arrays and files, silent unless progress is requested.

``import mfvis`` offers every function of this module: ``mfvis.label``, ``mfvis.load_model`` and so on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mfvis.data.datasets import Split, parse_spec
from mfvis.data.exporters import ExportConfig
from mfvis.data.exporters import run as export_file
from mfvis.data.jsonfile import read_json
from mfvis.data.rle import decode_mask
from mfvis.data.video import open_video, video_in_memory
from mfvis.device import device_of
from mfvis.errors import ConfigError
from mfvis.eval.ap_metrics import COCO, YOUTUBE_VIS, Metrics
from mfvis.eval.config import EvalConfig
from mfvis.eval.mean_j import MeanJ
from mfvis.eval.mots import MotsMetrics
from mfvis.eval.run import measure
from mfvis.eval.ytvis import evaluate as average_precision
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import Corrections, read_corrections
from mfvis.labeling.corrections_of_arrays import corrections_of_arrays
from mfvis.labeling.model_factory import initial_models
from mfvis.labeling.plan import video_work as label_work
from mfvis.labeling.video import label_video
from mfvis.parsing import build
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import predict_video as predict_tracks
from mfvis.predict.predictor import sized_as_trained, video_work
from mfvis.predict.torch_export import export_model as export_model
from mfvis.progress import Progress
from mfvis.train.checkpoint import TrainedModel
from mfvis.train.checkpoint import load_model as load_checkpoint
from mfvis.types import Track, TrackResult, Video, VideoDataset

Frames = np.ndarray | Tensor | str | Path | Video
"""Frames of one video: RGB uint8, ``[T, H, W, 3]`` as an array or ``[T, 3, H, W]`` as a tensor; the path of a video
file, of a folder of images, or of a JSON with one video; or a video of `load_dataset`."""


class Labels(NamedTuple):
    """Masks of the tracks of one video, and their quality. Unpacks as ``masks, quality``."""

    masks: np.ndarray
    """bool ``[N, T, H, W]``; False everywhere in frames without a box."""
    quality: np.ndarray
    """float32 ``[N, T]``, 0 to 1: expected J of the mask (`mfvis.labeling.quality`), to order masks for a check. NaN in
    frames without a box."""


def label(
    frames: Frames,
    boxes: Any = None,
    *,
    masks: Mapping[tuple[int, int], Any] | None = None,
    points: Sequence[tuple[int, int, float, float, bool]] = (),
    scribbles: Sequence[tuple[int, int, Sequence[tuple[float, float]], bool]] = (),
    progress: bool = False,
    **settings: Any,
) -> Labels:
    """Generate the masks of box tracks, as ``mfvis label`` does for one video.

        masks, quality = mfvis.label(frames, boxes)
        masks, quality = mfvis.label("swan.mp4", boxes, num_models=1, backbone={"weights": "mobilenet.safetensors"})

    Small models are trained on these boxes, which takes about 25 s of one CPU core for 30 frames. The default backbone
    is downloaded from the Hugging Face hub once.

    Args:
        frames: The video: RGB uint8 ``[T, H, W, 3]`` (array) or ``[T, 3, H, W]`` (tensor), a video file, a folder of
            images, a JSON with one video, or a `Video` of `load_dataset`. Masks, clicks and scribbles in a JSON are
            corrections, as for the command; ``given_masks=False`` ignores the masks.
        boxes: ``[N, T, 4]``, ``(x1, y1, x2, y2)`` in pixels, half-open. Four times NaN or a box without area: the
            object is absent from the frame. Boxes are clipped to the frame. Default: the tracks of the JSON or `Video`.
        masks: Masks of a person, bool ``[H, W]`` by ``(track, frame)``. They are kept and learned from.
        points: Clicks ``(track, frame, x, y, positive)`` in pixels; positive: the pixel belongs to the object.
        scribbles: Lines ``(track, frame, [(x, y), ...], positive)`` through pixels of the object, or next to it.
        progress: Show the progress with the time left: on stderr if it is a terminal, else a line on stdout now and
            then.
        **settings: Fields of `mfvis.labeling.config.LabelConfig`. Their defaults are those of ``mfvis label``. Nested
            ones are dicts: ``optim={"steps": 40}``.

    Returns:
        Masks, bool ``[N, T, H, W]``, and their quality, float32 ``[N, T]``.

    Raises:
        ConfigError: Shapes, boxes or settings are invalid; all faults are reported together.
        DataError: Masks, clicks or scribbles are invalid; all faults are reported together.
        VideoError: The video cannot be read.
        CheckpointError: The backbone's weights or the checkpoint cannot be read.
    """
    for name in ("data", "out", "frames", "overlays", "shard", "only"):
        if name in settings:
            raise ConfigError(f"{name} is a setting of the command mfvis label, which writes files; leave it out")
    config = build(LabelConfig, {"data": "frames"} | settings, "the settings of mfvis.label")
    video = _video(frames)
    video = video if boxes is None else replace(video, tracks=_tracks(boxes, video))
    if not any(track.present_T.any() for track in video.tracks):
        raise ConfigError(f"video {video.name} has no boxes; give them as an array [N, T, 4]")
    corrections = Corrections()
    if boxes is None and isinstance(frames, str | Path) and Path(frames).suffix == ".json":
        file = load_dataset(frames)
        corrections = read_corrections(read_json(file.path, []), file, None, config.given_masks).get(
            video.id, corrections
        )
    corrections |= corrections_of_arrays(video, masks or {}, points, scribbles)
    with Progress(visible=progress) as bar, torch.random.fork_rng():
        start = initial_models(config)
        bar.plan(label_work(config, video, start.max_tracks_per_window))
        results = label_video(start, config, video, video.name, corrections=corrections, progress=bar)
    masks_NTHW = np.zeros((len(results), video.length, video.height, video.width), bool)
    quality_NT = np.full(masks_NTHW.shape[:2], np.nan, np.float32)
    for n, (result, track) in enumerate(zip(results, video.tracks, strict=True)):
        for t in np.flatnonzero(track.present_T):
            masks_NTHW[n, t] = decode_mask(result.segmentations[t], video.height, video.width)
            quality_NT[n, t] = result.quality[t]
    return Labels(masks_NTHW, quality_NT)


def load_dataset(source: str | Path, frames: str | Path | None = None, split: Split = "train") -> VideoDataset:
    """Read a data set without its frames: videos, tracks, categories.

    Args:
        source: A JSON in the layout of YouTube-VIS or COCO, or a published data set as ``NAME:FOLDER``, as in
            ``mfvis train --data``.
        frames: The folder of the frames, if they are not in their usual place.
        split: The split of a published data set.

    Raises:
        DataError: With every problem of the files.
        ConfigError: The name is unknown.
    """
    return parse_spec(str(source)).load(split, frames)


def load_model(checkpoint: str | Path, device: str = "auto") -> TrainedModel:
    """Load a trained model, in evaluation mode, with its categories and training configuration.

    Args:
        checkpoint: Directory of a run of ``mfvis train`` or of one of its checkpoints.
        device: As in ``mfvis predict``: ``auto``, ``cpu``, ``cuda:1``.

    Raises:
        CheckpointError: The checkpoint is missing, damaged or inconsistent.
    """
    return load_checkpoint(checkpoint, device_of(device))


def predict_video(model: TrainedModel, frames: Frames, *, progress: bool = False, **settings: Any) -> list[TrackResult]:
    """Find and segment the objects of one video, as ``mfvis predict`` does.

    Args:
        model: As returned by `load_model`.
        frames: As in `label`.
        progress: As in `label`.
        **settings: Fields of `mfvis.predict.config.InferConfig`, such as ``max_tracks=20`` or ``window=16``.

    Returns:
        Tracks, best first. ``segmentations`` holds a compressed COCO RLE or None for each frame, which
        `pycocotools.mask.decode` turns into pixels; ``boxes_T4`` is float32 ``[T, 4]``.

    Raises:
        ConfigError: A setting is invalid.
        VideoError: The video cannot be read.
        CheckpointError: The model predicts NaN.
    """
    config = build(InferConfig, settings, "the settings of mfvis.predict_video")
    infer = sized_as_trained(config, model.config.clip)
    video = _video(frames)
    with Progress(visible=progress) as bar:
        bar.plan(video_work(video))
        return predict_tracks(model.model, video, model.categories, infer, bar)


def evaluate(
    results: str | Path | Sequence[TrackResult], data: str | Path | VideoDataset, *, progress: bool = False
) -> Metrics | MotsMetrics | MeanJ:
    """Compare results with true masks, as ``mfvis eval`` does.

    Args:
        results: Any file of results that ``mfvis eval`` reads, or the tracks of `predict_video`.
        data: The true masks: as in ``mfvis eval --data``, or a data set of `load_dataset`, with tracks as `results`.
        progress: Print the table.

    Raises:
        DataError: With every problem of the files.
    """
    if isinstance(results, str | Path):
        if isinstance(data, VideoDataset):
            raise ConfigError("data is a data set in memory; name its file, as results is a file")
        with _printing(progress):
            return measure(EvalConfig(Path(results), str(data)))
    dataset = data if isinstance(data, VideoDataset) else load_dataset(data, split="valid")
    return average_precision(dataset, list(results), rules=COCO if dataset.of_images else YOUTUBE_VIS)


def export(
    file: str | Path, format: str, out: str | Path, *, progress: bool = False, **settings: Any
) -> tuple[str, ...]:
    """Write masks and boxes in the format of another tool, as ``mfvis data export`` does.

        mfvis.export("labeled/boxes.json", "coco", "coco.json", masks="polygons")

    Args:
        file: A labeled file, a JSON in the layout of YouTube-VIS or COCO, or results of ``mfvis predict``.
        format: One of `mfvis.data.exporters.table.EXPORT_FORMATS`.
        out: File or new folder, as the format requires.
        progress: Print the summary.
        **settings: Other fields of `mfvis.data.exporters.ExportConfig`: ``data``, ``frames``, ``images``, ``masks``,
            ``min_score``.

    Returns:
        Notes on what was left out or changed.

    Raises:
        ConfigError: A setting is invalid, or `out` is in use.
        DataError: With every problem of the files.
    """
    values = {"file": str(file), "format": format, "out": Path(out)} | settings
    with _printing(progress):
        return export_file(build(ExportConfig, values, "the settings of mfvis.export"))


@contextmanager
def _printing(progress: bool) -> Iterator[None]:
    with nullcontext() if progress else redirect_stdout(io.StringIO()):
        yield


def _video(frames: Frames) -> Video:
    """The video that an argument `frames` means."""
    if isinstance(frames, Video):
        return frames
    if isinstance(frames, Tensor):
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ConfigError(f"frames is a tensor {list(frames.shape)}; expected uint8 [T, 3, H, W]")
        frames = frames.permute(0, 2, 3, 1).cpu().numpy()
    if isinstance(frames, np.ndarray):
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
            expected = "expected uint8 [T, H, W, 3], RGB; as a tensor [T, 3, H, W]"
            raise ConfigError(f"frames is {frames.dtype} {list(frames.shape)}; {expected}")
        return video_in_memory(frames)
    if Path(frames).suffix != ".json":
        return open_video(frames)
    videos = load_dataset(frames).videos
    if len(videos) != 1:
        raise ConfigError(
            f"{frames} has {len(videos)} videos; give one of them, load_dataset({str(frames)!r}).videos[0], or label "
            f"all of them with the command mfvis label {frames}"
        )
    return videos[0]


def _tracks(boxes: Any, video: Video) -> tuple[Track, ...]:
    """Tracks of an array of boxes ``[N, T, 4]``. ConfigError with every fault."""
    boxes = boxes.detach().cpu().numpy() if isinstance(boxes, Tensor) else boxes
    try:
        boxes_NT4 = np.array(boxes, np.float32)
    except (TypeError, ValueError):
        raise ConfigError(
            "boxes is not an array of numbers; expected [N, T, 4], NaN where an object is absent"
        ) from None
    if boxes_NT4.ndim != 3 or boxes_NT4.shape[1:] != (video.length, 4):
        raise ConfigError(f"boxes has shape {list(boxes_NT4.shape)}; expected [N, {video.length}, 4] for these frames")
    boxes_NT4[np.isnan(boxes_NT4).all(-1)] = 0
    size = np.array([video.width, video.height], np.float32)
    low_NT2, high_NT2 = boxes_NT4[..., :2], boxes_NT4[..., 2:]
    visible_NT = (high_NT2 > low_NT2).all(-1)
    faults = {
        "has NaN or infinity": ~np.isfinite(boxes_NT4).all(-1),
        "has a negative size; expected x1, y1, x2, y2": (high_NT2 < low_NT2).any(-1),
        f"lies outside the frame, {video.width} x {video.height}": visible_NT
        & ((low_NT2 >= size) | (high_NT2 <= 0)).any(-1),
    }
    lines = [
        f"boxes[{n}, {t}] is {boxes_NT4[n, t].tolist()} and {what}"
        for what, faulty_NT in faults.items()
        for n, t in np.argwhere(faulty_NT).tolist()
    ]
    if not lines and visible_NT.any() and boxes_NT4.max() <= 1:
        lines = ["no box is as large as a pixel: multiply shares of the frame by its size"]
    if lines:
        raise ConfigError("\n".join(lines[:20] + [f"... and {len(lines) - 20} more"][: len(lines) > 20]))
    clipped_NT4 = np.clip(boxes_NT4, 0, np.tile(size, 2)) * visible_NT[..., None]
    return tuple(Track(n, 1, boxes_T4) for n, boxes_T4 in enumerate(clipped_NT4, 1))
