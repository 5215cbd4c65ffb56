"""Outlines of polygons with cubic Bezier curves, as Scalabel and BDD100K write them."""

from __future__ import annotations

import numpy as np

CURVE_TOLERANCE = 0.05
"""Maximum distance in pixels between a Bezier curve and its line segments."""
MAX_CURVE_STEPS = 256
"""Maximum number of line segments of a curve."""


def is_outline(types: str) -> bool:
    """True if the points form a closed outline: vertices (L), and between two of them two control points (CC) of a
    curve, or three C, of which the last is a vertex. The outline may begin in the middle of a curve."""
    start = types.find("L")
    runs = (types[start:] + types[:start]).split("L")
    return start >= 0 and set(types) <= {"L", "C"} and all(len(run) % 3 != 1 for run in runs)


def flatten_outline(points: list[list[float]], types: str) -> list[float]:
    """The closed polygon with its cubic Bezier curves converted to line segments."""
    start = types.index("L")
    types = types[start:] + types[:start]
    # the last curve may end at the first point
    vertices = np.asarray([*points[start:], *points[:start], points[start]], np.float64)
    flat = [vertices[:1]]
    index = 1
    while index < len(types):
        if types[index] == "L":
            flat.append(vertices[index : index + 1])
            index += 1
        else:
            flat.append(_curve(vertices[index - 1 : index + 3]))
            index += 3
    outline = np.concatenate(flat)
    return (outline[:-1] if index > len(types) else outline).ravel().tolist()


def _curve(control_42: np.ndarray) -> np.ndarray:
    """Points of a cubic Bezier curve without its start: float64 ``[S, 2]``."""
    # The error of a segment is at most an eighth of the second derivative times the squared step.
    bend = 6 * np.abs(control_42[:-2] - 2 * control_42[1:-1] + control_42[2:]).max()
    steps = min(max(int(np.ceil(np.sqrt(bend / (8 * CURVE_TOLERANCE)))), 1), MAX_CURVE_STEPS)
    s = np.linspace(0, 1, steps + 1)[1:, None]
    return np.hstack([(1 - s) ** 3, 3 * (1 - s) ** 2 * s, 3 * (1 - s) * s**2, s**3]) @ control_42
