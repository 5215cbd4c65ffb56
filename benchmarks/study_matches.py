"""Matches of the TK-Loss on real clips: how many are wrong, and how many add information that boxes lack.

    python benchmarks/study_matches.py MASKS.json --out benchmarks/results/study

MASKS.json is a YouTube-VIS file with masks, which are used for this table only. From every video two pairs of
frames are drawn, and matched at the size and with the settings of the preset `real`, then with one of them changed.
Counted are the pixels inside an object's box in either frame, as the loss counts them. A match is wrong if it joins a
pixel of the object to one that is not. Boxes do not supervise background inside a box:
where it is matched to a pixel outside the box of the other frame, the loss can propagate background into the box; the
same match misleads on object pixels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from mfvis.data.augment import fitted_size, resize
from mfvis.data.clips import make_clip
from mfvis.data.ytvis import load_dataset
from mfvis.losses.temporal import TemporalConfig
from mfvis.parsing import build, load_preset
from mfvis.train.config import Config
from mfvis.types import VideoDataset
from report import add_out, write

import mfvis_ext

STRIDE = 4
COLUMNS = {
    "matched": "pixels with a match",
    "wrong": "wrong matches",
    "static": "matches without motion",
    "background": "background in boxes",
    "supervised": "of this, matched to outside",
    "misled": "of the object, matched to outside",
}


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    temporal: TemporalConfig
    gap: int
    """Frames from one of a pair to the other."""
    short_side: int


def settings_of(config: Config) -> list[Setting]:
    """The preset's, and those that differ from it in one thing."""
    base = Setting("preset", config.loss.temporal, config.clip.stride, min(config.clip.short_sides))
    changed = [("threshold", {"threshold": value}) for value in (0.05, 3.7e-6)]
    changed += [("k", {"k": value}) for value in (1, 3)]
    changed += [("radius", {"radius": value}) for value in (3, 7)]
    changed += [("radius 1, dilation", {"radius": 1, "dilation": 3})]
    changed += [("patch", {"patch_size": value}) for value in (1, 5)]
    rows = [base]
    for name, values in changed:
        label = f"{name} {[*values.values()][-1]:g}"
        rows.append(replace(base, name=label, temporal=replace(base.temporal, **values)))
    rows += [replace(base, name=f"{gap} frames apart", gap=gap) for gap in (1, 4, 8) if gap != base.gap]
    return rows + [replace(base, name=f"short side {side}", short_side=side) for side in (192, 256)]


@torch.no_grad()
def counts(dataset: VideoDataset, setting: Setting, pairs: int = 2) -> dict[int, dict[str, float]]:
    """Pixels and matches of each kind, by video id, summed over objects and `pairs` pairs of frames."""
    found: dict[int, dict[str, float]] = {}
    for video in dataset.videos:
        random = np.random.default_rng(video.id)
        seen = np.flatnonzero(np.any([track.present_T for track in video.tracks], axis=0))
        starts = [t for t in seen if t + setting.gap < video.length]
        sums = dict.fromkeys(("counted", "matches", "object", *COLUMNS), 0.0)
        for start in random.choice(starts, min(pairs, len(starts)), replace=False) if starts else ():
            clip = make_clip(dataset, video, [int(start), int(start) + setting.gap], with_masks=True)
            height, width = (
                side // STRIDE * STRIDE for side in fitted_size(video.height, video.width, setting.short_side, 1333)
            )
            clip = resize(clip, height, width)
            lab = mfvis_ext.rgb_to_lab(clip.frames_TCHW[None], STRIDE)
            masks_NTHW = F.avg_pool2d(clip.masks_NTHW.float(), STRIDE) > 0.5
            for name, value in _pair(lab, masks_NTHW, clip.boxes_NT4 / STRIDE, setting.temporal).items():
                sums[name] += value
        found[video.id] = sums
    return found


