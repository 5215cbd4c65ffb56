"""Mean J of `mfvis label` on clips whose masks are withheld, by domain, next to masks that need no training.

    python benchmarks/bench_label.py DATA.json --weights mobilenet_v2_imagenet.safetensors

DATA.json is a YouTube-VIS file with masks; `domain` of its videos is optional. A copy with boxes only is labeled, then
the masks are compared with the true ones. `--work FOLDER` keeps the run. A later call with `--again` uses the logits
of that run, so that only what follows the networks is measured again. Further flags go to `mfvis label`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import machine
from mfvis.data.jsonfile import read_json
from mfvis.data.rle import encode_mask
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import MeanJ, TrackJ, filled_box, mean_j
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.run import run
from mfvis.parsing import parse
from mfvis.types import TrackResult, Video, VideoDataset
from report import add_out, write
from study_data import without_masks

SMALL = 32
"""Pixels: a track is small if the median of its boxes' sizes, sqrt(width x height), is below this."""

MaskMaker = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Mask ``[H, W]`` from a frame (uint8 ``[H, W, 3]``) and a box (xyxy)."""


def inscribed_ellipse(frame_HW3: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    """The ellipse that touches the box's four sides."""
    x1, y1, x2, y2 = box_4
    x = (np.arange(frame_HW3.shape[1]) + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2, 0.5)
    y = (np.arange(frame_HW3.shape[0]) + 0.5 - (y1 + y2) / 2) / max((y2 - y1) / 2, 0.5)
    return x**2 + y[:, None] ** 2 <= 1


def grabcut(frame_HW3: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    """OpenCV's GrabCut, five iterations in the box's surroundings; the filled box where it finds nothing."""
    import cv2

    height, width = frame_HW3.shape[:2]
    box = filled_box(box_4, height, width)
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    margin = 10 + max(len(rows), len(columns)) // 2
    around = (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )
    labels = np.where(box[around], cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if (labels == cv2.GC_BGD).any():
        bgr = np.ascontiguousarray(frame_HW3[around][..., ::-1])
        cv2.setRNGSeed(0)
        cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    mask = np.zeros_like(box)
    mask[around] = labels == cv2.GC_PR_FGD
    return mask if mask.any() else box


def results_of(dataset: VideoDataset, make: MaskMaker) -> list[TrackResult]:
    """Masks that depend on one frame and one box."""

    def masks_of(video: Video) -> list[TrackResult]:
        frames_THW3 = read_frames(video, range(video.length)).permute(0, 2, 3, 1).numpy()
        tubes = [
            tuple(
                encode_mask(make(frame, box)) if present else None
                for frame, box, present in zip(frames_THW3, track.boxes_T4, track.present_T, strict=True)
            )
            for track in video.tracks
        ]
        return [_result(video, n, tube) for n, tube in enumerate(tubes)]

    return [result for video in dataset.videos for result in masks_of(video)]


def _result(video: Video, n: int, segmentations: tuple[dict | None, ...]) -> TrackResult:
    track = video.tracks[n]
    return TrackResult(video.id, track.category_id, 1.0, segmentations, track.boxes_T4, track.id)


def labeled_results(dataset: VideoDataset, completed: Path) -> list[TrackResult]:
    """The masks of a completed file."""
    masks = {annotation["id"]: annotation["segmentations"] for annotation in read_json(completed, [])["annotations"]}
    return [
        _result(video, n, tuple(masks[track.id])) for video in dataset.videos for n, track in enumerate(video.tracks)
    ]


def median_size(dataset: VideoDataset) -> dict[int, float]:
    """Median box size in pixels of each track, by track id."""
    tracks = [track for video in dataset.videos for track in video.tracks if track.present_T.any()]
    sides = {track.id: track.boxes_T4[track.present_T] for track in tracks}
    return {
        id: float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))
        for id, boxes in sides.items()
    }


