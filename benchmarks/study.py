"""A study of `mfvis train`: variants times seeds, trained, evaluated and compared in one report.

    python benchmarks/study.py benchmarks/studies/losses.yaml --data FOLDER --weights BACKBONE --runs runs/study

FOLDER holds train.json, val.json (with masks) and, for variants with `supervision: masks`, train_masks.json, unless
train.json has the masks. `--runs` is a folder for this data set only. The
command may be interrupted at any moment and repeated: finished runs are skipped, others resume, and runs that several
studies share are trained once. `--report-only` builds the report from the runs that are finished. `--known` also
measures the runs on their own training videos, against train_masks.json: what was learned, without what carries over.

A study is a YAML file:

    preset: real                 the flags of all runs: one or more presets
    seeds: [0, 1, 2]             runs of each variant
    about: TEXT                  what the study asks, for the head of the report
    reference: NAME              the variant that the others are compared with
    supervised: NAME             the variant trained from masks, of which the others keep a share
    start: {}                    flags, over the preset, of a first training with the filled boxes as masks, from whose
                                 weights all runs start; without this key there is none
    settings: {}                 flags of all runs over the preset, nested as in a preset
    label: {}                    flags of `mfvis label`; it first gives the boxes of the training videos masks, for the
                                 variants with `labels: true`, which are trained from these masks
    predict: {}                  flags of `mfvis predict --infer`
    domains: [NAME]              videos of these domains only, in training and validation (default: all)
    source: REGEX                the start of a video's name that is its source: clips of one source are correlated
    variants:
    - name: NAME
      settings: {}               flags of this variant over those of the study
      videos: 0.25               share of the training videos that are annotated, by default all
      labels: true               train from the masks that `mfvis label` made of the boxes
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mfvis.data.rle import encode_mask
from mfvis.eval.mean_j import filled_box
from mfvis.parsing import build, load_preset, to_plain
from mfvis.train.config import Config

PLACES = ("out", "data", "frames", "resume", "init")
"""Fields of the configuration that say where something lies, not what is trained."""
START = "start: filled boxes"
"""The row of the training that all others start from."""


@dataclass(frozen=True)
class Variant:
    """One row of the report."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    videos: float = 1.0
    labels: bool = False


@dataclass(frozen=True)
class Study:
    """The contents of a study's YAML file."""

    name: str
    preset: str
    about: str
    reference: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    source: str = "$^"
    supervised: str | None = None
    start: dict[str, Any] | None = None
    label: dict[str, Any] | None = None

    def labels(self, runs: Path) -> Path:
        """File of the training videos with the masks that `mfvis label` makes; its folder follows from the flags."""
        key = json.dumps([self.label, *self.domains], sort_keys=True)
        return runs / f"labels-{hashlib.sha256(key.encode()).hexdigest()[:10]}" / "train.json"


@dataclass(frozen=True)
class Run:
    """One variant with one seed; `folder` follows from everything that its result depends on."""

    variant: str
    seed: int
    config: dict[str, Any]
    videos: float
    predict: dict[str, Any]
    folder: Path
    domains: tuple[str, ...] = ()
    start: Path | None = None
    """Folder of the run whose weights this one starts from."""
    filled: bool = False
    """Trained with the filled boxes as masks."""

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def known_results(self) -> Path:
        """Results of the training videos."""
        return self.folder / "known.json"


