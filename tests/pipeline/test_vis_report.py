"""The HTML report: whole, self-contained, and safe against what it is given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from mfvis.vis.report import Chart, Curve, Figure, Gallery, Report, Table, Tile, svg_chart, write_report

CHART = Chart(
    "losses", (Curve("projection", (10, 20, 30), (3.0, 2.0, 0.5)), Curve("tk", (10, 20, 30), (1.0, 0.6, 0.5)))
)


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path):
    figure = Figure(np.full((20, 90, 3), 200, dtype=np.uint8), "first <video>")
    report = Report(
        title="A & B",
        lead="lead",
        galleries=tuple(
            Gallery(title, "what", (Tile("AP", "0.500", "note"),), ("frame", "true"), (figure,))
            for title in ("one & only", "another")
        ),
        tables=(Table("classes", "", ("class", "AP"), (("star", "0.25"),)),),
        charts=(CHART,),
        notes=("a note",),
    )
    path = tmp_path / "sub" / "report.html"
    write_report(path, report)
    page = path.read_text()
    assert "A &amp; B" in page
    assert "first &lt;video&gt;" in page
    assert "one &amp; only" in page
    assert page.index("another") > page.index("0.500")
    assert "<td>0.25</td>" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("<polyline") == 2
    assert not re.search(r"(src|href)=(?!['\"]?data:)", page)
    assert "http" not in page
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_chart_is_well_formed_and_keeps_to_its_frame():
    svg = ElementTree.fromstring(re.sub(r"(class|x\d?|y\d?|text-anchor|role)=([^\s'>]+)", r"\1='\2'", svg_chart(CHART)))
    lines = [[tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in svg.iter("polyline")]
    assert len(lines) == 2
    for line in lines:
        xs, ys = zip(*line, strict=True)
        assert list(xs) == sorted(xs)
        assert min(xs) >= 0
        assert max(xs) <= 330
        assert min(ys) >= 0
        assert max(ys) <= 190
    # A falling loss falls on the page: y grows downwards.
    assert lines[0][0][1] < lines[0][-1][1]
    names = [float(text.get("y")) for text in svg.iter("text") if "name" in text.get("class", "")]
    assert abs(names[0] - names[1]) >= 12


@pytest.mark.parametrize("values", [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0), ()])
def test_a_chart_survives_odd_values(values):
    curve = Curve("odd", tuple(range(1, len(values) + 1)), values)
    assert svg_chart(Chart("odd", (curve,))).endswith("</svg>")