def table(dataset: VideoDataset, measured: dict[str, MeanJ]) -> str:
    """One row per domain, the means, and the rows of small and of larger objects."""
    entries = {entry["id"]: entry for entry in read_json(dataset.path, [])["videos"]}
    domains = {video.name: entries[video.id].get("domain", "all") for video in dataset.videos}
    size = median_size(dataset)
    names = list(dict.fromkeys(domains.values()))

    def row(name: str, chosen: Callable[[TrackJ], bool]) -> list[float | int | str]:
        first = next(iter(measured.values()))
        frames = sum(track.frames for track in first.tracks if chosen(track))
        return [name, frames, *(_weighted(j.tracks, chosen) for j in measured.values())]

    rows = [row(name, lambda track, name=name: domains[track.video] == name) for name in names]
    means = ["mean of domains", "", *(float(np.mean(column)) for column in list(zip(*rows, strict=True))[2:])]
    rows += [means] if len(names) > 1 else []
    rows.append(row("all object-frames", lambda track: True))
    small = {track.track_id for track in next(iter(measured.values())).tracks if size[track.track_id] < SMALL}
    if small:
        rows.append(row(f"objects below {SMALL} pixels", lambda track: track.track_id in small))
        rows.append(row(f"objects of {SMALL} pixels or more", lambda track: track.track_id not in small))
    lines = [["domain", "object-frames", *measured], ["---"] * (2 + len(measured)), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _weighted(tracks: Sequence[TrackJ], chosen: Callable[[TrackJ], bool]) -> float:
    frames = sum(track.frames for track in tracks if chosen(track))
    return sum(track.frames * track.j for track in tracks if chosen(track)) / frames if frames else float("nan")


def _cell(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def per_track(dataset: VideoDataset, measured: dict[str, MeanJ]) -> str:
    """One row per track, the worst of the first column first."""
    size = median_size(dataset)
    columns = zip(*(j.tracks for j in measured.values()), strict=True)
    rows = sorted(([track[0].j, track] for track in columns), key=lambda row: row[0])
    lines = [["video", "track", "frames", "size", *measured], ["---"] * (4 + len(measured))]
    for _, tracks in rows:
        first = tracks[0]
        head = [first.video, first.track_id, first.frames, f"{size[first.track_id]:.0f}"]
        lines.append([*head, *(track.j for track in tracks)])
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def forget_masks(out: Path) -> None:
    """Delete a run's masks, but not the logits of its networks."""
    for path in (out / "parts").rglob("*.json"):
        if path.name != "settings.json":
            path.unlink()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--frames", type=Path, help="default: JPEGImages next to the data")
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--work", type=Path, help="folder of the run, which is kept and resumed")
    arguments.add_argument("--again", action="store_true", help="make the masks again from the logits in --work")
    arguments.add_argument("--tracks", action="store_true", help="print a row for each track, too")
    add_out(arguments)
    given, label_flags = arguments.parse_known_args()
    torch.set_num_threads(given.threads)
    frames = given.frames or given.data.parent / "JPEGImages"
    truth = load_dataset(given.data, frames)
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        boxes = work / "boxes.json"
        boxes.write_text(json.dumps(without_masks(json.loads(given.data.read_text()))))
        flags = [str(boxes), "--frames", str(frames), "--backbone.weights", str(given.weights), "--no-overlays"]
        config = parse(LabelConfig, [*flags, "--out", str(work / "labels"), *label_flags], "bench")
        if given.again:
            forget_masks(config.out)
        began = time.perf_counter()
        labeled = labeled_results(truth, run(config))
        seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    makers: dict[str, MaskMaker] = {
        "filled box": lambda frame, box: filled_box(box, *frame.shape[:2]),
        "inscribed ellipse": inscribed_ellipse,
    }
    try:
        import cv2  # noqa: F401

        makers["GrabCut"] = grabcut
    except ImportError:
        print("GrabCut is left out: pip install opencv-python-headless")
    measured = {"label": mean_j(truth, labeled)}
    measured |= {name: mean_j(truth, results_of(truth, make)) for name, make in makers.items()}
    total = sum(video.length for video in truth.videos)
    facts = {
        "seconds per frame": f"{seconds / total:.2f} ({total} frames)",
        "seconds per object-frame": f"{seconds / measured['label'].object_frames:.2f}",
        "peak memory": f"{memory:.1f} GiB",
        **machine(given.threads),
    }
    text = f"{table(truth, measured)}\n\n" + "\n".join(f"* {key}: {value}" for key, value in facts.items()) + "\n"
    if given.tracks:
        text += f"\n{per_track(truth, measured)}\n"
    print(text)
    if given.out:
        write(given.out / "label-domains.md", text)


if __name__ == "__main__":
    main()
