"""Frames of tracking as the metrics use them, and the removal of predictions in ignore regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class MotsFrame:
    """G annotated and P predicted objects that count, and their overlaps. Ignore regions are not among them."""

    true_ids_G: np.ndarray
    """Track ids, int64, distinct within a class."""
    true_labels_G: np.ndarray
    """Classes 1 to 8, int64."""
    predicted_ids_P: np.ndarray
    predicted_labels_P: np.ndarray
    iou_GP: np.ndarray
    """Overlaps of masks or boxes, float64."""
    covered_P: np.ndarray
    """Largest fraction of each prediction inside a single ignore region of any class, float64."""

    def of_class(self, label: int) -> MotsFrame:
        """The same frame with only the objects of one class."""
        true_G, predicted_P = self.true_labels_G == label, self.predicted_labels_P == label
        return MotsFrame(
            self.true_ids_G[true_G],
            self.true_labels_G[true_G],
            self.predicted_ids_P[predicted_P],
            self.predicted_labels_P[predicted_P],
            self.iou_GP[true_G][:, predicted_P],
            self.covered_P[predicted_P],
        )

    def without_ignored(self, matched_P: np.ndarray, covered: float) -> MotsFrame:
        """The frame without unmatched predictions of which more than the fraction `covered` is to be ignored."""
        kept_P = matched_P | (self.covered_P <= covered)
        if kept_P.all():
            return self
        return MotsFrame(
            self.true_ids_G,
            self.true_labels_G,
            self.predicted_ids_P[kept_P],
            self.predicted_labels_P[kept_P],
            self.iou_GP[:, kept_P],
            self.covered_P[kept_P],
        )


@dataclass(frozen=True)
class TrackingFrames:
    """Frames of each video of a data set, in order."""

    kind: Literal["masks", "boxes"]
    """Kind of objects whose overlaps were computed."""
    videos: list[list[MotsFrame]]
    """Frames with overlaps as the toolkit computes them."""
    track_eval_videos: list[list[MotsFrame]]
    """Frames with overlaps as TrackEval computes them: equal for masks. Its boxes end at the file's x2, y2, the
    toolkit's one pixel later.
    """
    notes: tuple[str, ...] = ()
    """Warnings that the reference programs would only log, or omit."""


def assign(distance_GP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest assignment of as many pairs as possible. A NaN distance forbids a pair.

    Uses scipy in the same way as motmetrics 1.4.0, so that ties between assignments are resolved identically.
    """
    allowed_GP = np.isfinite(distance_GP)
    if not allowed_GP.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # A single forbidden pair must cost more than all allowed pairs.
    forbidding = 2 * min(distance_GP.shape) * (np.abs(distance_GP[allowed_GP]).max() + 1) + 1
    rows, columns = linear_sum_assignment(np.where(allowed_GP, distance_GP, forbidding))
    good = allowed_GP[rows, columns]
    return rows[good], columns[good]
