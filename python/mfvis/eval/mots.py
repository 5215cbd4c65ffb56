"""Tracking metrics of BDD100K, for masks or boxes: CLEAR MOT and IDF1 as the data set's toolkit computes them.

The metrics equal those of bdd100k 1.0.1, scalabel 0.3.1 and motmetrics 1.4.0, with their units and names: MOTA, MOTP
and IDF1 in percent. For masks, papers call mMOTA, mMOTP, mIDF1 and the switches of OVERALL mMOTSA, mMOTSP, mIDF1, ID
sw. HOTA and sMOTSA, which the toolkit does not have, come from `mfvis.eval.hota`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from scipy.optimize import linear_sum_assignment

from mfvis.data.bdd100k import CATEGORIES
from mfvis.eval.hota import TrackEvalCounts, TrackEvalMetrics, track_eval_groups
from mfvis.eval.mots_frame import MotsFrame, TrackingFrames, assign

IOU_THRESHOLD = 0.5
"""Lowest IoU of a pair that may be matched."""
COVERED = 0.5
"""Fraction of an unmatched prediction inside one ignore region above which the prediction does not count."""
SUPER_CATEGORIES = {"human": (1, 2), "vehicle": (3, 4, 5, 6), "bike": (7, 8)}


@dataclass(frozen=True)
class ClearMetrics:
    """One column of the toolkit's table. MOTA, MOTP, IDF1 in percent; NaN or -inf on division by zero."""

    IDF1: float
    MOTA: float
    MOTP: float
    FP: int
    FN: int
    IDSw: int
    MT: int
    PT: int
    ML: int
    FM: int


@dataclass(frozen=True)
class MotsMetrics:
    """All reported tracking metrics."""

    clear: dict[str, ClearMetrics]
    """One entry per class, then per super-category, then AVERAGE and OVERALL, in the order of the toolkit's table."""
    track_eval: dict[str, TrackEvalMetrics]
    """One entry per class, per super-category, then cls_comb_cls_av (mean of the classes), cls_comb_det_av (sum of
    their counts)."""
    notes: tuple[str, ...] = ()
    """Warnings that a reference program would only log."""
    of_boxes: bool = False
    """True if boxes were compared instead of masks."""

    def as_dict(self) -> dict[str, float]:
        """Metrics reported by papers, by name: in percent, except the count IDSw."""
        average, overall = self.clear["AVERAGE"], self.clear["OVERALL"]
        names = ("mMOTA", "mMOTP") if self.of_boxes else ("mMOTSA", "mMOTSP")
        return {names[0]: average.MOTA, names[1]: average.MOTP, "mIDF1": average.IDF1, "IDSw": overall.IDSw}


@dataclass
class ClearCounts:
    """Counts of motmetrics for one video and class. Counts of several can be added."""

    true: int = 0
    predicted: int = 0
    matches: int = 0
    """Identity switches among the matches."""
    switches: int = 0
    distance: float = 0.0
    """Sum of 1 - IoU over the matches."""
    id_matches: int = 0
    mostly_tracked: int = 0
    partially_tracked: int = 0
    mostly_lost: int = 0
    fragmentations: int = 0

    def __add__(self, other: ClearCounts) -> ClearCounts:
        return ClearCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(ClearCounts)))

    def metrics(self) -> ClearMetrics:
        misses, false = self.true - self.matches, self.predicted - self.matches
        return ClearMetrics(
            IDF1=100 * _ratio(2 * self.id_matches, self.true + self.predicted),
            MOTA=100 * (1 - _ratio(misses + self.switches + false, self.true)),
            MOTP=100 * (1 - _ratio(self.distance, self.matches)),
            FP=false,
            FN=misses,
            IDSw=self.switches,
            MT=self.mostly_tracked,
            PT=self.partially_tracked,
            ML=self.mostly_lost,
            FM=self.fragmentations,
        )