def read_study(file: Path) -> Study:
    """The study in a YAML file. ValueError names what is wrong in it."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    fields = {f.name for f in dataclasses.fields(Study)} - {"name"}
    unknown = sorted(set(content) - fields)
    if unknown:
        raise ValueError(f"{file}: unknown key {', '.join(unknown)}; there are {', '.join(sorted(fields))}")
    variants = tuple(Variant(**variant) for variant in content["variants"])
    names = [variant.name for variant in variants]
    if content.get("label") is None and any(variant.labels for variant in variants):
        raise ValueError(f"{file}: variants with `labels: true` need the key `label`; `label: {{}}` keeps the defaults")
    if content["reference"] not in names:
        raise ValueError(f"{file}: reference is {content['reference']!r}; expected one of {', '.join(names)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{file}: two variants are called {', '.join(sorted(twice))}; give each its own name")
    seeds = tuple(content.get("seeds", Study.seeds))
    domains = tuple(content.get("domains", ()))
    return Study(**content | {"name": file.stem, "variants": variants, "seeds": seeds, "domains": domains})


def runs_of(study: Study, data: Path, weights: Path | None, folder: Path) -> list[Run]:
    """The runs, each behind the one that it starts from, and seed by seed, so that an unfinished study holds as many
    seeds of every variant as possible."""

    def run_of(variant: Variant, seed: int, layers: list[dict[str, Any]], start: Path | None, filled: bool) -> Run:
        settings = load_preset(study.preset)
        for layer in (*layers, {"train": {"seed": seed}}):
            settings = overlaid(settings, layer)
        if weights:
            settings = overlaid(settings, {"model": {"backbone": {"weights": str(weights)}}})
        if variant.labels:
            settings["supervision"] = "masks"
        masks = settings.get("supervision") == "masks" and not filled
        file = known_masks(data) if masks else data / "train.json"
        settings["data"] = [str(study.labels(folder).resolve() if variant.labels else file)]
        config = to_plain(build(Config, settings, f"{study.name}: {variant.name}"))
        key = [{k: v for k, v in config.items() if k not in PLACES}, variant.videos, study.predict]
        key += [filled, start.name if start else None, *study.domains]
        key += [study.label] if variant.labels else []
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).replace(str(weights), "").encode()).hexdigest()
        run = folder / f"{digest[:10]}-{seed}"
        return Run(variant.name, seed, config, variant.videos, study.predict, run, study.domains, start, filled)

    runs: dict[Path, Run] = {}
    for seed in study.seeds:
        for variant in study.variants:
            start = None
            if study.start is not None:
                # Which videos are annotated depends on the seed; all of them are the same for every seed.
                share, start_seed = variant.videos, seed if variant.videos < 1 else 0
                name = START if share == 1 else f"{START}, {100 * share:g} %"
                layers = [study.start, {"supervision": "masks"}]
                first = run_of(Variant(name, videos=share), start_seed, layers, None, True)
                start = first.folder
                runs.setdefault(start, first)
            run = run_of(variant, seed, [study.settings, variant.settings], start, False)
            runs[run.folder] = run
    return list(runs.values())


def known_masks(data: Path) -> Path:
    """The training videos with their true masks."""
    apart = data / "train_masks.json"
    return apart if apart.exists() else data / "train.json"


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over others, as presets are."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = overlaid(below[key], value) if both else value
    return merged


# ---- Labels ---------------------------------------------------------------------------------------------------------
def label_videos(study: Study, runs: Path, data: Path, weights: Path | None, threads: int) -> None:
    """Run `mfvis label` on the boxes of the training videos unless that is done. RuntimeError if it fails."""
    file = study.labels(runs)
    if file.exists():
        return
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    root = of_domains(json.loads((data / "train.json").read_text()), study.domains)
    for annotation in root["annotations"]:
        annotation.pop("segmentations", None)
    boxes, out = folder / "boxes.json", folder / "masks"
    boxes.write_text(json.dumps(root))
    settings = overlaid({"backbone": {"weights": str(weights)}} if weights else {}, study.label or {})
    flags = folder / "settings.yaml"
    flags.write_text(yaml.safe_dump(settings | {"frames": str(data / "JPEGImages"), "out": str(out)}))
    command = [sys.executable, "-m", "mfvis", "label", str(boxes), "--preset", str(flags)]
    with (folder / "label.log").open("a") as log:
        status, cost = _measured(command, log, {"env": os.environ | {"OMP_NUM_THREADS": str(threads)}})
    if status != 0:
        raise RuntimeError(f"mfvis label: status {status}, see {folder / 'label.log'}")
    (folder / "cost.json").write_text(json.dumps(cost))
    # Names of frames as in the data, rather than relative to the labeled file.
    labeled = json.loads((out / boxes.name).read_text())
    file.write_text(json.dumps(root | {"annotations": labeled["annotations"]}))


# ---- One run --------------------------------------------------------------------------------------------------------
def complete(run: Run, data: Path, threads: int, device: int | None) -> str:
    """Train and predict unless that is done; returns what happened. RuntimeError if `mfvis train` fails."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "lock").open("w") as lock:
        try:
            # Others start from the weights of such a run, so it is worth waiting for.
            fcntl.flock(lock, fcntl.LOCK_EX if run.filled else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "is being trained by another process"
        if run.results.exists():
            return "was done"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        # Children inherit the lock: as long as one of them lives, no second one writes to the folder.
        inherited = {"env": environment, "pass_fds": [lock.fileno()]}
        with (run.folder / "train.log").open("a") as log:
            status, cost = _measured([sys.executable, "-m", "mfvis", *_train_flags(run, data)], log, inherited)
            with (run.folder / "cost.jsonl").open("a") as costs:
                costs.write(json.dumps(cost) + "\n")
            if status == 0:
                status, _ = _measured(_predict_command(run, data / "val.json", run.results), log, inherited)
        if status != 0:
            last = (run.folder / "train.log").read_text().strip().splitlines()[-5:]
            raise RuntimeError(f"{run.variant}, seed {run.seed}: status {status}\n" + "\n".join(last))
    return "done"


def _train_flags(run: Run, data: Path) -> list[str]:
    """`mfvis train` over the whole configuration, written out as a preset."""
    settings = run.config | {"out": str(run.folder)}
    if run.start:
        settings |= {"init": str(run.start / "checkpoints" / "last")}
    labeled = Path(settings["data"][0]).parent != data
    if run.videos < 1 or run.filled or run.domains or labeled:
        root = of_domains(json.loads(Path(settings["data"][0]).read_text()), run.domains)
        root = annotated_part(root, run.videos, run.seed)
        if run.filled:
            segment_boxes(root)
        file = run.folder / "train.json"
        file.write_text(json.dumps(root))
        settings |= {"data": [str(file)], "frames": str(data / "JPEGImages")}
    file = run.folder / "settings.yaml"
    file.write_text(f"# {run.variant}, seed {run.seed}\n{yaml.safe_dump(settings, sort_keys=False)}")
    (run.folder / "run.json").write_text(json.dumps({"predict": run.predict, "domains": run.domains}))
    resume = ["--resume"] if (run.folder / "checkpoints" / "last").exists() else []
    return ["train", "--preset", str(file), "--data", *settings["data"], *resume]


def _predict_command(run: Run, annotations: Path, file: Path) -> list[str]:
    folder = ["--predict", str(run.folder)]
    return [sys.executable, __file__, *folder, "--val", str(annotations), "--results", str(file)]


def annotated_part(root: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """A YouTube-VIS file with a random share of its videos, at least one; the same for boxes and masks."""
    ids = sorted(video["id"] for video in root["videos"])
    return of_videos(root, set(random.Random(seed).sample(ids, max(1, round(share * len(ids))))))


def of_domains(root: dict[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    """A YouTube-VIS file with its videos of these domains; all of them if none is named."""
    chosen = {video["id"] for video in root["videos"] if not domains or video.get("domain") in domains}
    if not chosen:
        raise ValueError(f"no video of the domains {', '.join(domains)}")
    return of_videos(root, chosen)


def of_videos(root: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """A YouTube-VIS file with the videos of these ids and their annotations."""
    videos = [video for video in root["videos"] if video["id"] in kept]
    annotations = [annotation for annotation in root["annotations"] if annotation["video_id"] in kept]
    return root | {"videos": videos, "annotations": annotations}


def segment_boxes(root: dict[str, Any]) -> None:
    """Give the annotations of a YouTube-VIS file their filled boxes as masks."""
    sizes = {video["id"]: (video["height"], video["width"]) for video in root["videos"]}
    for annotation in root["annotations"]:
        height, width = sizes[annotation["video_id"]]
        annotation["segmentations"] = [
            encode_mask(filled_box(np.array([x, y, x + w, y + h]), height, width)) if w else None
            for x, y, w, h in (box or (0, 0, 0, 0) for box in annotation["bboxes"])
        ]


def _measured(command: list[str], log: Any, options: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """Exit status of a child, and what it took."""
    process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gib": usage.ru_maxrss / 2**20}


def predict(folder: Path, val: Path, file: Path) -> None:
    """Write the results of the last checkpoint in `folder` for the videos of `val`."""
    from mfvis.data.results import write_results
    from mfvis.data.ytvis import load_dataset
    from mfvis.device import device_of
    from mfvis.predict.config import InferConfig
    from mfvis.predict.predictor import predict_video, sized_as_trained
    from mfvis.train.checkpoint import load_model

    model, categories, config = load_model(folder, device_of("auto"))
    run = json.loads((folder / "run.json").read_text())
    flags = build(InferConfig, run["predict"], "predict")
    flags = sized_as_trained(flags, config.clip)
    kept = {video["id"] for video in of_domains(json.loads(val.read_text()), run["domains"])["videos"]}
    results = []
    for video in (video for video in load_dataset(val, boxes_from_masks=True).videos if video.id in kept):
        results += predict_video(model, video, categories, flags)
    write_results(file, results)


# ---- All of them ----------------------------------------------------------------------------------------------------
def complete_all(runs: list[Run], data: Path, jobs: int, threads: int) -> list[str]:
    """Complete the runs, `jobs` at a time, one on each GPU where there are some; returns what failed."""
    failures: list[str] = []
    # Those that others start from come first.
    for part in ([run for run in runs if not run.start], [run for run in runs if run.start]):
        waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for run in part:
            waiting.put(run)

        def work(slot: int, waiting: queue.SimpleQueue[Run] = waiting) -> None:
            device = slot % torch.cuda.device_count() if torch.cuda.is_available() else None
            with contextlib.suppress(queue.Empty):
                while True:
                    run = waiting.get_nowait()
                    try:
                        print(f"{run.variant}, seed {run.seed} {complete(run, data, threads, device)}", flush=True)
                    except RuntimeError as error:
                        failures.append(str(error))

        workers = [threading.Thread(target=work, args=(slot,)) for slot in range(jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return failures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("study", type=Path, nargs="?")
    arguments.add_argument("--data", type=Path, help="folder of train.json, train_masks.json, val.json, JPEGImages")
    arguments.add_argument("--weights", type=Path, help="of the backbone")
    arguments.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder of the trainings")
    arguments.add_argument("--out", type=Path, help="folder for the report; by default it is not written")
    arguments.add_argument("--jobs", type=int, default=max(1, torch.cuda.device_count()), help="runs at a time")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    arguments.add_argument("--report-only", action="store_true", help="train nothing")
    arguments.add_argument("--known", action="store_true", help="also measure the runs on their training videos")
    arguments.add_argument("--note", help="a line for the head of the report")
    arguments.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--val", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.predict:
        predict(given.predict, given.val, given.results)
        return
    if not given.study or not given.data:
        arguments.error("name a study and its --data")
    study = read_study(given.study)
    runs = runs_of(study, given.data.resolve(), given.weights, given.runs)
    if study.label is not None and not given.report_only:
        label_videos(study, given.runs, given.data.resolve(), given.weights, given.threads)
    failures = [] if given.report_only else complete_all(runs, given.data.resolve(), given.jobs, given.threads)
    for run in (run for run in runs if given.known and run.results.exists() and not run.known_results.exists()):
        command = _predict_command(run, known_masks(given.data), run.known_results)
        status, _ = _measured(command, sys.stdout, {"env": os.environ | {"OMP_NUM_THREADS": str(given.threads)}})
        if status != 0:
            failures.append(f"{run.variant}, seed {run.seed}: status {status} on its training videos")
    if given.out:
        from study_report import write_report

        write_report(study, runs, given.data, given.out, given.note)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
