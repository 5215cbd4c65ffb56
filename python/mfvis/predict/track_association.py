"""Associates objects across overlapping windows of long videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MATCH_THRESHOLD = 0.5
"""Minimum similarity of a match: the mean of query cosine and tube IoU."""
UNSEEN_IOU = 0.3
"""Tube IoU assumed for an object that was not in the previous window. Only a very similar query (cosine of 0.7 or
more) is then associated with it."""


def windows_of(length: int, window: int | None, stride: int | None) -> list[range]:
    """Frames of each window: `window` frames every `stride` frames; the last one is shifted to end with the video.

    A window of None is the whole video; a stride of None is half a window.
    """
    if window is None or window >= length:
        return [range(length)]
    step = stride or max(1, window // 2)
    starts = list(range(0, length - window, step)) + [length - window]
    return [range(start, start + window) for start in starts]


def output_frames(windows: list[range], w: int) -> range:
    """Frames whose masks are taken from window `w`. Windows meet in the middle of their overlap, so that masks
    have context on both sides."""
    frames = windows[w]
    first, last = frames.start, frames.stop
    if w > 0:
        first = (first + windows[w - 1].stop) // 2
    if w + 1 < len(windows):
        last = (windows[w + 1].start + last) // 2
    return range(first, last)


@dataclass
class TrackState:
    """State of one object over the windows in which it was seen."""

    query_C: Tensor
    """Query of its last sighting."""
    scores_K: Tensor
    """Class scores, summed over sightings."""
    last_window: int
    overlap_next_THW: Tensor
    """bool: masks in the frames that its last window shares with the next."""
    sightings: int = 1
    segmentations: list[dict[str, Any] | None] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    """Boxes; like `segmentations` one per frame emitted so far. Unseen frames are filled when it is seen again."""

    @property
    def mean_K(self) -> Tensor:
        """Class scores, averaged over sightings."""
        return self.scores_K / self.sightings

    @property
    def ranking_score_K(self) -> Tensor:
        """Score by which tracks are selected: the mean score times the sum of scores.

        Ranking only by the mean would select false positives that are confident in a single window. Their number grows
        with the length of the video, until they displace all objects that are visible throughout. Ranking only by the
        sum would select the second and third classes of these objects.
        """
        return self.mean_K * self.scores_K

    def fill(self, frames: int) -> None:
        """Mark the object as absent up to frame `frames`."""
        missing = frames - len(self.segmentations)
        self.segmentations += [None] * missing
        self.boxes += [np.zeros(4, dtype=np.float32)] * missing


class TrackMemory:
    """Objects and their tubes so far.

    For each object, one query, one sum of scores, the masks of one overlap and the encoded masks are kept. Objects
    unseen for `memory` windows are no longer associated. Of these only the `max_tracks` highest-ranked ones are kept,
    because no other can be among the final `max_tracks`.
    """

    def __init__(self, memory: int, max_tracks: int):
        self.memory, self.max_tracks = memory, max_tracks
        self.all: list[TrackState] = []

    def associate(
        self, window: int, queries_MC: Tensor, scores_MK: Tensor, overlap_prev_MTHW: Tensor, overlap_next_MTHW: Tensor
    ) -> list[TrackState]:
        """Associate each of the M objects of a window with a known object; unmatched ones become new objects.

        The assignment (Hungarian method) maximizes the sum of similarities: the mean of the queries' cosine and the
        tubes' IoU in the overlap.

        Args:
            window: index of the window, ascending.
            overlap_prev_MTHW: bool, masks in the frames shared with the previous window.
            overlap_next_MTHW: bool, masks in the frames shared with the next window.
        """
        known = [track for track in self.all if window - track.last_window <= self.memory]
        gone = [track for track in self.all if window - track.last_window > self.memory]
        self.all = sorted(gone, key=lambda track: -track.ranking_score_K.max().item())[: self.max_tracks] + known
        matched: dict[int, TrackState] = {}
        if known and len(queries_MC):
            similarity_MI = self._similarity(window, known, queries_MC, overlap_prev_MTHW)
            rows, columns = linear_sum_assignment(similarity_MI.cpu().numpy(), maximize=True)
            matched = {
                m: known[i] for m, i in zip(rows, columns, strict=True) if similarity_MI[m, i] >= MATCH_THRESHOLD
            }
        associated = []
        for m, (query_C, scores_K, overlap_next_THW) in enumerate(
            zip(queries_MC, scores_MK, overlap_next_MTHW, strict=True)
        ):
            track = matched.get(m)
            if track is None:
                track = TrackState(query_C, scores_K.clone(), window, overlap_next_THW.clone())
                self.all.append(track)
            else:
                track.query_C, track.last_window, track.overlap_next_THW = (
                    query_C,
                    window,
                    overlap_next_THW.clone(),
                )
                track.scores_K += scores_K
                track.sightings += 1
            associated.append(track)
        return associated

    @staticmethod
    def _similarity(window: int, known: list[TrackState], queries_MC: Tensor, overlap_prev_MTHW: Tensor) -> Tensor:
        cosine_MI = F.normalize(queries_MC, dim=-1) @ F.normalize(torch.stack([i.query_C for i in known]), dim=-1).T
        iou_MI = torch.full_like(cosine_MI, UNSEEN_IOU)
        recent = [i for i, track in enumerate(known) if track.last_window == window - 1]
        if recent and overlap_prev_MTHW.shape[1]:
            ours_MP = overlap_prev_MTHW.flatten(1).float()
            theirs_IP = torch.stack([known[i].overlap_next_THW for i in recent]).flatten(1).float()
            both_MI = ours_MP @ theirs_IP.T
            either_MI = ours_MP.sum(1)[:, None] + theirs_IP.sum(1) - both_MI
            iou_MI[:, recent] = both_MI / either_MI.clamp(min=1)
        return (cosine_MI + iou_MI) / 2
