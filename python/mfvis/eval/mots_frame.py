"""The frames of tracking as its metrics see them, and which predictions ignore regions take out of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class MotsFrame:
    """G annotated and P predicted objects that count (ignore regions are neither), and how they overlap."""

    true_ids_G: np.ndarray
    """int64, distinct within a class."""
    true_labels_G: np.ndarray
    """int64: classes 1 to 8."""
    predicted_ids_P: np.ndarray
    predicted_labels_P: np.ndarray
    iou_GP: np.ndarray
    """float64, of masks or of boxes."""
    covered_P: np.ndarray
    """float64: the largest share of each prediction that lies in a single ignore region, of whatever class."""

    def of_class(self, label: int) -> MotsFrame:
        """The same frame with the objects of one class alone."""
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
        """The frame without the predictions that are not matched and of which more than `covered` is to be ignored."""
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
    """The frames of each video of a data set, in their order."""

    kind: Literal["masks", "boxes"]
    """What the overlaps are of."""
    videos: list[list[MotsFrame]]
    """As the toolkit compares the objects."""
    track_eval_videos: list[list[MotsFrame]]
    """As TrackEval compares them: the same for masks. Its boxes end where the file says, the toolkit's a pixel later.
    """
    notes: tuple[str, ...] = ()
    """What the programs would only log, or not even that."""


def assign(distance_GP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest assignment of as many pairs as possible; a distance of NaN forbids a pair.

    As motmetrics 1.4.0 does it with scipy: ties between assignments fall the same way.
    """
    allowed_GP = np.isfinite(distance_GP)
    if not allowed_GP.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # One forbidden pair costs more than all allowed ones.
    forbidding = 2 * min(distance_GP.shape) * (np.abs(distance_GP[allowed_GP]).max() + 1) + 1
    rows, columns = linear_sum_assignment(np.where(allowed_GP, distance_GP, forbidding))
    good = allowed_GP[rows, columns]
    return rows[good], columns[good]
