"""Corrections: masks, clicks and scribbles of a person on some frames, which label mode keeps and learns from.

A mask that the input has for a frame stays as it is, and supervises the models of its window. Clicks and scribbles
change the mask of their frame, as in interactive segmentation: a few pixels are too little to train on, and a click
must not change what was right in other parts of the video. Their form in the JSON is that of `mfvis.data.marks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.data.augment import padded_size
from mfvis.data.jsonfile import read_json
from mfvis.data.marks import Point, Scribble, read_marks, records_of
from mfvis.data.masks import compress_masks
from mfvis.data.rle import decode_mask, rle_box
from mfvis.errors import DataError, Problem
from mfvis.grid import STRIDE
from mfvis.labeling.quality import score_of
from mfvis.text import counted
from mfvis.types import Track, TrackResult, Video, VideoDataset

WEIGHT = 2.0
"""Weight of the corrections' loss."""
CERTAIN = 6.0
"""Mask logit of pixels whose label a person has given."""
CLICK = 0.04
"""Radius of a click, as a share of the box's longer side; at least one cell."""
REACH = 0.1
"""Standard deviation of a click's influence over positions, as a share of the box's longer side."""
SIMILAR = 8.0
"""Standard deviation of a click's influence over colors, as a LAB distance."""


@dataclass(frozen=True)
class Corrections:
    """Corrections of the tracks of one video, by the index of the track."""

    masks: Mapping[int, Mapping[int, dict[str, Any]]] = field(default_factory=dict)
    """Compressed RLE of each frame whose mask is given."""
    points: Mapping[int, Sequence[Point]] = field(default_factory=dict)
    scribbles: Mapping[int, Sequence[Scribble]] = field(default_factory=dict)

    def clicks(self, n: int, box_4: np.ndarray, frame: int) -> list[Point]:
        """Clicks on a track in a frame, where it has this box. A scribble is a row of clicks that touch each other."""
        spacing = max(1.0, CLICK / 2 * float(np.ptp(box_4.reshape(2, 2), 0).max()))
        lines = [scribble.as_points(spacing) for scribble in self.scribbles.get(n, ()) if scribble.frame == frame]
        return [*(p for p in self.points.get(n, ()) if p.frame == frame), *(p for line in lines for p in line)]

    def masks_of(self, n: int, frames: range) -> list[Any]:
        """Given masks of one track in these frames as plain values, for a hash."""
        return [[t, rle["counts"]] for t, rle in sorted(self.masks.get(n, {}).items()) if t in frames]

    def of(self, n: int, frames: range) -> list[Any]:
        """Corrections of one track in these frames as plain values, for a hash."""
        points = [[p.frame, p.x, p.y, p.positive] for p in self.points.get(n, ()) if p.frame in frames]
        lines = [[s.frame, s.xy, s.positive] for s in self.scribbles.get(n, ()) if s.frame in frames]
        masks = self.masks_of(n, frames)
        return [masks, points, lines] if lines else [masks, points]  # without scribbles as before there were any

    def __or__(self, other: Corrections) -> Corrections:
        """The corrections of both. Where both give a mask, that of `other` counts."""
        return Corrections(
            {n: {**self.masks.get(n, {}), **other.masks.get(n, {})} for n in {**self.masks, **other.masks}},
            {n: (*self.points.get(n, ()), *other.points.get(n, ())) for n in {**self.points, **other.points}},
            {
                n: (*self.scribbles.get(n, ()), *other.scribbles.get(n, ()))
                for n in {**self.scribbles, **other.scribbles}
            },
        )

    def __bool__(self) -> bool:
        return bool(self.masks or self.points or self.scribbles)


@dataclass(frozen=True)
class CorrectionMaps:
    """Corrections of a window on the grid of the masks."""

    target_NTHW: Tensor
    """float, 0..1: coverage of each cell by the object."""
    weight_NTHW: Tensor
    """float: weight in training, 1 / the number of cells in and around the box at the cells of given masks, else 0."""
    influence_NTHW: Tensor
    """float, 0..1: share of the corrections in a cell's logit: 1 at given masks and clicks, less around clicks."""

    @property
    def frames_T(self) -> Tensor:
        """bool ``[T]``: True in frames with a given mask."""
        return self.weight_NTHW.amax((0, 2, 3)) > 0

    def select(self, objects: Tensor, frames: Tensor) -> CorrectionMaps:
        """Maps of these objects in these frames (int64 indices)."""
        return CorrectionMaps(*(maps[objects[:, None], frames] for maps in self._all))

    def crop(self, rows: slice, columns: slice) -> CorrectionMaps:
        """Maps of a part of the grid."""
        return CorrectionMaps(*(maps[..., rows, columns] for maps in self._all))

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.target_NTHW, self.weight_NTHW, self.influence_NTHW


