"""The report of a study: Markdown, JSON, training curves (SVG) and the same frames for every variant (PNG)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from mfvis.data.jsonfile import write_json
from mfvis.data.results import read_results
from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.eval.mean_j import best_fitting
from mfvis.types import TrackResult, Video
from mfvis.vis.draw import overlay
from PIL import Image, ImageDraw, ImageFont
from report import write
from study_data import known_masks
from study_measure import ERRORS, METRICS, Difference, Truth, differences, measure, read_truth
from study_runs import Run, Study

COLORS = ("#1779ba", "#d6453d", "#2c8a5b", "#9b5de5", "#f77f00", "#00a5a5", "#8d6e63", "#555555")
TERMS = ("classification", "projection", "pairwise", "temporal", "propagation", "prior", "mask_bce", "mask_dice")
TILE = 232
"""Pixels across a frame in the PNG."""
_J = (
    "J is the mean IoU over the frames of a track, of the predicted tube that fits it best, whatever its class and "
    "score; the mean of sources gives all source videos the same weight."
)


def write_report(study: Study, runs: Sequence[Run], data: Path, out: Path, note: str | None = None) -> None:
    """Write NAME.md, NAME.json, NAME_curves.svg and NAME_frames.png to `out` from the runs that are finished."""
    truth = read_truth(data / "val.json", study.source, study.domains)
    finished: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.results.exists():
            finished.setdefault(run.variant, {})[run.seed] = run
    if not finished:
        raise SystemExit(f"{study.name}: no run is finished; nothing to report")
    measures = {
        name: {seed: measure(run.results, truth) for seed, run in by_seed.items()} for name, by_seed in finished.items()
    }
    known = _known(study, finished, data)
    costs = {name: [_cost(run) for run in by_seed.values()] for name, by_seed in finished.items()}
    compared = _compared(study, measures, truth)
    where = machine(1) | {"data": data.name, "videos": len(truth.dataset.videos)}
    where["command"] = f"python benchmarks/study.py benchmarks/studies/{study.name}.yaml --data {data.name}"
    if note:
        where["note"] = note
    where["sources"] = len(set(truth.sources.values()))
    out.mkdir(parents=True, exist_ok=True)
    text = _markdown(study, len(runs), measures, known, compared, costs, where)
    write(out / f"{study.name}_curves.svg", _curves({name: list(part.values()) for name, part in finished.items()}))
    _frames(study, finished, truth).save(out / f"{study.name}_frames.png", optimize=True)
    write(out / f"{study.name}.md", text)
    small = {name: {seed: _small(run) for seed, run in by_seed.items()} for name, by_seed in measures.items()}
    small_known = {name: list(map(_small, part)) for name, part in known.items()}
    against = {name: {key: asdict(value) for key, value in part.items()} for name, part in compared.items()}
    write_json(
        out / f"{study.name}.json",
        {"machine": where, "runs": small, "known": small_known, "differences": against, "cost": costs},
    )


def _small(run: dict[str, Any]) -> dict[str, Any]:
    """The measures of a run without those of single tracks."""
    return {key: value for key, value in run.items() if key not in ("tracks", "matches")}


def _known(study: Study, finished: dict[str, dict[int, Run]], data: Path) -> dict[str, list[Any]]:
    """Measures of each variant's runs on their training videos, where they were predicted."""
    predicted = {name: [run for run in part.values() if run.known_results.exists()] for name, part in finished.items()}
    if not any(predicted.values()):
        return {}
    truth = read_truth(known_masks(data), study.source, study.domains)
    return {name: [measure(run.known_results, truth) for run in part] for name, part in predicted.items() if part}


def _compared(study: Study, measures: dict[str, dict[int, Any]], truth: Truth) -> dict[str, dict[str, Difference]]:
    """Every variant against the reference, over the seeds that both have."""
    reference = measures.get(study.reference, {})
    compared = {}
    for name, by_seed in measures.items():
        seeds = sorted(set(by_seed) & set(reference))
        if name != study.reference and seeds:
            sides = ([by_seed[seed] for seed in seeds], [reference[seed] for seed in seeds])
            compared[name] = differences(*sides, truth)
    return compared


def _cost(run: Run) -> dict[str, float]:
    """Steps, seconds of training and peak memory, from the log; CPU seconds where no attempt was killed."""
    records = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    steps = np.diff([0, *(record["step"] for record in records)])
    seconds = float(sum(count * record["step_seconds"] for count, record in zip(steps, records, strict=True)))
    cpu = [json.loads(line)["cpu_seconds"] for line in (run.folder / "cost.jsonl").read_text().splitlines()]
    peak = max(record["memory_gib"] for record in records)
    return {"steps": records[-1]["step"], "seconds": seconds, "cpu_seconds": sum(cpu), "peak_gib": peak}


