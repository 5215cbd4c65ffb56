"""The rows of a benchmark as Markdown, JSON and plots."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from inputs import Setting

SIDES = {"ours": "#d6453d", "eager": "#1779ba", "compiled": "#2c8a5b"}
AXIS_NAMES = {"frames": "T", "size": "pixels of a frame", "instances": "N", "radius": "radius", "k": "k"}


@dataclass(frozen=True)
class Timing:
    best_ms: float
    """Best time; the least disturbed by other programs on the machine."""
    median_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    extra_mb: float
    """Peak memory beyond the arguments."""


@dataclass(frozen=True)
class Row:
    case: str
    kind: str
    setting: Setting
    ours: Timing
    eager: Timing | None
    compiled: Timing | None
    gb_per_s: float
    share_of_copy_speed: float
    """Best time, as a share of the speed at which this machine copies memory, measured in the same run."""
    gflop_per_s: float
    share_of_arithmetic: float
    """Best time, as a share of a float32 matrix product on this machine, measured in the same run."""
    gpu: dict[str, Any]
    """Clocks, temperature and power right after the measurement."""


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the flag --out. It has no default, so that a trial does not replace committed results."""
    help_text = "write the results here, such as benchmarks/results (default: they are printed)"
    parser.add_argument("--out", type=folder, metavar="FOLDER", help=help_text)


def folder(text: str) -> Path:
    """Made at once, so that one that cannot be is known before anything is measured."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be made ({error.strerror})") from error
    return Path(text)


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)


def as_markdown(stem: str, where: dict[str, Any], rows: Sequence[Row]) -> str:
    head = "\n".join(f"* {name}: {value}" for name, value in where.items())
    return f"# {stem}\n\n{head}\n\n{table(rows)}"


def write_results(
    out: Path, stem: str, where: dict[str, Any], rows: Sequence[Row], plots: dict[str, Sequence[Setting]]
) -> None:
    """Writes `stem`.md, .json and `stem`_`axis`.svg below `out`."""
    write(out / f"{stem}.json", json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    text = as_markdown(stem, where, rows)
    for axis, settings in plots.items():
        write(out / f"{stem}_{axis}.svg", plot_along(axis, settings, rows))
        text += f"\n![time and memory along {axis}]({stem}_{axis}.svg)\n"
    write(out / f"{stem}.md", text)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""

    def time_of(timing: Timing | None) -> str:
        if timing is None:
            return "-"
        quartiles = f"{timing.first_quartile_ms:.2f}-{timing.third_quartile_ms:.2f}"
        return f"{timing.best_ms:.2f}; {timing.median_ms:.2f} ({quartiles})"

    def faster(row: Row, than: Timing | None) -> str:
        if than is None:
            return "-"
        return f"{than.best_ms / row.ours.best_ms:.1f}x, {than.median_ms / row.ours.median_ms:.1f}x"

    def memory_of(timing: Timing | None) -> str:
        return "-" if timing is None else f"{timing.extra_mb:.1f}"

    with_compiled, with_gpu = any(row.compiled for row in rows), any(row.gpu for row in rows)
    columns: dict[str, Callable[[Row], str]] = {
        "case": lambda row: row.case,
        "ms: best; median (quartiles)": lambda row: time_of(row.ours),
        "eager, ms": lambda row: time_of(row.eager),
        "faster: best, median": lambda row: faster(row, row.eager),
    }
    if with_compiled:
        columns |= {
            "compiled, ms": lambda row: time_of(row.compiled),
            "faster than compiled": lambda row: faster(row, row.compiled),
        }
    columns |= {
        "GB/s (of copy speed)": lambda row: f"{row.gb_per_s:.1f} ({row.share_of_copy_speed:.0%})",
        "GFLOP/s (of a matrix product)": lambda row: f"{row.gflop_per_s:.1f} ({row.share_of_arithmetic:.0%})",
        "extra MB": lambda row: memory_of(row.ours),
        "eager, extra MB": lambda row: memory_of(row.eager),
    }
    if with_gpu:
        columns["GPU"] = lambda row: (
            f"{row.gpu['sm_mhz']} MHz, {row.gpu['celsius']} °C, {row.gpu['watts']:.0f} W"
            if "watts" in row.gpu
            else "unknown"
        )
    lines = [list(columns), ["---"] * len(columns), *([cell(row) for cell in columns.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plot_along(axis: str, settings: Sequence[Setting], rows: Sequence[Row]) -> str:
    """SVG: of every kind of case on the axis, time on the left and peak memory on the right."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.setting in settings:
            kinds.setdefault(row.kind, []).append(row)

    def x(row: Row) -> float:
        return row.setting.height * row.setting.width if axis == "size" else getattr(row.setting, axis)

    panels = []
    for kind, of_kind in kinds.items():
        if len(of_kind) < 2:
            continue
        of_kind = sorted(of_kind, key=x)
        for what, value in (("ms", lambda timing: timing.best_ms), ("extra MB", lambda timing: timing.extra_mb)):
            lines = {
                side: [(x(row), value(timing)) for row in of_kind if (timing := getattr(row, side)) is not None]
                for side in SIDES
            }
            panels.append((f"{kind}: {what}" if kind else what, lines))
    width, height = 360, 260
    drawn = [
        f"<g transform='translate({width * (place % 2)} {height * (place // 2)})'>"
        + panel(title, AXIS_NAMES[axis], lines, width, height)
        + "</g>"
        for place, (title, lines) in enumerate(panels)
    ]
    size = f"{2 * width} {height * math.ceil(len(panels) / 2)}"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size}' font-family='sans-serif' font-size='11' "
        f"fill='#333'><rect width='100%' height='100%' fill='#fff'/>{''.join(drawn)}</svg>\n"
    )


def panel(title: str, axis: str, lines: dict[str, list[tuple[float, float]]], width: int, height: int) -> str:
    """Lines on a logarithmic y axis, a tick at every power of ten and at every measured x."""
    left, right, top, bottom = 56, 62, 26, 34
    lines = {name: [(x, max(y, 1e-2)) for x, y in points] for name, points in lines.items() if points}
    points = [point for line in lines.values() for point in line]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    lowest = math.floor(math.log10(min(y for _, y in points)))
    highest = max(lowest + 1, math.ceil(math.log10(max(y for _, y in points))))

    def across(x: float) -> float:
        return left + (width - left - right) * (x - first) / ((last - first) or 1)

    def up(y: float) -> float:
        return height - bottom - (height - top - bottom) * (math.log10(y) - lowest) / (highest - lowest)

    parts = [f"<text x='{left}' y='14' font-weight='bold'>{escape(title)}</text>"]
    for power in range(lowest, highest + 1):
        y = up(10.0**power)
        parts.append(f"<path d='M{left} {y:.1f}H{width - right}' stroke='#e4e1dc'/>")
        parts.append(f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{10.0**power:g}</text>")
    parts += [
        f"<text x='{across(x):.1f}' y='{height - bottom + 14}' text-anchor='middle'>{x:g}</text>"
        for x in sorted({x for x, _ in points})
    ]
    parts.append(f"<text x='{(left + width - right) / 2}' y='{height - 4}' text-anchor='middle'>{escape(axis)}</text>")
    for name, line in lines.items():
        color = SIDES[name]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='2'/>")
        parts += [f"<circle cx='{across(x):.1f}' cy='{up(y):.1f}' r='2.5' fill='{color}'/>" for x, y in line]
        x, y = line[-1]
        parts.append(f"<text x='{across(x) + 6:.1f}' y='{up(y) + 4:.1f}' fill='{color}'>{name}</text>")
    return "".join(parts)
