"""A study's YAML file and the runs that follow from it; `benchmarks/study.py` describes the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from mfvis.parsing import build, load_preset, overlaid, to_plain
from mfvis.train.config import Config
from study_data import known_masks

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
    self_training: dict[str, float] | None = None


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
    teacher: Run | None = None
    """The run that labels the videos that are not annotated."""
    min_score: float = 0.0
    """Least score of the teacher's tracks that are trained on."""

    @property
    def needs(self) -> set[Path]:
        """Folders of the runs that must be finished before this one."""
        return {folder for folder in (self.start, self.teacher and self.teacher.folder) if folder}

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
    require_known(content, {f.name for f in dataclasses.fields(Study)} - {"name"}, str(file))
    for variant in content["variants"]:
        require_known(variant, {f.name for f in dataclasses.fields(Variant)}, f"{file}, variant {variant.get('name')}")
    variants = tuple(Variant(**variant) for variant in content["variants"])
    names = [variant.name for variant in variants]
    if content.get("label") is None and any(variant.labels for variant in variants):
        raise ValueError(f"{file}: variants with `labels: true` need the key `label`; `label: {{}}` keeps the defaults")
    if content["reference"] not in names:
        raise ValueError(f"{file}: reference is {content['reference']!r}; expected one of {', '.join(names)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{file}: two variants are called {', '.join(sorted(twice))}; give each its own name")
    for variant in variants:
        if problem := _problem_of_self_training(variant):
            raise ValueError(f"{file}: self_training of {variant.name!r} {problem}")
    seeds = tuple(content.get("seeds", Study.seeds))
    domains = tuple(content.get("domains", ()))
    return Study(**content | {"name": file.stem, "variants": variants, "seeds": seeds, "domains": domains})


def require_known(content: Mapping[str, Any], keys: Collection[str], where: str) -> None:
    """ValueError if a part of a YAML file has other keys than these."""
    if unknown := sorted(set(content) - set(keys)):
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; there are {', '.join(sorted(keys))}")


def _problem_of_self_training(variant: Variant) -> str | None:
    given = variant.self_training
    if given is None:
        return None
    if set(given) != {"score"} or not 0 <= given["score"] <= 1:
        return f"is {given}; expected the least score of a track, such as {{score: 0.5}}"
    if variant.videos == 1:
        return "labels the videos that are not annotated, and there are none; set `videos` to a share below 1"
    return None


def runs_of(study: Study, data: Path, weights: Path | None, folder: Path) -> list[Run]:
    """The runs, each behind those that it needs, and seed by seed, so that an unfinished study holds as many seeds of
    every variant as possible."""

    def run_of(
        variant: Variant, seed: int, layers: list[dict[str, Any]], start: Path | None, filled: bool = False
    ) -> Run:
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
        key += [variant.self_training] if variant.self_training else []
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).replace(str(weights), "").encode()).hexdigest()
        run = folder / f"{digest[:10]}-{seed}"
        return Run(variant.name, seed, config, variant.videos, study.predict, run, study.domains, start, filled)

    def with_teacher(run: Run, variant: Variant, layers: list[dict[str, Any]]) -> Run:
        teacher = replace(variant, name=f"{variant.name}: teacher", self_training=None)
        found = run_of(teacher, run.seed, layers, run.start)
        return replace(run, teacher=runs.setdefault(found.folder, found), min_score=variant.self_training["score"])

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
            layers = [study.settings, variant.settings]
            run = run_of(variant, seed, layers, start)
            runs[run.folder] = with_teacher(run, variant, layers) if variant.self_training else run
    return list(runs.values())
