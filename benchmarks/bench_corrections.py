"""J of `mfvis label` before and after the worst frames of each clip are corrected, with true masks or with clicks.

    python benchmarks/bench_corrections.py DATA.json --weights mobilenet_v2_imagenet.safetensors

DATA.json is a YouTube-VIS file with masks. Its boxes are labeled, without the cross-video network; then the frames with
the lowest J are corrected, and the clip is labeled again. A corrected frame gets the true masks of all its tracks, or
one click for each track, in the middle of its largest error. Further flags go to `mfvis label`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import machine
from mfvis.data.marks import Point
from mfvis.data.rle import decode_mask, encode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import Corrections
from mfvis.labeling.model_factory import initial_models
from mfvis.labeling.video import WindowState, label_video
from mfvis.parsing import parse
from mfvis.types import TrackResult, Video
from report import add_out, write
from scipy import ndimage

FRAMES = (1, 2, 5)
"""Numbers of corrected frames."""


def masks_of(video: Video, segmentations: Sequence[Sequence[dict | None]]) -> np.ndarray:
    """bool ``[N, T, H, W]``: the masks of all tracks, False where there is none."""
    masks = np.zeros((len(segmentations), video.length, video.height, video.width), bool)
    for n, rles in enumerate(segmentations):
        for t, rle in enumerate(rles):
            if rle is not None:
                masks[n, t] = decode_mask(rle, video.height, video.width, file=video.name, record=f"track {n}")
    return masks


def j_of(video: Video, true_NTHW: np.ndarray, results: Sequence[TrackResult]) -> np.ndarray:
    """float ``[N, T]``: J of each mask, NaN in frames without a box."""
    ours_NTHW = masks_of(video, [result.segmentations for result in results])
    union = (true_NTHW | ours_NTHW).sum((2, 3))
    j_NT = (true_NTHW & ours_NTHW).sum((2, 3)) / np.maximum(union, 1)
    return np.where([track.present_T for track in video.tracks], j_NT, np.nan)


def click(true_HW: np.ndarray, ours_HW: np.ndarray, frame: int) -> Point | None:
    """A click in the middle of the largest error, where it is furthest from the error's border."""
    best, chosen = 0.0, None
    for error_HW, positive in ((true_HW & ~ours_HW, True), (ours_HW & ~true_HW, False)):
        depth_HW = ndimage.distance_transform_edt(np.pad(error_HW, 1))[1:-1, 1:-1]
        if depth_HW.max() > best:
            y, x = np.unravel_index(depth_HW.argmax(), depth_HW.shape)
            best, chosen = depth_HW.max(), Point(frame, x + 0.5, y + 0.5, positive)
    return chosen


def clicks_of(true_NTHW: np.ndarray, ours_NTHW: np.ndarray, frames: Sequence[int]) -> Corrections:
    """One click for each track and frame that has an error."""
    points = {}
    for n in range(len(true_NTHW)):
        found = [click(true_NTHW[n, t], ours_NTHW[n, t], t) for t in frames]
        points[n] = tuple(point for point in found if point)
    return Corrections({}, {n: part for n, part in points.items() if part})


def corrected(config: LabelConfig, video: Video) -> dict[str, list[float]]:
    """`sums_of_j` of a video. Logits are kept, so that only given masks train models again."""
    start = initial_models(config)
    with tempfile.TemporaryDirectory() as folder:
        state = WindowState(Path(folder), {})

        def label(corrections: Corrections) -> list[TrackResult]:
            return label_video(start, config, video, video.name, state, corrections=corrections)

        return sums_of_j(video, label)


def sums_of_j(video: Video, label: Callable[[Corrections], list[TrackResult]]) -> dict[str, list[float]]:
    """Sum of J over the masks, by what was corrected: all masks, and those of the other frames before and after."""
    true_NTHW = masks_of(video, [track.segmentations for track in video.tracks])
    first = label(Corrections())
    before_NT = j_of(video, true_NTHW, first)
    ours_NTHW = masks_of(video, [result.segmentations for result in first])
    seen = np.flatnonzero(np.isfinite(before_NT).any(0))
    worst = seen[np.argsort(np.nanmean(before_NT[:, seen], 0), kind="stable")].tolist()
    sums = {"none": [np.nansum(before_NT), np.isfinite(before_NT).sum()]}
    # Clicks first: they train nothing, so the logits of the first labeling serve.
    for kind in ("clicks in", "masks of"):
        for count in FRAMES:
            frames, name = worst[:count], f"{kind} {count}"
            others = [t for t in range(video.length) if t not in frames]
            masks = {
                n: {t: encode_mask(true_NTHW[n, t]) for t in frames if track.present_T[t] and true_NTHW[n, t].any()}
                for n, track in enumerate(video.tracks)
            }
            clicks = clicks_of(true_NTHW, ours_NTHW, frames)
            corrections = Corrections(masks) if kind == "masks of" else clicks
            after_NT = j_of(video, true_NTHW, label(corrections))
            parts = (before_NT[:, others], after_NT[:, others])
            sums[name] = [np.nansum(after_NT), *map(np.nansum, parts), np.isfinite(parts[0]).sum()]
    print(video.name, {name: round(float(part[0] / sums["none"][1]), 3) for name, part in sums.items()}, flush=True)
    return sums


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", help="names of videos")
    add_out(arguments)
    given, label_flags = arguments.parse_known_args()
    torch.set_num_threads(1)
    flags = [str(given.data), "--backbone.weights", str(given.weights), *label_flags]
    config = parse(LabelConfig, flags, "bench")
    videos = [v for v in load_dataset(given.data).videos if not given.only or v.name in given.only]
    parts = [corrected(config, video) for video in videos]
    masks = sum(part["none"][1] for part in parts)
    base = sum(part["none"][0] for part in parts) / masks
    lines = [
        "| corrected frames of each clip | J, all masks | J, other frames: before | after |",
        "|---|---|---|---|",
        f"| none | {base:.3f} | | |",
    ]
    for name in (name for name in parts[0] if name != "none"):
        total, before, after, others = np.sum([part[name] for part in parts], 0)
        lines.append(f"| {name} | {total / masks:.3f} | {before / others:.3f} | {after / others:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out:
        facts = "\n".join(f"* {key}: {value}" for key, value in (machine(1) | {"clips": len(videos)}).items())
        write(given.out / "bench_corrections.md", f"# Corrections of label mode\n\n{text}\n{facts}\n")


if __name__ == "__main__":
    main()