# ---- Markdown -------------------------------------------------------------------------------------------------------
def _markdown(
    study: Study,
    planned: int,
    measures: dict[str, dict[int, Any]],
    known: dict[str, list[Any]],
    compared: dict[str, dict[str, Difference]],
    costs: dict[str, list[dict[str, float]]],
    where: dict[str, Any],
) -> str:
    done = sum(map(len, measures.values()))
    parts = [f"# Study: {study.name}\n\n{study.about.strip()}"]
    parts.append("\n".join(f"* {key}: {value}" for key, value in where.items()))
    if done < planned:
        parts.append(f"**Unfinished: {done} of {planned} runs.**")
    full = study.supervised if study.supervised in measures else None
    runs = {name: list(by_seed.values()) for name, by_seed in measures.items()}

    def mean(name: str, metric: str) -> float:
        return float(np.mean([run[metric] for run in runs[name]]))

    head = _row("variant", "seeds", *METRICS.values(), rule=True)
    parts.append(f"Mean ± standard deviation over the seeds. {_J}\n\n{head}")
    for name, part in runs.items():
        cells = [_spread([run[metric] for run in part]) for metric in METRICS]
        parts[-1] += "\n" + _row(name, len(part), *cells)
    if full:
        parts.append(f"Share of what `{full}` reaches.\n\n{_row('variant', *METRICS.values(), rule=True)}")
        for name in (name for name in runs if name != full):
            cells = [f"{100 * mean(name, metric) / max(mean(full, metric), 1e-9):.1f} %" for metric in METRICS]
            parts[-1] += "\n" + _row(name, *cells)
    if compared:
        head = _row("variant", *(METRICS[metric] for metric in next(iter(compared.values()))), rule=True)
        parts.append(
            f"Difference to `{study.reference}`, seeds paired: mean [95 % interval of the bootstrap over sources]; for "
            f"each seed.\n\n{head}"
        )
        for name, values in compared.items():
            cells = [
                f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]; {', '.join(f'{seed:+.3f}' for seed in d.seeds)}"
                for d in values.values()
            ]
            parts[-1] += "\n" + _row(name, *cells)
    if known:
        head = _row("variant", "runs", *METRICS.values(), *ERRORS.values(), rule=True)
        parts.append(f"The same on the training videos.\n\n{head}")
        for name, part in known.items():
            cells = [_spread([run[metric] for run in part]) for metric in (*METRICS, *ERRORS)]
            parts[-1] += "\n" + _row(name, len(part), *cells)
    domains = sorted(next(iter(runs.values()))[0]["domains"])
    for metric in ("agnostic_ap", "j"):
        parts.append(f"{METRICS[metric]} per domain.\n\n{_row('variant', *domains, rule=True)}")
        for name, part in runs.items():
            cells = [f"{np.mean([run['domains'][domain][metric] for run in part]):.3f}" for domain in domains]
            parts[-1] += "\n" + _row(name, *cells)
    head = _row("variant", *ERRORS.values(), rule=True)
    parts.append(f"Errors of the best-fitting tubes, as shares of the true area, mean of tracks.\n\n{head}")
    for name in runs:
        parts[-1] += "\n" + _row(name, *(f"{mean(name, error):.3f}" for error in ERRORS))
    parts.append(
        "Cost of a run, on a machine that did other work, too.\n\n"
        + _row("variant", "steps", "seconds", "CPU seconds", "peak GiB", rule=True)
    )
    for name, part in costs.items():
        values = {key: np.mean([cost[key] for cost in part]) for key in part[0]}
        cells = (f"{values['steps']:.0f}", f"{values['seconds']:.0f}", f"{values['cpu_seconds']:.0f}")
        parts[-1] += "\n" + _row(name, *cells, f"{values['peak_gib']:.2f}")
    parts.append(f"![Training curves]({study.name}_curves.svg)")
    parts.append("Best-fitting tubes of the first seed, in one video of each domain.")
    parts.append(f"![The same frames]({study.name}_frames.png)")
    return "\n\n".join(parts) + "\n"


def _row(*cells: Any, rule: bool = False) -> str:
    line = "| " + " | ".join(map(str, cells)) + " |"
    return line + "\n" + "|---" * len(cells) + "|" if rule else line


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


