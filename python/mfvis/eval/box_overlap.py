"""Box overlaps by the definitions of two programs: the toolkit includes the corner x2, y2, TrackEval excludes it.

Each function takes the corners of the file, float64 ``[N, 4]`` as ``x1, y1, x2, y2``, and follows its program's order
of operations, so that an overlap of exactly 0.5 there is exactly 0.5 here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mfvis.eval.mots_frame import EPSILON

Overlap = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Function from annotated boxes ``[G, 4]`` and predicted boxes ``[P, 4]`` to their IoU and to the fraction of each
prediction that lies in an annotation, both float64 ``[G, P]``."""


def toolkit_overlap(true_G4: np.ndarray, predicted_P4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps as in scalabel 0.3.1 and motmetrics 1.4.0: a box from 3 to 5 is three pixels wide."""
    (low_G2, high_G2, area_G), (low_P2, high_P2, area_P) = (
        (boxes[:, :2], boxes[:, :2] + size, size.prod(1))
        for boxes in (true_G4, predicted_P4)
        for size in (boxes[:, 2:] - boxes[:, :2] + 1,)
    )
    shared_GP = _shared(low_G2, high_G2, low_P2, high_P2)
    union_GP = area_G[:, None] + area_P - shared_GP
    return _quotient(shared_GP, union_GP), _quotient(shared_GP, np.broadcast_to(area_P, shared_GP.shape))


def track_eval_overlap(true_G4: np.ndarray, predicted_P4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps as in TrackEval 1.3.0: a box from 3 to 5 is two pixels wide, and a box without area overlaps nothing."""
    shared_GP = _shared(true_G4[:, :2], true_G4[:, 2:], predicted_P4[:, :2], predicted_P4[:, 2:])
    area_G, area_P = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (true_G4, predicted_P4))
    union_GP = area_G[:, None] + area_P - shared_GP
    valid_GP = (area_G[:, None] > EPSILON) & (area_P > EPSILON) & (union_GP > EPSILON)
    inside_GP = np.where(area_P > EPSILON, shared_GP, 0.0)
    return (
        _quotient(np.where(valid_GP, shared_GP, 0.0), union_GP),
        _quotient(inside_GP, np.broadcast_to(area_P, shared_GP.shape)),
    )


def _shared(low_G2: np.ndarray, high_G2: np.ndarray, low_P2: np.ndarray, high_P2: np.ndarray) -> np.ndarray:
    """Intersection areas of all pairs of boxes: float64 ``[G, P]``."""
    size_GP2 = np.minimum(high_G2[:, None], high_P2) - np.maximum(low_G2[:, None], low_P2)
    return np.maximum(size_GP2, 0).prod(2)


def _quotient(shared_GP: np.ndarray, whole_GP: np.ndarray) -> np.ndarray:
    return np.divide(shared_GP, whole_GP, out=np.zeros(shared_GP.shape), where=(shared_GP > 0) & (whole_GP > 0))