def read_corrections(
    root: Mapping[str, Any], dataset: VideoDataset, labeled: Path | None, given_masks: bool
) -> dict[int, Corrections]:
    """Corrections of each video that has some, by its id.

    An annotation's ``given`` (a bool per frame) says which of its masks are given; without it, all masks are, except
    those that an earlier run wrote to `labeled` itself: a labeled file that a person has edited can be labeled again.

    Args:
        root: content of the JSON file.
        dataset: the data set that was read from it.
        labeled: JSON that an earlier run may have written, if any.
        given_masks: False ignores all masks.

    Raises:
        DataError: with every mask and click that cannot be used.
    """
    problems: list[Problem] = []
    file = str(dataset.path)
    records = records_of(root)
    written = records_of(read_json(labeled, [])) if labeled and labeled.is_file() else {}
    found = {}
    for video in dataset.videos:
        masks, points, scribbles = {}, {}, {}
        for n, track in enumerate(video.tracks):
            key = (video.id, track.id)
            marks = read_marks(records.get(key, {}), track, video, file, problems)
            points |= {n: marks.points} if marks.points else {}
            scribbles |= {n: marks.scribbles} if marks.scribbles else {}
            if given_masks and track.segmentations is not None:
                rles = _given_masks(marks.given, track, video, written.get(key), file, problems)
                masks |= {n: rles} if rles else {}
        if masks or points or scribbles:
            found[video.id] = Corrections(masks, points, scribbles)
    if problems:
        raise DataError(problems)
    return found


def summary(corrections: Mapping[int, Corrections], videos: Sequence[Video]) -> list[str]:
    """One line that counts the corrections; none without any. It names the remedy if there is nothing left to label."""
    masks = sum(len(frames) for video in corrections.values() for frames in video.masks.values())
    points = sum(len(clicks) for video in corrections.values() for clicks in video.points.values())
    lines = sum(len(lines) for video in corrections.values() for lines in video.scribbles.values())
    if not corrections:
        return []
    boxes = sum(int(track.present_T.sum()) for video in videos for track in video.tracks)
    rest = f"; all {boxes} boxes have a mask: --no-given-masks labels them again" if masks >= boxes else ""
    obeyed = f"{counted(points, 'click')} and {counted(lines, 'scribble')}"
    return [f"corrections: {counted(masks, 'mask')}, kept and learned from; {obeyed}, obeyed{rest}"]


def _given_masks(
    flags: Sequence[bool] | None,
    track: Track,
    video: Video,
    written: Mapping[str, Any] | None,
    file: str,
    problems: list[Problem],
) -> dict[int, dict[str, Any]]:
    """Compressed masks of the frames whose masks are given."""
    name = f"annotation {track.id}"
    rles = compress_masks(
        [(f"{name}, frame {t}", mask, video.height, video.width) for t, mask in enumerate(track.segmentations or ())],
        file=file,
        problems=problems,
    ).rles
    rles = [
        # An empty mask is given, too: no pixel of the object is visible.
        _empty(video) if rle is None and mask is not None else rle
        for rle, mask in zip(rles, track.segmentations or (), strict=True)
    ]
    ours: list[Any] = [None] * video.length
    if flags is None and written is not None:
        masks, marks = written.get("segmentations"), written.get("given")
        if all(isinstance(values, list) and len(values) == video.length for values in (masks, marks)):
            ours = [None if given else mask for mask, given in zip(masks, marks, strict=True)]
    return {t: rle for t, rle in enumerate(rles) if rle is not None and (rle != ours[t] if flags is None else flags[t])}


def _empty(video: Video) -> dict[str, Any]:
    mask = [("", {"size": [video.height, video.width], "counts": [video.height * video.width]})]
    return compress_masks([(*mask[0], video.height, video.width)], file="", problems=[]).rles[0] or {}


def with_given_boxes(video: Video, corrections: Corrections) -> Video:
    """The video for training: given masks define the boxes of frames without a box; given empty masks remove boxes."""
    tracks = list(video.tracks)
    for n, masks in corrections.masks.items():
        boxes_T4 = tracks[n].boxes_T4.copy()
        for t, rle in masks.items():
            box_4 = rle_box(rle, video.height, video.width)
            if not box_4.any() or not tracks[n].present_T[t]:
                boxes_T4[t] = box_4
        tracks[n] = replace(tracks[n], boxes_T4=boxes_T4)
    return replace(video, tracks=tuple(tracks))