# ---- Images -------------------------------------------------------------------------------------------------------
def _frames(study: Study, finished: dict[str, dict[int, Run]], truth: Truth) -> Image.Image:
    """A row for each domain: the true masks, then the best-fitting tubes of each variant's first seed."""
    videos: dict[str, Video] = {}
    for video in truth.dataset.videos:
        videos.setdefault(truth.domains[video.id], video)
    columns = {"true masks": None} | {name: by_seed[min(by_seed)] for name, by_seed in finished.items()}
    fitting: dict[str, dict[tuple[int, int | None], TrackResult]] = {}
    for name, run in columns.items():
        if run is not None:
            chosen = best_fitting(truth.dataset, read_results(run.results, truth.dataset))
            fitting[name] = {(result.video_id, result.track_id): result for result in chosen}
    heights = [round(TILE * video.height / video.width) for video in videos.values()]
    header, gap = 20, 3
    size = len(columns) * (TILE + gap), header + sum(heights) + gap * len(heights)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    y = header
    for video, height in zip(videos.values(), heights, strict=True):
        seen = np.sum([track.present_T for track in video.tracks], axis=0)
        frame = int(np.flatnonzero(seen == seen.max())[np.count_nonzero(seen == seen.max()) // 2])
        image_HW3 = read_frames(video, [frame])[0].permute(1, 2, 0).numpy()
        for column, name in enumerate(columns):
            x, masks_NHW = column * (TILE + gap), _masks(video, frame, fitting.get(name))
            drawn = Image.fromarray(overlay(image_HW3, masks_NHW, None, None, range(len(video.tracks))))
            sheet.paste(drawn.resize((TILE, height), Image.Resampling.LANCZOS), (x, y))
            draw.text((x + 2, 2), name, fill="black", font=font)
        y += height + gap
    return sheet.quantize(96, dither=Image.Dither.NONE)


def _masks(video: Video, frame: int, fitting: dict[tuple[int, int | None], TrackResult] | None) -> np.ndarray:
    """bool ``[N, H, W]``: the masks of the video's tracks, true ones where there are no results."""
    masks = np.zeros((len(video.tracks), video.height, video.width), bool)
    for n, track in enumerate(video.tracks):
        rle = track.segmentations[frame] if fitting is None else fitting[video.id, track.id].segmentations[frame]
        if rle is not None:
            masks[n] = decode_mask(rle, video.height, video.width, file=video.name, record=f"track {track.id}")
    return masks


def _curves(finished: dict[str, list[Run]]) -> str:
    """SVG: each loss term along the steps, mean over the seeds; only terms that some variant has."""
    logs = {
        name: [[json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()] for run in runs]
        for name, runs in finished.items()
    }
    panels = []
    for term in TERMS:
        lines = {}
        for name, records in logs.items():
            length = min(map(len, records))
            values = [float(np.mean([record[n].get(term, 0.0) for record in records])) for n in range(length)]
            if any(values):
                lines[name] = ([records[0][n]["step"] for n in range(length)], values)
        if lines:
            panels.append((term, lines))
    width, height = 300, 190
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(finished)}
    drawn = "".join(
        f"<g transform='translate({width * (i % 3)} {height * (i // 3)})'>"
        f"{_panel(term, lines, colors, width, height)}</g>"
        for i, (term, lines) in enumerate(panels)
    )
    bottom = height * -(-len(panels) // 3)
    legend = "".join(
        f"<text x='{20 + 220 * (i % 4)}' y='{bottom + 16 + 16 * (i // 4)}' fill='{color}'>{escape(name)}</text>"
        for i, (name, color) in enumerate(colors.items())
    )
    total = bottom + 16 * (-(-len(colors) // 4)) + 12
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {3 * width} {total}' font-family='sans-serif' "
        f"font-size='11' fill='#333'><rect width='100%' height='100%' fill='#fff'/>{drawn}{legend}</svg>\n"
    )


def _panel(
    term: str, lines: dict[str, tuple[list[int], list[float]]], colors: dict[str, str], width: int, height: int
) -> str:
    left, right, top, bottom = 40, 10, 22, 22
    last = max(steps[-1] for steps, _ in lines.values())
    highest = max(max(values) for _, values in lines.values())
    parts = [f"<text x='{left}' y='14' font-weight='bold'>{term}</text>"]
    for share in (0, 0.5, 1):
        y = height - bottom - share * (height - top - bottom)
        parts.append(f"<path d='M{left} {y:.1f}H{width - right}' stroke='#e4e1dc'/>")
        parts.append(f"<text x='{left - 4}' y='{y + 4:.1f}' text-anchor='end'>{share * highest:.3g}</text>")
        x = left + share * (width - left - right)
        parts.append(f"<text x='{x:.1f}' y='{height - 6}' text-anchor='middle'>{share * last:.0f}</text>")
    for name, (steps, values) in lines.items():
        points = " ".join(
            f"{left + step / last * (width - left - right):.1f},"
            f"{height - bottom - value / highest * (height - top - bottom):.1f}"
            for step, value in zip(steps, values, strict=True)
        )
        parts.append(f"<polyline points='{points}' fill='none' stroke='{colors[name]}' stroke-width='1.5'/>")
    return "".join(parts)
