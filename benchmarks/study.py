"""A study of `mfvis train`: variants times seeds, trained, evaluated and compared in one report.

    python benchmarks/study.py benchmarks/studies/losses.yaml --data FOLDER --weights BACKBONE --runs runs/study

FOLDER holds train.json, val.json (with masks) and, for variants with `supervision: masks`, train_masks.json, unless
train.json has the masks. `--runs` is a folder for this data set only. The command may be interrupted at any moment and
repeated: finished runs are skipped, others resume, and runs that several studies share are trained once.
`--report-only` builds the report from the runs that are finished. `--known` also measures the runs on their own
training videos, against train_masks.json: what was learned, without what carries over.

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
      self_training: {score: S}  of a variant with `videos` below 1: the same variant without this key labels the other
                                 training videos; its tracks with this score or more, masks and boxes, are trained on
                                 next to the annotated videos
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from mfvis.data.jsonfile import write_json
from mfvis.parsing import build, overlaid
from study_data import annotated_part, known_masks, of_domains, with_filled_boxes, with_predicted_videos, without_masks
from study_runs import Run, Study, read_study, runs_of


# ---- Labels ---------------------------------------------------------------------------------------------------------
def label_videos(study: Study, runs: Path, data: Path, weights: Path | None, threads: int) -> None:
    """Run `mfvis label` on the boxes of the training videos unless that is done. RuntimeError if it fails."""
    file = study.labels(runs)
    if file.exists():
        return
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    root = without_masks(of_domains(json.loads((data / "train.json").read_text()), study.domains))
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
    write_json(file, root | {"annotations": labeled["annotations"]})


# ---- One run --------------------------------------------------------------------------------------------------------
def complete(run: Run, data: Path, threads: int, device: int | None) -> str:
    """Train and predict unless that is done; returns what happened.

    Raises:
        RuntimeError: a command fails, or the run's teacher is not finished.
        ValueError: the training file would be empty.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        # Others start from the weights of such a run, so it is worth waiting for.
        with _locked(run, wait=run.filled) as lock:
            if run.results.exists():
                return "was done"
            if run.teacher:
                _predict_training_videos(run.teacher, data, threads, device)
            options = _options(lock, threads, device)
            with (run.folder / "train.log").open("a") as log:
                status, cost = _measured([sys.executable, "-m", "mfvis", *_train_flags(run, data)], log, options)
                with (run.folder / "cost.jsonl").open("a") as costs:
                    costs.write(json.dumps(cost) + "\n")
                if status == 0:
                    status, _ = _measured(_predict_command(run, data / "val.json", run.results), log, options)
            _require_success(run, status)
    except BlockingIOError:
        return "is being trained by another process"
    return "done"


@contextlib.contextmanager
def _locked(run: Run, wait: bool) -> Iterator[int]:
    """File descriptor of the lock of a run's folder. BlockingIOError if another process has it and `wait` is False."""
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock.fileno()


def _options(lock: int, threads: int, device: int | None) -> dict[str, Any]:
    """Options of a child. It inherits the lock: while it lives, no other process writes to the folder."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(device)
    return {"env": environment, "pass_fds": [lock]}


def _require_success(run: Run, status: int) -> None:
    """RuntimeError with the end of the run's log if a command failed."""
    if status != 0:
        last = (run.folder / "train.log").read_text().strip().splitlines()[-5:]
        raise RuntimeError(f"status {status}\n" + "\n".join(last))


def _predict_training_videos(teacher: Run, data: Path, threads: int, device: int | None) -> None:
    """Predict the training videos with a finished run unless that is done. RuntimeError if it is not finished."""
    teacher.folder.mkdir(parents=True, exist_ok=True)
    with _locked(teacher, wait=True) as lock:
        if teacher.known_results.exists():
            return
        if not teacher.results.exists():
            raise RuntimeError(f"{teacher.variant!r}, which labels its other videos, is not finished; run again")
        with (teacher.folder / "train.log").open("a") as log:
            command = _predict_command(teacher, data / "train.json", teacher.known_results)
            _require_success(teacher, _measured(command, log, _options(lock, threads, device))[0])


def _train_flags(run: Run, data: Path) -> list[str]:
    """`mfvis train` over the whole configuration, written out as a preset."""
    settings = run.config | {"out": str(run.folder)}
    if run.start:
        settings |= {"init": str(run.start / "checkpoints" / "last")}
    labeled = Path(settings["data"][0]).parent != data
    if run.videos < 1 or run.filled or run.domains or labeled:
        file = run.folder / "train.json"
        file.write_text(json.dumps(_training_videos(run, Path(settings["data"][0]))))
        settings |= {"data": [str(file)], "frames": str(data / "JPEGImages")}
    file = run.folder / "settings.yaml"
    file.write_text(f"# {run.variant}, seed {run.seed}\n{yaml.safe_dump(settings, sort_keys=False)}")
    (run.folder / "run.json").write_text(json.dumps({"predict": run.predict, "domains": run.domains}))
    resume = ["--resume"] if (run.folder / "checkpoints" / "last").exists() else []
    return ["train", "--preset", str(file), "--data", *settings["data"], *resume]


def _training_videos(run: Run, source: Path) -> dict[str, Any]:
    """The part of a YouTube-VIS file that the run is trained on."""
    videos = of_domains(json.loads(source.read_text()), run.domains)
    annotated = annotated_part(videos, run.videos, run.seed)
    if run.filled:
        return with_filled_boxes(annotated)
    if run.teacher:
        results = json.loads(run.teacher.known_results.read_text())
        return with_predicted_videos(annotated, videos, results, run.min_score)
    return annotated


def _predict_command(run: Run, annotations: Path, file: Path) -> list[str]:
    folder = ["--predict", str(run.folder)]
    return [sys.executable, __file__, *folder, "--val", str(annotations), "--results", str(file)]


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
    for part in _in_order(runs):
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
                    except (RuntimeError, ValueError) as error:
                        failures.append(f"{run.variant}, seed {run.seed}: {error}")

        workers = [threading.Thread(target=work, args=(slot,)) for slot in range(jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return failures


def _in_order(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs in groups: what a run needs is in an earlier group."""
    left = list(runs)
    while left:
        folders = {run.folder for run in left}
        yield [run for run in left if not run.needs & folders]
        left = [run for run in left if run.needs & folders]


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
