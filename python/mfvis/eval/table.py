"""Evaluation metrics as tables to print and as JSON values."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from mfvis.eval.ap_metrics import METRICS, Metrics
from mfvis.eval.hota import TrackEvalMetrics
from mfvis.eval.mean_j import MeanJ
from mfvis.eval.mots import ClearMetrics, MotsMetrics
from mfvis.eval.ytvis import IOU_THRESHOLDS

MAX_ROWS = 100
"""Maximum number of classes or tracks in a table. COCO has 80 classes."""
TRACK_EVAL_COLUMNS = ("HOTA", "DetA", "AssA", "LocA", "sMOTA")


def as_json(metrics: Metrics | MotsMetrics) -> dict[str, Any]:
    """Metrics by their common names, as JSON values. A division by zero gives null.

    AP and AR: 0..1, or -1 without annotations, with "classes" in the order of their ids. Tracking: first the metrics
    that papers report, then the toolkit's for each class and group, both in percent, then TrackEval's in 0..1.
    """
    if isinstance(metrics, Metrics):
        classes = [{"name": entry.name} | entry.as_dict() for entry in metrics.classes]
        return metrics.as_dict() | {"classes": classes, "notes": list(metrics.notes)}
    clear = {
        f.name: {name: _finite(getattr(entry, f.name)) for name, entry in metrics.clear.items()}
        for f in fields(ClearMetrics)
    }
    track_eval = {
        _track_eval_name(f.name): {name: getattr(entry, f.name) for name, entry in metrics.track_eval.items()}
        for f in fields(TrackEvalMetrics)
    }
    means = {f"m{name}": clear[name]["AVERAGE"] for name in ("MOTA", "MOTP")}
    return metrics.as_dict() | means | {"BDD100K": clear, "TrackEval": track_eval, "notes": list(metrics.notes)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _track_eval_name(name: str) -> str:
    return name.replace("_0", "(0)")


def ap_table(metrics: Metrics) -> str:
    """The lines of the reference program, then one line per class that has objects or results, at most `MAX_ROWS`."""
    values = metrics.as_dict()
    with_occlusion = len(values) == len(METRICS)
    low, high = IOU_THRESHOLDS[0], IOU_THRESHOLDS[-1]
    lines = []
    for metric in METRICS:
        if metric.name not in values:
            continue
        iou = f"{low:.2f}:{high:.2f}" if metric.iou is None else f"{IOU_THRESHOLDS[metric.iou]:.2f}"
        slice_ = f"IoU={iou:9} | area={metric.range.area:>6}"
        slice_ += f" | occ={metric.range.occlusion:>6}" if with_occlusion else ""
        kind = f"Average {metric.kind}"
        value = f"{values[metric.name]:0.3f}"
        lines.append(f" {kind:18} ({metric.name[:2]}) @[ {slice_} | maxDets={metric.max_detections:>3} ] = {value}")
    used = [entry for entry in metrics.classes if entry.used]
    rows = [[entry.name, *(f"{value:.3f}" for value in entry.as_dict().values())] for entry in used[:MAX_ROWS]]
    left_out = {
        f"classes have neither objects nor results: {len(used)} of {len(metrics.classes)} are used": (
            len(metrics.classes) - len(used)
        ),
        f"more classes than the {MAX_ROWS} shown": len(used) - len(rows),
    }
    rest = [f" {count} {what}" for what, count in left_out.items() if count]
    rest = ["", *rest, " --out FILE.json writes the numbers of every class"] if rest else []
    return "\n".join([*metrics.notes, *lines, "", *_aligned([["class", *values], *rows]), *rest])


def mots_table(metrics: MotsMetrics) -> str:
    """Metrics that papers report, then the toolkit's table with TrackEval's HOTA and, for masks, sMOTSA; all in
    percent."""
    head = "   ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.1f}"
        for name, value in metrics.as_dict().items()
    )
    columns = [f.name for f in fields(ClearMetrics)]
    others = TRACK_EVAL_COLUMNS[:-1] if metrics.of_boxes else TRACK_EVAL_COLUMNS
    rows = [["class", *columns, *("sMOTSA" if name == "sMOTA" else name for name in others)]]
    groups = {"AVERAGE": "cls_comb_cls_av", "OVERALL": "cls_comb_det_av"}
    for name, entry in metrics.clear.items():
        values = [getattr(entry, column) for column in columns]
        values += [100 * getattr(metrics.track_eval[groups.get(name, name)], column) for column in others]
        cells = [str(v) if isinstance(v, int) else f"{v:.1f}" if math.isfinite(v) else "-" for v in values]
        rows.append([name, *cells])
    return "\n".join([*metrics.notes, *[""] * bool(metrics.notes), f" {head}", "", *_aligned(rows)])


def j_table(metrics: MeanJ) -> str:
    """One line per track, at most `MAX_ROWS`, and the mean over all object-frames."""
    rows = [["video", "track", "class", "frames", "J", "filled box"]]
    rows += [
        [
            track.video,
            str(track.track_id),
            track.category,
            str(track.frames),
            f"{track.j:.3f}",
            f"{track.filled_box_j:.3f}",
        ]
        for track in metrics.tracks[:MAX_ROWS]
    ]
    total = [
        str(len(metrics.tracks)),
        "",
        str(metrics.object_frames),
        f"{metrics.j:.3f}",
        f"{metrics.filled_box_j:.3f}",
    ]
    left_out = len(metrics.tracks) - len(rows) + 1
    rest = ["", f" {left_out} more tracks than the {MAX_ROWS} shown; --out FILE.json writes all"] if left_out else []
    return "\n".join([*_aligned([*rows, ["all", *total]]), *rest])


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lines with aligned columns: the first is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