@dataclass
class Accumulator:
    """Matching of motmetrics over the frames of one video and class."""

    counts: ClearCounts = field(default_factory=ClearCounts)
    partner: dict[int, int] = field(default_factory=dict)
    """For each annotated id, the prediction that it was last matched with, however long ago."""
    history: dict[int, list[bool]] = field(default_factory=dict)
    """For each annotated id, whether it was matched, for each frame in which it appears."""
    predicted: set[int] = field(default_factory=set)
    together: dict[tuple[int, int], int] = field(default_factory=dict)
    """Number of frames in which an annotated and a predicted id could be matched."""

    def update(self, frame: MotsFrame) -> None:
        true, predicted = frame.true_ids_G.tolist(), frame.predicted_ids_P.tolist()
        distance_GP = 1 - frame.iou_GP
        distance_GP[distance_GP > 1 - IOU_THRESHOLD] = np.nan
        allowed_GP = np.isfinite(distance_GP)
        for g, p in zip(*(axis.tolist() for axis in np.nonzero(allowed_GP)), strict=True):
            pair = true[g], predicted[p]
            self.together[pair] = self.together.get(pair, 0) + 1
        self.predicted.update(predicted)
        self.counts.true += len(true)
        self.counts.predicted += len(predicted)

        matched: dict[int, int] = {}
        for g, track_id in enumerate(true):
            p = predicted.index(self.partner[track_id]) if self.partner.get(track_id) in predicted else None
            if p is not None and p not in matched.values() and allowed_GP[g, p]:
                matched[g] = p
        free_GP = distance_GP.copy()
        free_GP[list(matched), :] = np.nan
        free_GP[:, list(matched.values())] = np.nan
        rows, columns = assign(free_GP)
        for g, p in zip(rows.tolist(), columns.tolist(), strict=True):
            self.counts.switches += self.partner.get(true[g], predicted[p]) != predicted[p]
            matched[g] = p
        for g, p in matched.items():
            self.partner[true[g]] = predicted[p]
            self.counts.distance += distance_GP[g, p]
        self.counts.matches += len(matched)
        for g, track_id in enumerate(true):
            self.history.setdefault(track_id, []).append(g in matched)

    def finish(self) -> ClearCounts:
        """Counts of the whole video."""
        for matched in self.history.values():
            share = sum(matched) / len(matched)
            self.counts.mostly_tracked += share >= 0.8
            self.counts.partially_tracked += 0.2 <= share < 0.8
            self.counts.mostly_lost += share < 0.2
            last = max((t for t, there in enumerate(matched) if there), default=0)
            pairs = zip(matched[:last], matched[1:last], strict=False)
            self.counts.fragmentations += sum(before and not after for before, after in pairs)
        rows, columns = sorted(self.history), sorted(self.predicted)
        together = np.zeros((len(rows), len(columns)))
        for (track_id, other), frames in self.together.items():
            together[rows.index(track_id), columns.index(other)] = frames
        # Ids are paired to agree in most frames, as in motmetrics' cheapest global assignment without its disabled
        # pairs.
        self.counts.id_matches = int(together[linear_sum_assignment(together, maximize=True)].sum())
        return self.counts


def evaluate_mots(tracking: TrackingFrames) -> MotsMetrics:
    """Tracking metrics of all videos.

    Identities and matches never cross classes: a prediction that changes its class counts as two tracks.
    """
    clear = {category.id: ClearCounts() for category in CATEGORIES}
    track_eval = {category.id: TrackEvalCounts() for category in CATEGORIES}
    for frames, track_eval_frames in zip(tracking.videos, tracking.track_eval_videos, strict=True):
        for category in CATEGORIES:
            class_frames = [frame.of_class(category.id) for frame in frames]
            if not any(len(frame.true_ids_G) or len(frame.predicted_ids_P) for frame in class_frames):
                continue
            accumulator = Accumulator()
            for frame in class_frames:
                accumulator.update(frame.without_ignored(_matched(frame), COVERED))
            clear[category.id] += accumulator.finish()
            class_frames = [frame.of_class(category.id) for frame in track_eval_frames]
            track_eval[category.id] += TrackEvalCounts.of_video(class_frames)
    groups = track_eval_groups(track_eval, SUPER_CATEGORIES)
    return MotsMetrics(_clear_groups(clear), groups, tracking.notes, of_boxes=tracking.kind == "boxes")


def _matched(frame: MotsFrame) -> np.ndarray:
    """Predictions that are matched with an annotation before ignore regions are considered: bool ``[P]``."""
    distance_GP = 1 - frame.iou_GP
    matched_P = np.zeros(len(frame.predicted_ids_P), bool)
    matched_P[assign(np.where(distance_GP > 1 - IOU_THRESHOLD, np.nan, distance_GP))[1]] = True
    return matched_P


def _clear_groups(counts: dict[int, ClearCounts]) -> dict[str, ClearMetrics]:
    """Groups of the toolkit's table: classes, super-categories, AVERAGE, OVERALL."""
    classes = {category.name: counts[category.id].metrics() for category in CATEGORIES}
    groups = {name: sum((counts[n] for n in members), ClearCounts()) for name, members in SUPER_CATEGORIES.items()}
    # A class that cannot be measured, absent or without annotations, counts as 0 in the mean of eight classes.
    average = {}
    for name in ("IDF1", "MOTA", "MOTP"):
        values = np.array([getattr(metrics, name) for metrics in classes.values()])
        average[name] = float(np.where(np.isfinite(values), values, 0.0).mean())
    for name in ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"):
        average[name] = sum(getattr(metrics, name) for metrics in classes.values())
    return {
        **classes,
        **{name: group.metrics() for name, group in groups.items()},
        "AVERAGE": ClearMetrics(**average),
        "OVERALL": sum(counts.values(), ClearCounts()).metrics(),
    }


def _ratio(dividend: float, divisor: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.true_divide(dividend, divisor))
