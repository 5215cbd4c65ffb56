"""Static HTML report of a training: metrics, images and curves in a single self-contained file."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path

import numpy as np
from PIL import Image

from mfvis.text import printable
from mfvis.writing import atomic_write


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. The first column names the row."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """One row of panels, below the captions of its gallery."""

    pixels_HW3: np.ndarray
    caption: str
    link: str = ""
    """Address that a click opens, relative to the page; none if empty."""


@dataclass(frozen=True)
class Gallery:
    """Headline numbers, then rows of panels under common captions. `lead` is a paragraph of plain text."""

    title: str
    lead: str
    tiles: tuple[Tile, ...]
    captions: tuple[str, ...]
    """Captions of the panels, from left to right."""
    figures: tuple[Figure, ...]
    tiled: bool = False
    """True for small figures, several in a row."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """Curves that share one pair of axes."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Report:
    """Content of the page, from top to bottom. `lead` and `notes` are paragraphs of plain text."""

    title: str
    lead: str
    galleries: tuple[Gallery, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]


def escape(text: str) -> str:
    """Text escaped for use inside a tag or an attribute of the page."""
    return escape_html(printable(text))


def write_report(path: Path, report: Report) -> None:
    """Write the page. Images are embedded and charts are inline SVG, so that nothing is loaded from elsewhere."""
    charts = "".join(map(_chart, report.charts))
    body = [
        f"<header><h1>{escape(report.title)}</h1><p class=lead>{escape(report.lead)}</p></header>",
        *map(_gallery, report.galleries),
        *map(_table, report.tables),
        *([f"<section><h2>Training</h2><div class=charts>{charts}</div></section>"] if charts else []),
        f"<section><h2>How to read this</h2>{''.join(f'<p>{escape(note)}</p>' for note in report.notes)}</section>",
    ]
    page = f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(report.title)}</title>"
    page += f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head><body><main>"
    page += "\n".join(body) + "</main></body></html>\n"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def svg_chart(chart: Chart) -> str:
    """A line chart as SVG text with few gridlines and a name at the end of each line."""
    width, height, left, right, top, bottom = 330, 190, 40, 78, 12, 24
    points = [(s, v) for curve in chart.curves for s, v in zip(curve.steps, curve.values, strict=True)]
    last = max((step for step, _ in points), default=1)
    ticks = _ticks(max((value for _, value in points), default=1.0))

    def x(step: float) -> float:
        return left + (width - left - right) * step / last

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / ticks[-1]

    parts = [f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{escape(chart.title)}'>"]
    for tick in ticks:
        parts.append(f"<line class=grid x1={left} x2={width - right} y1={y(tick):.1f} y2={y(tick):.1f} />")
        parts.append(f"<text x={left - 6} y={y(tick) + 3.5:.1f} text-anchor=end>{tick:g}</text>")
    # The last step is right-aligned, since the names of the lines start to the right of it.
    for step, anchor in ((0, "middle"), (last, "end")):
        parts.append(f"<text x={x(step):.1f} y={height - 6} text-anchor={anchor}>{step}</text>")
    # Names at the ends of the lines are moved apart where lines end together.
    ends = sorted((y(curve.values[-1]), i) for i, curve in enumerate(chart.curves) if len(curve.values))
    lowest = -math.inf
    for end, i in ends:
        curve = chart.curves[i]
        lowest = max(end + 3.5, lowest + 12)
        line = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(curve.steps, curve.values, strict=True))
        parts.append(f"<polyline class='line c{i}' points='{line}' />")
        name = escape(curve.name)
        parts.append(f"<text class='name t{i}' x={width - right + 6} y={lowest:.1f}>{name}</text>")
    return "".join(parts) + "</svg>"


def _ticks(largest: float) -> list[float]:
    """Ticks from 0 to at least `largest` in three to five round steps."""
    if not (math.isfinite(largest) and largest > 0):
        return [0.0, 1.0]
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [round(step * n, 12) for n in range(math.ceil(largest / step - 1e-9) + 1)]


def _gallery(gallery: Gallery) -> str:
    captions = "".join(f"<span>{escape(caption)}</span>" for caption in gallery.captions)
    return (
        f"<section><h2>{escape(gallery.title)}</h2><p>{escape(gallery.lead)}</p>"
        f"<div class=tiles>{''.join(map(_tile, gallery.tiles))}</div>"
        + (f"<div class=captions style='--panels:{len(gallery.captions)}'>{captions}</div>" if captions else "")
        + f"<div{' class=tiled' if gallery.tiled else ''}>{''.join(map(_figure, gallery.figures))}</div></section>"
    )


def _tile(tile: Tile) -> str:
    name, value, note = map(escape, (tile.name, tile.value, tile.note))
    return (
        f"<div class=tile><div class=name>{name}</div><div class=value>{value}</div><div class=note>{note}</div></div>"
    )


def _figure(figure: Figure) -> str:
    # JPEG at this quality is a fifth of a PNG here. Outlines stay sharp without chroma subsampling.
    encoded = io.BytesIO()
    Image.fromarray(figure.pixels_HW3).save(encoded, "JPEG", quality=88, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    caption = escape(figure.caption)
    image = f"<img src='{source}' alt='{caption}'>"
    if figure.link:
        image = f"<a href='{escape(figure.link)}'>{image}</a>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2>{note}<div class=scroll><table><thead><tr>{header}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _chart(chart: Chart) -> str:
    return f"<div class=chart><h3>{escape(chart.title)}</h3>{svg_chart(chart)}</div>"


_STYLE = """
:root{--paper:#fafaf9;--ink:#1c1b1a;--soft:#6b6864;--rule:#e4e1dc;--card:#fff;--c0:#d6453d;--c1:#1779ba;--c2:#2c8a5b;
--c3:#8a56c2;--c4:#b7791f;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--paper:#171615;--ink:#eceae6;--soft:#a19c95;--rule:#34312e;--card:#1f1e1c;
--c0:#ff7a70;--c1:#5bb5f0;--c2:#5fc793;--c3:#bd93ee;--c4:#e0ab54}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:34px;line-height:1.15;letter-spacing:-.02em;margin:0 0 10px}
h2{font-size:20px;letter-spacing:-.01em;margin:48px 0 12px}
h3{font-size:14px;font-weight:600;margin:0 0 4px}
p{max-width:72ch;margin:0 0 10px;color:var(--soft)}
.lead{font-size:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:18px 0}
.tile,.chart{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
.tile .name{font-size:14px;color:var(--soft)}
.tile .value{font-size:36px;font-weight:650;letter-spacing:-.02em;line-height:1.2}
.tile .note{font-size:13px;color:var(--soft);line-height:1.4}
.captions{display:grid;grid-template-columns:repeat(var(--panels),1fr);font-size:14px;font-weight:600;margin-bottom:6px}
figure{margin:0 0 14px}
.tiled{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:14px}
figure img{width:100%;display:block;border-radius:6px}
figcaption{font-size:13px;color:var(--soft);margin-top:4px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;min-width:60%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:8px 14px;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-size:13px;font-weight:600;color:var(--soft)}
th:first-child,td:first-child{text-align:left;padding-left:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:14px}
.chart{padding:14px 16px 6px}
svg{width:100%;display:block}
svg text{font:10.5px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
svg .name{font-weight:600}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
svg .t0{fill:var(--c0)}svg .t1{fill:var(--c1)}svg .t2{fill:var(--c2)}svg .t3{fill:var(--c3)}svg .t4{fill:var(--c4)}
@media(max-width:700px){main{padding:28px 14px}h1{font-size:27px}}
"""
