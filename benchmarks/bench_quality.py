"""Agreement of label mode's quality with the true J of its masks.

    python benchmarks/bench_quality.py LABELED.json DATA.json [LABELED.json DATA.json ...] [--fit]

DATA.json is a YouTube-VIS file with masks; LABELED.json is what `mfvis label` wrote for a copy of it without masks.
--fit also fits a scale, an intercept and the factor of smallness on top of the factors in force, and measures them on
held-out domains (`domain` of the videos).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import machine
from mfvis.data.augment import fitted_size
from mfvis.data.rle import decode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.grid import STRIDE
from mfvis.labeling.quality import DOUBTFUL
from report import add_out, write
from scipy.stats import spearmanr

POOR = 0.6
"""J below which a mask is poor."""
SIZE = 270, 960
"""Short side and maximum long side of the frames that label mode sees by default."""
FACTORS = (0.0, 0.4, 0.8, 1.2, 1.6)
"""Factors of smallness, relative to the scale, that are tried."""


class Masks(NamedTuple):
    """Measurements of M masks."""

    quality_M: np.ndarray
    j_M: np.ndarray
    tracks_M: np.ndarray
    """int: unique over all files."""
    smallness_M: np.ndarray
    domains_M: np.ndarray
    """Names."""

    def select(self, chosen_M: np.ndarray) -> Masks:
        """The masks at which `chosen_M` is True."""
        return Masks(*(values_M[chosen_M] for values_M in self))


def masks_of(labeled: Path, truth: Path, first: int) -> Masks:
    """Quality and true J of every mask. first: number of the first track."""
    answers = {annotation["id"]: annotation for annotation in json.loads(labeled.read_text())["annotations"]}
    entries = {entry["id"]: entry for entry in json.loads(truth.read_text())["videos"]}
    rows, domains = [], []
    tracks = [(video, track) for video in load_dataset(truth, boxes_from_masks=True).videos for track in video.tracks]
    for number, (video, track) in enumerate(tracks, first):
        answer = answers.get(track.id)
        scale = fitted_size(video.height, video.width, *SIZE)[0] / video.height / STRIDE
        for t in np.flatnonzero(track.present_T):
            true = track.segmentations[t] if track.segmentations else None
            if true is None or answer is None or answer["quality"][t] is None:
                continue
            masks = [
                decode_mask(rle, video.height, video.width, file=str(file), record=f"annotation {track.id}")
                for rle, file in ((true, truth), (answer["segmentations"][t], labeled))
            ]
            j = np.logical_and(*masks).sum() / max(np.logical_or(*masks).sum(), 1)
            side = max(1.0, float(np.ptp(track.boxes_T4[t].reshape(2, 2), 0).max()) * scale)
            rows.append((answer["quality"][t], j, number, 1 / side))
            domains.append(entries[video.id].get("domain", truth.stem))
    quality_M, j_M, tracks_M, smallness_M = np.array(rows).T
    return Masks(quality_M, j_M, tracks_M.astype(int), smallness_M, np.array(domains))


def weights_of(masks: Masks) -> np.ndarray:
    """Weight of each mask: every domain counts alike, and every track of a domain."""
    weights_M = np.zeros(len(masks.j_M))
    for domain in set(masks.domains_M):
        own = masks.domains_M == domain
        tracks = np.unique(masks.tracks_M[own])
        for track in tracks:
            alike = own & (masks.tracks_M == track)
            weights_M[alike] = 1 / len(tracks) / alike.sum()
    return weights_M


def fitted(masks: Masks, factor: float) -> np.ndarray:
    """Scale and intercept of quality + factor x smallness, by least squares."""
    value_M = masks.quality_M + factor * masks.smallness_M
    root_M1 = np.sqrt(weights_of(masks))[:, None]
    inputs_M2 = np.stack([value_M, np.ones(len(value_M))], 1)
    return np.linalg.lstsq(inputs_M2 * root_M1, masks.j_M * root_M1[:, 0], rcond=None)[0]


def fit_table(masks: Masks) -> str:
    """Markdown: a row for each factor of smallness, measured on domains that the scale was not fitted to."""
    lines = [
        "| factor | rank correlation | difference | poor in the lowest fifth | scale, intercept |",
        "|---|---|---|---|---|",
    ]
    for factor in FACTORS:
        held_M = np.zeros(len(masks.j_M))
        value_M = masks.quality_M + factor * masks.smallness_M
        for domain in sorted(set(masks.domains_M)):
            out = masks.domains_M == domain
            scale, intercept = fitted(masks.select(~out), factor)
            held_M[out] = np.clip(scale * value_M[out] + intercept, 0, 1)
        first = np.argsort(held_M, kind="stable")[: len(held_M) // 5]
        poor = masks.j_M < POOR
        cells = [
            f"{factor:g}",
            f"{spearmanr(held_M, masks.j_M)[0]:.3f}",
            f"{np.abs(held_M - masks.j_M).mean():.3f}",
            f"{poor[first].sum()} of {poor.sum()}",
            ", ".join(f"{value:.3f}" for value in fitted(masks, factor)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(masks: Masks) -> str:
    """Markdown: rank correlations, and what a person finds who looks at the masks of the lowest quality first."""
    quality_M, j_M, tracks_M = masks[:3]
    fifth = len(j_M) // 5
    first = np.argsort(quality_M, kind="stable")[:fifth]
    poor = j_M < POOR
    tracks = np.unique(tracks_M)
    scores = np.array([quality_M[tracks_M == track].mean() for track in tracks])
    track_j = np.array([j_M[tracks_M == track].mean() for track in tracks])
    warned, poor_tracks = scores < DOUBTFUL, track_j < POOR
    rows = {
        "masks, tracks": f"{len(j_M)}, {len(tracks)}",
        "rank correlation of quality and J, masks": f"{spearmanr(quality_M, j_M)[0]:.2f}",
        "rank correlation of score and J, tracks": f"{spearmanr(scores, track_j)[0]:.2f}",
        "mean absolute difference of quality and J": f"{np.abs(quality_M - j_M).mean():.2f}",
        f"masks with J < {POOR}": f"{poor.sum()}",
        "of these, in the fifth with the lowest quality": f"{poor[first].sum()} of {fifth}",
        f"tracks with J < {POOR}": f"{poor_tracks.sum()}",
        "of these, with a warning": f"{(poor_tracks & warned).sum()} (of {warned.sum()} warnings)",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("files", type=Path, nargs="+", help="LABELED.json DATA.json, once or several times")
    arguments.add_argument("--fit", action="store_true", help="fit the scale again")
    add_out(arguments)
    given = arguments.parse_args()
    parts: list[Masks] = []
    for labeled, truth in zip(given.files[::2], given.files[1::2], strict=True):
        parts.append(masks_of(labeled, truth, first=parts[-1].tracks_M.max() + 1 if parts else 0))
    masks = Masks(*map(np.concatenate, zip(*parts, strict=True)))
    text = table(masks) + "\n"
    if given.fit:
        text += f"\n{fit_table(masks)}\n"
    print(text)
    if given.out:
        facts = "\n".join(f"* {key}: {value}" for key, value in machine(1).items())
        write(given.out / "bench_quality.md", f"# Quality of masks against their J\n\n{text}\n{facts}\n")


if __name__ == "__main__":
    main()
