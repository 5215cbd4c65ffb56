"""Agreement of label mode's quality with the true J of its masks.

    python benchmarks/bench_quality.py LABELED.json DATA.json

DATA.json is a YouTube-VIS file with masks; LABELED.json is what `mfvis label` wrote for a copy of it without masks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from machine import machine
from mfvis.data.rle import decode_mask
from mfvis.data.ytvis import load_dataset
from mfvis.labeling.quality import DOUBTFUL
from report import add_out, write
from scipy.stats import spearmanr

POOR = 0.6
"""J below which a mask is poor."""


def pairs_of(labeled: Path, truth: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quality and true J of every mask, float ``[M]``, and the id of its track, int ``[M]``."""
    answers = {annotation["id"]: annotation for annotation in json.loads(labeled.read_text())["annotations"]}
    pairs = []
    for video in load_dataset(truth, boxes_from_masks=True).videos:
        for track in video.tracks:
            answer = answers[track.id]
            for t in np.flatnonzero(track.present_T):
                true, ours = track.segmentations[t], answer["segmentations"][t]
                if true is None or answer["quality"][t] is None:
                    continue
                masks = [
                    decode_mask(rle, video.height, video.width, file=str(file), record=f"annotation {track.id}")
                    for rle, file in ((true, truth), (ours, labeled))
                ]
                j = np.logical_and(*masks).sum() / max(np.logical_or(*masks).sum(), 1)
                pairs.append((answer["quality"][t], j, track.id))
    quality, j, tracks = np.array(pairs).T
    return quality, j, tracks.astype(int)


def table(quality_M: np.ndarray, j_M: np.ndarray, tracks_M: np.ndarray) -> str:
    """Markdown: rank correlations, and what a person finds who looks at the masks of the lowest quality first."""
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
    arguments.add_argument("labeled", type=Path)
    arguments.add_argument("data", type=Path)
    add_out(arguments)
    given = arguments.parse_args()
    text = table(*pairs_of(given.labeled, given.data)) + "\n"
    print(text)
    if given.out:
        facts = "\n".join(f"* {key}: {value}" for key, value in machine(1).items())
        write(given.out / "bench_quality.md", f"# Quality of masks against their J\n\n{text}\n{facts}\n")


if __name__ == "__main__":
    main()
