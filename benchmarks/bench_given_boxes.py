"""What TK-Loss brings to a small network that is told the boxes, on the demo's synthetic videos.

    mfvis data demo DATA --videos 400 --val-videos 200 --width 128 --fewest 1 --most 3
    python benchmarks/bench_given_boxes.py DATA

The demo's model has to find its objects, so it cannot simply fill their boxes. This network sees each box, as label
mode does, and can: nothing but the losses speaks against it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import HERE, machine
from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.data.ytvis import load_dataset
from mfvis.infer.evidence import inside_boxes
from mfvis.losses.pairwise import PairwiseConfig, pairwise_loss
from mfvis.losses.projection import projection_loss
from mfvis.losses.temporal import TemporalConfig, match_frames, temporal_terms
from mfvis.models.backbone import TinyNet
from report import write
from torch import Tensor, nn

import mfvis_ext

STRIDE, BATCH, FRAMES, APART = 4, 4, 3, 2
SUPERVISION = {
    "projection": {"projection": 5.0},
    "projection + TK": {"projection": 5.0, "temporal": 2.0},
    "projection + pairwise": {"projection": 5.0, "pairwise": 1.0},
    "projection + pairwise + TK": {"projection": 5.0, "pairwise": 1.0, "temporal": 2.0},
    "masks": {"masks": 5.0},
}
PAIRWISE = PairwiseConfig(dilation=1, threshold=0.02)
TEMPORAL = TemporalConfig(tube="chain", radius=3, k=2, threshold=3.7e-6)
"""The demo's, a patch distance of up to 25."""


class Prompted(nn.Module):
    """The demo's backbone, and a head that also sees the box and every pixel's place in it."""

    def __init__(self, dim: int = 24, width: int = 32):
        super().__init__()
        self.backbone = TinyNet()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, dim, 1) for channels in TinyNet.channels)
        layers = [nn.Conv2d(dim + 3, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, 1, 1)]
        self.head = nn.Sequential(*layers)

    def forward(self, frames_BTCHW: Tensor, boxes_NT4: Tensor, video_index_N: Tensor) -> Tensor:
        """Logits ``[N, T, H / 4, W / 4]``; the boxes are on that grid."""
        levels = self.backbone((frames_BTCHW.flatten(0, 1).float() - 120) / 60)
        height, width = levels[0].shape[-2:]
        features = sum(
            F.interpolate(lateral(level), (height, width), mode="bilinear")
            for lateral, level in zip(self.laterals, levels, strict=True)
        ).unflatten(0, frames_BTCHW.shape[:2])
        inside = inside_boxes(boxes_NT4, height, width).float()
        x1, y1, x2, y2 = (side[..., None, None] for side in boxes_NT4.unbind(-1))
        x = ((torch.arange(width) + 0.5 - x1) / (x2 - x1).clamp(min=1) * 2 - 1).clamp(-2, 2).expand_as(inside)
        y = ((torch.arange(height)[:, None] + 0.5 - y1) / (y2 - y1).clamp(min=1) * 2 - 1).clamp(-2, 2)
        told = torch.stack([inside, x, y.expand_as(inside)], 2)
        logits = self.head(torch.cat([features[video_index_N], told], 2).flatten(0, 1))
        return logits.unflatten(0, boxes_NT4.shape[:2])[:, :, 0]


def loaded(json_path: Path) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per video: frames, their colours and the boxes on the grid of the masks, masks ``[N, T, H, W]``."""
    videos = []
    for video in (video for video in load_dataset(json_path).videos if video.tracks):
        frames = read_frames(video, range(video.length))
        masks = [
            [decode_mask(mask, video.height, video.width) for mask in track.segmentations] for track in video.tracks
        ]
        boxes = np.stack([track.boxes_T4 for track in video.tracks]) / STRIDE
        colours = mfvis_ext.rgb_to_lab(frames, STRIDE)
        videos.append((frames, colours, torch.from_numpy(boxes), torch.from_numpy(np.array(masks))))
    return videos


def trained(videos: list, weights: dict[str, float], steps: int, seed: int) -> Prompted:
    """A network after `steps` steps with the losses that have a weight."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = Prompted()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        clips, owner = [], []
        for b in range(BATCH):
            frames, colours, boxes, masks = videos[random.integers(len(videos))]
            first = random.integers(len(frames) - (FRAMES - 1) * APART)
            t = slice(first, first + (FRAMES - 1) * APART + 1, APART)
            seen = (boxes[:, t, 2] > boxes[:, t, 0]).any(1)
            clips.append((frames[t], colours[t], boxes[seen][:, t], masks[seen][:, t]))
            owner += [b] * int(seen.sum())
        frames, colours, boxes, masks = zip(*clips, strict=True)
        colours, boxes, masks, owner = torch.stack(colours), torch.cat(boxes), torch.cat(masks), torch.tensor(owner)
        logits = network(torch.stack(frames), boxes, owner)
        warmed = min(1, (step + 1) / (0.2 * steps))
        loss = logits.sum() * 0
        if "projection" in weights:
            loss = loss + weights["projection"] * projection_loss(logits, boxes, max(len(boxes), 1))
        if "pairwise" in weights:
            loss = loss + weights["pairwise"] * warmed * pairwise_loss(logits, colours, boxes, owner, PAIRWISE)
        if "temporal" in weights:
            sums_P, weight_P = temporal_terms(logits, match_frames(colours, TEMPORAL), boxes, owner, TEMPORAL)
            loss = loss + weights["temporal"] * warmed * (sums_P / weight_P.clamp(min=1)).sum()
        if "masks" in weights:
            target = F.avg_pool2d(masks.float(), STRIDE)
            loss = loss + weights["masks"] * F.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def j_of(network: Prompted, videos: list) -> float:
    """Mean IoU over the object-frames."""
    values = []
    for frames, _, boxes, masks in videos:
        logits = network(frames[None], boxes, torch.zeros(len(boxes), dtype=torch.int64))
        predicted = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear") > 0
        iou = (predicted & masks).sum((2, 3)) / (predicted | masks).sum((2, 3)).clamp(min=1)
        values.append(iou[masks.any((2, 3))])
    return torch.cat(values).mean().item()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--steps", type=int, default=250)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--out", type=Path, default=HERE / "results")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    train_videos, val_videos = (loaded(given.data / f"{split}.json") for split in ("train", "val"))
    lines = [f"| trained from | J, mean of {given.seeds} seeds | each seed | seconds a run |", "|---|---|---|---|"]
    for name, weights in SUPERVISION.items():
        began = time.perf_counter()
        j = [j_of(trained(train_videos, weights, given.steps, seed), val_videos) for seed in range(given.seeds)]
        seconds = (time.perf_counter() - began) / given.seeds
        each = " ".join(f"{value:.3f}" for value in j)
        lines.append(f"| {name} | {sum(j) / len(j):.3f} | {each} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    head = f"# TK-Loss where the network is told the boxes\n\n{given.steps} steps, {len(val_videos)} unseen videos.\n"
    settings = "\n".join(f"* {key}: {value}" for key, value in machine(given.threads).items())
    write(given.out / "given_boxes.md", f"{head}\n" + "\n".join(lines) + f"\n\n{settings}\n")


if __name__ == "__main__":
    main()