def correction_maps(
    corrections: Corrections,
    video: Video,
    group: Sequence[int],
    window: range,
    size: tuple[int, int],
    near_NTHW: Tensor,
    lab_TCHW: Tensor,
) -> CorrectionMaps | None:
    """Corrections of the tracks of a group in a window, on the grid of the masks; None without any.

    Args:
        size: (height, width) to which the frames are scaled before they are padded.
        near_NTHW: bool, the box and its surroundings, where given masks supervise the models.
        lab_TCHW: colors on the grid.
    """
    target_NTHW, weight_NTHW, influence_NTHW = (torch.zeros(near_NTHW.shape) for _ in range(3))
    near_NTHW, lab_TCHW, device = near_NTHW.cpu(), lab_TCHW.cpu(), near_NTHW.device
    cells_NT = near_NTHW.sum((2, 3)).clamp(min=1)
    for i, n in enumerate(group):
        for t, rle in corrections.masks.get(n, {}).items():
            if t in window:
                mask_HW = torch.from_numpy(decode_mask(rle, video.height, video.width)).float()
                at = (i, t - window.start)
                target_NTHW[at] = _on_grid(mask_HW, size)
                influence_NTHW[at] = near_NTHW[at].float()
                weight_NTHW[at] = influence_NTHW[at] / cells_NT[at]
        for frame in window:
            box_4, at = video.tracks[n].boxes_T4[frame], (i, frame - window.start)
            side = float(np.ptp(box_4.reshape(2, 2), 0).max())
            for point in corrections.clicks(n, box_4, frame):
                around_HW = _influence(point, size[0] / video.height / STRIDE, side, lab_TCHW[at[1]])
                stronger_HW = around_HW >= influence_NTHW[at].clamp(min=1e-3)
                target_NTHW[at][stronger_HW] = float(point.positive)
                influence_NTHW[at][stronger_HW] = around_HW[stronger_HW]
    if not influence_NTHW.any():
        return None
    return CorrectionMaps(*(maps.to(device) for maps in (target_NTHW, weight_NTHW, influence_NTHW)))


def _on_grid(mask_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Coverage of the cells of the padded frame's grid."""
    height, width = padded_size(*size)
    resized = F.interpolate(mask_HW[None, None], size, mode="area")
    padded = F.pad(resized, (0, width - size[1], 0, height - size[0]))
    return F.avg_pool2d(padded, STRIDE)[0, 0]


def _influence(point: Point, scale: float, side: float, lab_CHW: Tensor) -> Tensor:
    """float ``[H, W]``, 0..1: influence of a click on each cell. 1 at the cells of the click, and less where position
    and color differ.

    Args:
        scale: cells per pixel.
        side: longer side of the box in pixels.
    """
    y, x = torch.meshgrid(*(torch.arange(length) + 0.5 for length in lab_CHW.shape[1:]), indexing="ij")
    distance_HW = (x - point.x * scale) ** 2 + (y - point.y * scale) ** 2
    disc_HW = distance_HW <= max(1.0, CLICK * side * scale) ** 2
    unlike_HW = ((lab_CHW - lab_CHW[:, disc_HW].mean(1)[:, None, None]) ** 2).sum(0)
    near_HW = (-distance_HW / (2 * (REACH * side * scale) ** 2 + 1e-6) - unlike_HW / (2 * SIMILAR**2)).exp()
    return near_HW.masked_fill(disc_HW, 1.0)


def corrections_loss(masks_LNTHW: Tensor, maps: CorrectionMaps, objects: int) -> Tensor:
    """Cross-entropy at the cells of given masks, divided by the cells in and around the box.

    Summed over frames and layers, divided by the number of objects, times `WEIGHT`. masks: logits.
    """
    target, weight = (value.expand_as(masks_LNTHW) for value in (maps.target_NTHW, maps.weight_NTHW))
    cost = F.binary_cross_entropy_with_logits(masks_LNTHW.float(), target, weight, reduction="none")
    return WEIGHT * cost.sum() / max(1, objects)


def corrected_logits(logits_NTHW: Tensor, maps: CorrectionMaps | None) -> Tensor:
    """The logits with those of the known cells replaced, so that the colors of given masks and clicks help their
    neighbors."""
    if maps is None:
        return logits_NTHW
    return logits_NTHW.lerp((2 * maps.target_NTHW - 1) * CERTAIN, maps.influence_NTHW)


def clicked_mask(mask_HW: np.ndarray, clicks: Sequence[Point], box_4: np.ndarray) -> np.ndarray:
    """The mask, bool ``[H, W]``, with the pixels around each click set to its label, inside the box."""
    if not clicks:
        return mask_HW
    mask_HW = mask_HW.copy()
    y, x = np.ogrid[: mask_HW.shape[0], : mask_HW.shape[1]]
    x1, y1, x2, y2 = box_4
    inside_HW = (x + 0.5 >= x1) & (x + 0.5 < x2) & (y + 0.5 >= y1) & (y + 0.5 < y2)
    radius = max(1.0, CLICK / 2 * max(x2 - x1, y2 - y1))
    for point in clicks:
        disc_HW = (x + 0.5 - point.x) ** 2 + (y + 0.5 - point.y) ** 2 <= radius**2
        mask_HW[disc_HW & inside_HW] = point.positive
    return mask_HW


def corrected_results(results: Sequence[TrackResult], corrections: Corrections) -> list[TrackResult]:
    """The results with the given masks in place of the models', and a quality of 1 there."""
    corrected = []
    for n, result in enumerate(results):
        masks = corrections.masks.get(n, {})
        quality = tuple(1.0 if t in masks else value for t, value in enumerate(result.quality))
        corrected.append(
            replace(
                result,
                score=score_of(quality),
                segmentations=tuple(masks.get(t, mask) for t, mask in enumerate(result.segmentations)),
                quality=quality,
                given=frozenset(masks),
            )
        )
    return corrected
