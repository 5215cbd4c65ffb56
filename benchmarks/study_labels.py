"""The gain of each loss of `mfvis label` on real clips: variants times seeds, J per track, and paired differences.

    python benchmarks/study_labels.py benchmarks/studies/labels/losses.yaml --data FOLDER --weights BACKBONE \\
        --runs runs/labels

FOLDER holds val.json with masks, which are used for the measures only. The command may be interrupted and repeated. A
study is a YAML file with `about`, `seeds`, `reference` (a variant's name), `domains` (default: all), `settings` (flags
of `mfvis label`, nested as in a preset) and `variants`, each with a `name` and its `settings` over those of the study.
`boxes_every: n` in a variant keeps the boxes of every n-th frame, and interpolates the others linearly; `points: true`
next to it gives each track a click in these other frames, simulated from the true mask.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_label import labeled_results
from machine import machine
from mfvis.data.jsonfile import write_json
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import mean_j
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.run import run
from mfvis.parsing import build, overlaid
from mfvis.types import VideoDataset
from report import write
from study_data import of_domains, without_masks
from study_runs import require_known
from study_sparse import with_sparse_boxes

STUDY_KEYS = ("about", "seeds", "reference", "domains", "settings", "variants")
VARIANT_KEYS = ("name", "settings", "boxes_every", "points")
DRAWS = 2000
"""Bootstrap samples of videos."""


@dataclass(frozen=True)
class Labeling:
    """One variant with one seed; `folder` follows from everything that its result depends on."""

    variant: str
    seed: int
    settings: dict[str, Any]
    boxes_every: int
    points: bool
    folder: Path

    @property
    def measures(self) -> Path:
        return self.folder / "measures.json"


def labelings_of(study: dict[str, Any], data: Path, folder: Path) -> list[Labeling]:
    """The runs, seed by seed, so that an unfinished study holds as many seeds of every variant as possible."""
    require_known(study, STUDY_KEYS, "study")
    for variant in study["variants"]:
        require_known(variant, VARIANT_KEYS, f"variant {variant.get('name')}")
    found = []
    for seed in study["seeds"]:
        for variant in study["variants"]:
            settings = overlaid(study.get("settings", {}), variant.get("settings", {}) | {"seed": seed})
            every, points = variant.get("boxes_every", 1), variant.get("points", False)
            if points and every == 1:
                raise ValueError(f"variant {variant['name']!r}: points are in frames without boxes; set boxes_every")
            key = [settings, every, data.name, study.get("domains", [])] + (["points"] if points else [])
            digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
            found.append(Labeling(variant["name"], seed, settings, every, points, folder / f"{digest}-{seed}"))
    return found


def complete(labeling: Labeling, data: Path, domains: Sequence[str], weights: Path) -> None:
    """Label the clips and measure J of every track, unless that is done."""
    if labeling.measures.exists():
        return
    labeling.folder.mkdir(parents=True, exist_ok=True)
    truth_file, boxes = labeling.folder / "truth.json", labeling.folder / "boxes.json"
    root = of_domains(json.loads((data / "val.json").read_text()), domains)
    truth_file.write_text(json.dumps(root))
    if labeling.boxes_every > 1:
        root = with_sparse_boxes(root, labeling.boxes_every, labeling.points)
    boxes.write_text(json.dumps(without_masks(root)))
    frames = data / "JPEGImages"
    places = {"data": str(boxes), "frames": str(frames), "out": str(labeling.folder / "labels"), "overlays": False}
    settings = overlaid({"backbone": {"weights": str(weights)}}, labeling.settings | places)
    truth = load_dataset(truth_file, frames)
    tracks = mean_j(truth, labeled_results(truth, run(build(LabelConfig, settings, labeling.variant)))).tracks
    write_json(labeling.measures, [asdict(track) for track in tracks])


def mean_of_videos(tracks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """J of each video: the mean over its object-frames."""
    by_video: dict[str, list[tuple[float, int]]] = {}
    for track in tracks:
        by_video.setdefault(track["video"], []).append((track["j"], track["frames"]))
    return {
        video: sum(j * frames for j, frames in values) / sum(frames for _, frames in values)
        for video, values in by_video.items()
    }


def difference(variant: Sequence[dict[str, float]], reference: Sequence[dict[str, float]]) -> str:
    """Mean over videos and seeds of the paired differences, its 95 % interval over videos, and each seed's mean."""
    videos = list(reference[0])
    gain_SV = np.array([[a[v] - b[v] for v in videos] for a, b in zip(variant, reference, strict=True)])
    drawn = np.random.default_rng(0).integers(0, len(videos), (DRAWS, len(videos)))
    low, high = np.percentile(gain_SV.mean(0)[drawn].mean(1), [2.5, 97.5])
    seeds = ", ".join(f"{value:+.3f}" for value in gain_SV.mean(1))
    return f"{gain_SV.mean():+.3f} [{low:+.3f}, {high:+.3f}]; {seeds}"


