"""HOTA, CLEAR (with sMOTSA) and identity metrics of tracking, by the definitions of TrackEval 1.3.0.

For BDD100K's boxes the values equal TrackEval's. No reference exists for its masks: they follow the protocol of the
boxes with mask overlaps. In each class, a prediction is removed if no annotation matches it at IoU 0.5 and more than
half of it lies in one ignore region. HOTA: Luiten et al., IJCV 2021. sMOTA of masks is the sMOTSA of Voigtlaender et
al., CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from scipy.optimize import linear_sum_assignment

from mfvis.data.bdd100k import CATEGORIES
from mfvis.eval.mots_frame import EPSILON, MotsFrame

ALPHAS = np.arange(0.05, 0.99, 0.05)
THRESHOLD = 0.5
COVERED = 0.5 + EPSILON


def _per_alpha() -> np.ndarray:
    return np.zeros(len(ALPHAS))


@dataclass(frozen=True)
class TrackEvalMetrics:
    """Metrics of TrackEval in 0..1 under its names. HOTA to OWTA are means over the 19 alphas. "(0)" marks the value at
    the lowest alpha.

    CLEAR divides by at least 1. Thus MOTA and sMOTA of a class without annotations equal minus its false positives.
    """

    HOTA: float
    DetA: float
    AssA: float
    DetRe: float
    DetPr: float
    AssRe: float
    AssPr: float
    LocA: float
    OWTA: float
    HOTA_0: float
    LocA_0: float
    HOTALocA_0: float
    sMOTA: float
    MOTA: float
    MOTP: float
    MODA: float
    CLR_Re: float
    CLR_Pr: float
    MTR: float
    PTR: float
    MLR: float
    IDF1: float
    IDR: float
    IDP: float
    CLR_TP: int
    CLR_FN: int
    CLR_FP: int
    IDSW: int
    MT: int
    PT: int
    ML: int
    Frag: int
    IDTP: int
    IDFN: int
    IDFP: int


@dataclass
class TrackEvalCounts:
    """Counts of one video and class. Counts of several videos or classes can be added."""

    tp_A: np.ndarray = field(default_factory=_per_alpha)
    fn_A: np.ndarray = field(default_factory=_per_alpha)
    fp_A: np.ndarray = field(default_factory=_per_alpha)
    association_A: np.ndarray = field(default_factory=_per_alpha)
    """AssA, AssRe and AssPr, each multiplied by the true positives."""
    association_recall_A: np.ndarray = field(default_factory=_per_alpha)
    association_precision_A: np.ndarray = field(default_factory=_per_alpha)
    iou_A: np.ndarray = field(default_factory=_per_alpha)
    """Sum of IoU over the true positives."""
    clr_tp: int = 0
    clr_fn: int = 0
    clr_fp: int = 0
    switches: int = 0
    mostly_tracked: int = 0
    partially_tracked: int = 0
    mostly_lost: int = 0
    fragments: int = 0
    clr_iou: float = 0.0
    id_tp: int = 0
    id_fn: int = 0
    id_fp: int = 0

    def __add__(self, other: TrackEvalCounts) -> TrackEvalCounts:
        return TrackEvalCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(TrackEvalCounts)))

    @staticmethod
    def of_video(frames: Sequence[MotsFrame]) -> TrackEvalCounts:
        """Counts of one video from its frames, which contain the objects of one class."""
        frames = [frame.without_ignored(_matched(frame), COVERED) for frame in frames]
        true, predicted = (
            {track_id: i for i, track_id in enumerate(sorted(set(np.concatenate(ids).tolist())))}
            for ids in ([frame.true_ids_G for frame in frames], [frame.predicted_ids_P for frame in frames])
        )
        video = _Video(
            [np.array([true[i] for i in frame.true_ids_G.tolist()], np.int64) for frame in frames],
            [np.array([predicted[i] for i in frame.predicted_ids_P.tolist()], np.int64) for frame in frames],
            [frame.iou_GP for frame in frames],
            len(true),
            len(predicted),
        )
        counts = TrackEvalCounts()
        if not true or not predicted:
            objects, predictions = (sum(map(len, ids)) for ids in (video.true, video.predicted))
            counts.fn_A += objects
            counts.fp_A += predictions
            counts.clr_fn = counts.id_fn = objects
            counts.clr_fp = counts.id_fp = predictions
            counts.mostly_lost = len(true)
            return counts
        _count_hota(video, counts)
        _count_clear(video, counts)
        _count_identity(video, counts)
        return counts

    def metrics(self) -> TrackEvalMetrics:
        tp, most = self.tp_A, np.maximum
        det_re, det_pr = tp / most(1, tp + self.fn_A), tp / most(1, tp + self.fp_A)
        det = tp / most(1, tp + self.fn_A + self.fp_A)
        ass = self.association_A / most(1, tp)
        loc = most(1e-10, self.iou_A) / most(1e-10, tp)
        hota = np.sqrt(det * ass)
        objects, tracks = max(1, self.clr_tp + self.clr_fn), self.mostly_tracked + self.partially_tracked
        tracks = max(1, tracks + self.mostly_lost)
        return TrackEvalMetrics(
            HOTA=float(hota.mean()),
            DetA=float(det.mean()),
            AssA=float(ass.mean()),
            DetRe=float(det_re.mean()),
            DetPr=float(det_pr.mean()),
            AssRe=float((self.association_recall_A / most(1, tp)).mean()),
            AssPr=float((self.association_precision_A / most(1, tp)).mean()),
            LocA=float(loc.mean()),
            OWTA=float(np.sqrt(det_re * ass).mean()),
            HOTA_0=float(hota[0]),
            LocA_0=float(loc[0]),
            HOTALocA_0=float(hota[0] * loc[0]),
            sMOTA=(self.clr_iou - self.clr_fp - self.switches) / objects,
            MOTA=(self.clr_tp - self.clr_fp - self.switches) / objects,
            MOTP=self.clr_iou / max(1, self.clr_tp),
            MODA=(self.clr_tp - self.clr_fp) / objects,
            CLR_Re=self.clr_tp / objects,
            CLR_Pr=self.clr_tp / max(1, self.clr_tp + self.clr_fp),
            MTR=self.mostly_tracked / tracks,
            PTR=self.partially_tracked / tracks,
            MLR=self.mostly_lost / tracks,
            IDF1=self.id_tp / max(1, self.id_tp + 0.5 * self.id_fp + 0.5 * self.id_fn),
            IDR=self.id_tp / max(1, self.id_tp + self.id_fn),
            IDP=self.id_tp / max(1, self.id_tp + self.id_fp),
            CLR_TP=self.clr_tp,
            CLR_FN=self.clr_fn,
            CLR_FP=self.clr_fp,
            IDSW=self.switches,
            MT=self.mostly_tracked,
            PT=self.partially_tracked,
            ML=self.mostly_lost,
            Frag=self.fragments,
            IDTP=self.id_tp,
            IDFN=self.id_fn,
            IDFP=self.id_fp,
        )


def _matched(frame: MotsFrame) -> np.ndarray:
    """Predictions that are matched with an annotation before ignore regions are considered: bool ``[P]``."""
    matched_P = np.zeros(len(frame.predicted_ids_P), bool)
    score_GP = np.where(frame.iou_GP < THRESHOLD - EPSILON, 0, frame.iou_GP)
    rows, columns = linear_sum_assignment(-score_GP)
    matched_P[columns[score_GP[rows, columns] > EPSILON]] = True
    return matched_P


@dataclass(frozen=True)
class _Video:
    """One class in one video: identities as indices from 0, and overlaps, for each frame."""

    true: list[np.ndarray]
    predicted: list[np.ndarray]
    iou: list[np.ndarray]
    true_tracks: int
    predicted_tracks: int


def _count_hota(video: _Video, counts: TrackEvalCounts) -> None:
    soft_NM = np.zeros((video.true_tracks, video.predicted_tracks))
    true_N1, predicted_1M = np.zeros((video.true_tracks, 1)), np.zeros((1, video.predicted_tracks))
    for true, predicted, iou_GP in zip(video.true, video.predicted, video.iou, strict=True):
        union_GP = iou_GP.sum(0)[None] + iou_GP.sum(1)[:, None] - iou_GP
        share_GP = np.divide(iou_GP, union_GP, out=np.zeros_like(iou_GP), where=union_GP > EPSILON)
        soft_NM[np.ix_(true, predicted)] += share_GP
        true_N1[true] += 1
        predicted_1M[0, predicted] += 1
    alignment_NM = soft_NM / (true_N1 + predicted_1M - soft_NM)

    together_ANM = np.zeros((len(ALPHAS), *soft_NM.shape))
    for true, predicted, iou_GP in zip(video.true, video.predicted, video.iou, strict=True):
        rows, columns = linear_sum_assignment(-(alignment_NM[np.ix_(true, predicted)] * iou_GP))
        iou_K = iou_GP[rows, columns]
        hit_AK = iou_K >= ALPHAS[:, None] - EPSILON
        hits_A = hit_AK.sum(1)
        counts.tp_A += hits_A
        counts.fn_A += len(true) - hits_A
        counts.fp_A += len(predicted) - hits_A
        counts.iou_A += (hit_AK * iou_K).sum(1)
        together_ANM[:, true[rows], predicted[columns]] += hit_AK
    for total_A, size in (
        (counts.association_A, true_N1 + predicted_1M - together_ANM),
        (counts.association_recall_A, true_N1),
        (counts.association_precision_A, predicted_1M),
    ):
        total_A += (together_ANM * (together_ANM / np.maximum(1, size))).sum((1, 2))


def _count_clear(video: _Video, counts: TrackEvalCounts) -> None:
    present_N, tracked_N, starts_N = (np.zeros(video.true_tracks) for _ in range(3))
    # Identity switches compare with the last partner ever; matching prefers the partner in the previous frame.
    partner_N, kept_N = np.full(video.true_tracks, np.nan), np.full(video.true_tracks, np.nan)
    for true, predicted, iou_GP in zip(video.true, video.predicted, video.iou, strict=True):
        present_N[true] += 1
        if len(true) == 0 or len(predicted) == 0:
            # TrackEval does not count such a frame as the previous frame.
            counts.clr_fp += len(predicted)
            counts.clr_fn += len(true)
            continue
        score_GP = 1000 * (predicted[None] == kept_N[true][:, None]) + iou_GP
        score_GP[iou_GP < THRESHOLD - EPSILON] = 0
        rows, columns = linear_sum_assignment(-score_GP)
        good = score_GP[rows, columns] > EPSILON
        rows, columns = rows[good], columns[good]
        tracks, others = true[rows], predicted[columns]
        counts.switches += int((~np.isnan(partner_N[tracks]) & (partner_N[tracks] != others)).sum())
        tracked_N[tracks] += 1
        untracked_N = np.isnan(kept_N)
        partner_N[tracks] = others
        kept_N[:] = np.nan
        kept_N[tracks] = others
        starts_N += untracked_N & ~np.isnan(kept_N)
        counts.clr_tp += len(tracks)
        counts.clr_fn += len(true) - len(tracks)
        counts.clr_fp += len(predicted) - len(tracks)
        counts.clr_iou += float(iou_GP[rows, columns].sum())
    share_N = tracked_N[present_N > 0] / present_N[present_N > 0]
    counts.mostly_tracked = int((share_N > 0.8).sum())
    counts.partially_tracked = int((share_N >= 0.2).sum()) - counts.mostly_tracked
    counts.mostly_lost = video.true_tracks - counts.mostly_tracked - counts.partially_tracked
    counts.fragments = int((starts_N[starts_N > 0] - 1).sum())


def _count_identity(video: _Video, counts: TrackEvalCounts) -> None:
    together_NM = np.zeros((video.true_tracks, video.predicted_tracks))
    for true, predicted, iou_GP in zip(video.true, video.predicted, video.iou, strict=True):
        together_NM[np.ix_(true, predicted)] += iou_GP >= THRESHOLD
    counts.id_tp = int(together_NM[linear_sum_assignment(together_NM, maximize=True)].sum())
    counts.id_fn = sum(map(len, video.true)) - counts.id_tp
    counts.id_fp = sum(map(len, video.predicted)) - counts.id_tp


def track_eval_groups(
    counts: Mapping[int, TrackEvalCounts], super_categories: Mapping[str, tuple[int, ...]]
) -> dict[str, TrackEvalMetrics]:
    """Groups of TrackEval's table: classes, super-categories, the mean over all classes, and the sum of their
    counts."""
    classes = {category.name: counts[category.id].metrics() for category in CATEGORIES}
    average = {}
    for name in (f.name for f in fields(TrackEvalMetrics)):
        values = [getattr(metrics, name) for metrics in classes.values()]
        average[name] = sum(values) if isinstance(values[0], int) else float(np.mean(values))
    return {
        **classes,
        **{
            name: sum((counts[n] for n in members), TrackEvalCounts()).metrics()
            for name, members in super_categories.items()
        },
        "cls_comb_cls_av": TrackEvalMetrics(**average),
        "cls_comb_det_av": sum(counts.values(), TrackEvalCounts()).metrics(),
    }