def _pair(
    lab: torch.Tensor, masks_NTHW: torch.Tensor, boxes_NT4: torch.Tensor, config: TemporalConfig
) -> dict[str, float]:
    """The counts of the pair (0, 1), as the loss counts: pixels inside the object's box in either frame."""
    height, width = lab.shape[-2:]
    pair = torch.tensor([[0, 1]])
    distance, offset = mfvis_ext.temporal_topk(lab, pair, config.patch_size, config.radius, config.dilation, config.k)
    side = 2 * config.radius + 1
    window_KHW = offset[0, 0].long()
    y = torch.arange(height)[:, None] + config.dilation * (window_KHW.div(side, rounding_mode="floor") - config.radius)
    x = torch.arange(width) + config.dilation * (window_KHW.remainder(side) - config.radius)
    weight_KHW = mfvis_ext.match_weight(distance, config.threshold)[0, 0] * (window_KHW >= 0)
    source_KHW = torch.where(window_KHW >= 0, y * width + x, 0)
    moved_KHW = window_KHW != side * side // 2

    inside_NTHW = inside_boxes(boxes_NT4, height, width)
    counted_NHW = inside_NTHW.any(1)
    target_NHW = masks_NTHW[:, 0]
    matched_NKHW = masks_NTHW[:, 1].flatten(1)[:, source_KHW]
    outside_NKHW = ~inside_NTHW[:, 1].flatten(1)[:, source_KHW]
    weight_NKHW = weight_KHW * counted_NHW[:, None]
    left_NHW = ((weight_NKHW * outside_NKHW).sum(1) > 0) & inside_NTHW[:, 0]
    background_NHW = inside_NTHW[:, 0] & ~target_NHW
    return {
        "counted": counted_NHW.sum().item(),
        "matched": ((weight_NKHW.sum(1) > 0) & counted_NHW).sum().item(),
        "matches": weight_NKHW.sum().item(),
        "wrong": (weight_NKHW * (matched_NKHW != target_NHW[:, None])).sum().item(),
        "static": (weight_NKHW * ~moved_KHW).sum().item(),
        "background": background_NHW.sum().item(),
        "supervised": (background_NHW & left_NHW).sum().item(),
        "object": (inside_NTHW[:, 0] & target_NHW).sum().item(),
        "misled": (inside_NTHW[:, 0] & target_NHW & left_NHW).sum().item(),
    }


def inside_boxes(boxes_NT4: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """bool ``[N, T, H, W]``: the cells whose centers lie in the boxes."""
    x1, y1, x2, y2 = boxes_NT4[..., None].unbind(2)
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    columns, rows = (across >= x1) & (across < x2), (down >= y1) & (down < y2)
    return rows[..., :, None] & columns[..., None, :]


def row(name: str, parts: list[dict[str, float]]) -> str:
    """A line of the table: every count as a share of what it is a part of."""
    total = {key: sum(part[key] for part in parts) for key in parts[0]}
    whole = {
        "matched": "counted",
        "wrong": "matches",
        "static": "matches",
        "supervised": "background",
        "misled": "object",
    }
    shares = [
        total[key] / max(total[whole[key]] if key in whole else total["background"] + total["object"], 1)
        for key in COLUMNS
    ]
    return f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--preset", default="real")
    add_out(arguments)
    given = arguments.parse_args()
    config = build(Config, load_preset(given.preset) | {"data": [str(given.data)]}, given.preset)
    dataset = load_dataset(given.data)
    domains = {video["id"]: video.get("domain", "all") for video in json.loads(given.data.read_text())["videos"]}
    head = "| | " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * (1 + len(COLUMNS)) + "|"
    base, *others = settings_of(config)
    by_video = counts(dataset, base)
    lines = ["# Matches of the TK-Loss on real clips", __doc__.split("\n\n")[2].strip(), f"By domain.\n\n{head}"]
    for domain in sorted(set(domains.values())):
        lines[-1] += "\n" + row(domain, [part for video, part in by_video.items() if domains[video] == domain])
    lines.append(f"All videos, one setting changed.\n\n{head}\n{row(base.name, [*by_video.values()])}")
    for setting in others:
        lines[-1] += "\n" + row(setting.name, [*counts(dataset, setting).values()])
        print(lines[-1].splitlines()[-1], flush=True)
    where = machine(1) | {"command": f"python benchmarks/study_matches.py {given.data.name} --preset {given.preset}"}
    lines.append("\n".join(f"* {key}: {value}" for key, value in where.items()))
    text = "\n\n".join(lines) + "\n"
    print(text)
    if given.out:
        write(given.out / "matches.md", text)


if __name__ == "__main__":
    main()