def table(study: dict[str, Any], labelings: Sequence[Labeling], dataset: VideoDataset) -> list[str]:
    """One row per variant with a finished run: mean J over videos, and the difference to the reference."""
    by_variant: dict[str, dict[int, dict[str, float]]] = {}
    for labeling in labelings:
        if labeling.measures.exists():
            measures = mean_of_videos(json.loads(labeling.measures.read_text()))
            by_variant.setdefault(labeling.variant, {})[labeling.seed] = measures
    if not by_variant:
        raise SystemExit("no run is finished; nothing to report")
    videos = [video.name for video in dataset.videos]
    lines = ["| variant | seeds | J, mean of videos | against the reference |", "|---|---|---|---|"]
    reference = by_variant.get(study["reference"], {})
    for name, runs in by_variant.items():
        means = [float(np.mean(list(values.values()))) for values in runs.values()]
        spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
        common = sorted(set(runs) & set(reference))
        gain = "-"
        if name != study["reference"] and common:
            gain = difference([runs[seed] for seed in common], [reference[seed] for seed in common])
        lines.append(f"| {name} | {len(runs)} | {np.mean(means):.3f}{spread} | {gain} |")
    lines += ["", "J of each video, mean over the seeds.", "", "| variant | " + " | ".join(videos) + " |"]
    lines.append("|---" * (len(videos) + 1) + "|")
    for name, runs in by_variant.items():
        cells = [f"{np.mean([values[video] for values in runs.values()]):.3f}" for video in videos]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("study", type=Path)
    arguments.add_argument("--data", type=Path, required=True, help="folder of val.json and JPEGImages")
    arguments.add_argument("--weights", type=Path, required=True, help="of the backbone")
    arguments.add_argument("--runs", type=Path, default=Path("runs/labels"), help="folder of the labelings")
    arguments.add_argument("--out", type=Path, help="folder for the report; by default it is only printed")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--report-only", action="store_true", help="label nothing")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    study = yaml.safe_load(given.study.read_text(encoding="utf-8"))
    domains, data = study.get("domains", []), given.data.resolve()
    labelings = labelings_of(study, data, given.runs)
    for labeling in labelings if not given.report_only else []:
        complete(labeling, data, domains, given.weights)
        print(f"{labeling.variant}, seed {labeling.seed} done", flush=True)

    dataset = load_dataset(data / "val.json", data / "JPEGImages")
    measured = json.loads(next(run.measures for run in labelings if run.measures.exists()).read_text())
    names = {track["video"] for track in measured}
    dataset = replace(dataset, videos=tuple(video for video in dataset.videos if video.name in names))
    where = machine(given.threads) | {"data": data.name, "videos": len(dataset.videos)}
    command = f"python benchmarks/study_labels.py {given.study} --data {data.name} --weights {given.weights.name}"
    lines = [f"# Label mode: {given.study.stem}", "", study["about"], "", f"* command: {command}"]
    lines += [f"* {name}: {value}" for name, value in where.items() if name != "command"]
    lines += [
        "",
        "Mean over the videos, ± standard deviation over the seeds. Differences are paired by video and seed: mean "
        "[95 % interval of the bootstrap over videos]; mean of each seed.",
        "",
        *table(study, labelings, dataset),
        "",
    ]
    print("\n".join(lines))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        write(given.out / f"labels_{given.study.stem}.md", "\n".join(lines))


if __name__ == "__main__":
    main()
