"""Inputs of a window in label mode: frames, boxes, and masks of known background derived from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.data.augment import pad_frames, padded_size, resize_frames
from mfvis.grid import STRIDE, grid_colors
from mfvis.labeling.box_prior import are_neighbors, confidence, reliable_propagation
from mfvis.labeling.corrections import CorrectionMaps
from mfvis.losses.background_propagation import inside_boxes, propagated_background, ring_around
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.models.backbone import Backbone
from mfvis.types import Batch, ClipOrigin, present


@dataclass(frozen=True)
class WindowInputs:
    """Inputs of a window or of a clip of it, on the model's device. All grids are the grid of the masks."""

    frames_TCHW: Tensor
    """uint8 RGB, scaled, padded to a multiple of 32."""
    features: tuple[Tensor, ...] | None
    """Features of a frozen backbone, computed once; None if the backbone is trained."""
    boxes_NT4: Tensor
    """float32, in pixels of `frames_TCHW`."""
    labels_N: Tensor
    size: tuple[int, int]
    """(height, width) before the padding."""
    lab_TCHW: Tensor
    """LAB colors on the grid."""
    background_THW: Tensor
    """bool: outside all boxes and outside the padding."""
    propagated_NTHW: Tensor
    """bool: inside the box, but known to be background."""
    ring_NTHW: Tensor
    """bool: in the ring around the box and outside all other boxes."""
    unknown_NTHW: Tensor
    """bool: inside the box and not known to be background."""
    others_NTHW: Tensor
    """bool: outside the box, but inside that of another object."""
    prior_N: Tensor
    """float32: weight of the position prior (`mfvis.labeling.box_prior.confidence`)."""
    corrections: CorrectionMaps | None = None
    """Labels that a person has given."""


def prepare_window(
    backbone: Backbone,
    frames_TCHW: Tensor,
    boxes_NT4: Tensor,
    labels_N: Tensor,
    size: tuple[int, int],
    zoom: int,
    with_features: bool = True,
) -> WindowInputs:
    """Prepare the inputs of a window that depend on single frames only.

    Args:
        frames_TCHW: uint8 RGB at the video's own size.
        boxes_NT4: in pixels of these frames.
        size: (height, width) to which the frames are scaled.
        zoom: upscaling factor applied to frames before the backbone.
        with_features: compute the features of a frozen backbone.
    """
    device = backbone.mean.device
    old_height, old_width = frames_TCHW.shape[-2:]
    height, width = size
    resized = resize_frames(frames_TCHW, height, width)
    padded = pad_frames(resized, *padded_size(height, width)).to(device)
    boxes_NT4 = (boxes_NT4 * torch.tensor([width / old_width, height / old_height] * 2)).to(device)

    lab_BTCHW, content_BHW = grid_colors(padded[None], torch.tensor([size], device=device))
    lab_TCHW, content_HW = lab_BTCHW[0], content_BHW[0]
    cells_NT4, grid = boxes_NT4 / STRIDE, content_HW.shape
    inside_NTHW = inside_boxes(cells_NT4, *grid)
    others_NTHW = (inside_NTHW.sum(0) > inside_NTHW.long()) & ~inside_NTHW

    features = None
    if backbone.config.frozen and with_features:
        with torch.no_grad():
            per_frame = [backbone(upscale(frame[None], zoom)) for frame in padded]
        features = tuple(torch.cat(level) for level in zip(*per_frame, strict=True))
    return WindowInputs(
        frames_TCHW=padded,
        features=features,
        boxes_NT4=boxes_NT4,
        labels_N=labels_N.to(device),
        size=size,
        lab_TCHW=lab_TCHW,
        background_THW=content_HW & ~inside_NTHW.any(0),
        propagated_NTHW=torch.zeros_like(inside_NTHW),
        ring_NTHW=ring_around(cells_NT4, *grid) & content_HW & ~others_NTHW,
        unknown_NTHW=inside_NTHW,
        others_NTHW=others_NTHW,
        prior_N=boxes_NT4.new_ones(len(boxes_NT4)),
    )


def add_propagated_background(view: WindowInputs, config: BackgroundPropagationConfig) -> WindowInputs:
    """The inputs with background propagated between their frames, of tracks for which it is reliable.

    It takes seconds and is needed only for training.
    """
    if config.weight == 0:
        return view
    cells_NT4 = view.boxes_NT4 / STRIDE
    propagated_NTHW = propagated_background(view.lab_TCHW, view.background_THW, cells_NT4, config)
    if are_neighbors(view.lab_TCHW, view.background_THW, config):
        propagated_NTHW &= reliable_propagation(propagated_NTHW, cells_NT4)[:, None, None, None]
    else:
        propagated_NTHW = torch.zeros_like(propagated_NTHW)
    return replace(
        view,
        propagated_NTHW=propagated_NTHW,
        unknown_NTHW=view.unknown_NTHW & ~propagated_NTHW,
        prior_N=confidence(propagated_NTHW, cells_NT4),
    )


def upscale(frames_TCHW: Tensor, zoom: int) -> Tensor:
    """Upscale frames by an integer factor."""
    return F.interpolate(frames_TCHW.float(), scale_factor=zoom, mode="bilinear") if zoom > 1 else frames_TCHW


def select_clip(view: WindowInputs, indices: Tensor) -> tuple[WindowInputs, Tensor]:
    """Select the frames at `indices`; the second value (int64) lists the objects that have a box in one of them."""
    objects = torch.nonzero(present(view.boxes_NT4[:, indices]).any(1))[:, 0]
    here = (objects[:, None], indices)
    part = WindowInputs(
        frames_TCHW=view.frames_TCHW[indices],
        features=None if view.features is None else tuple(level[indices] for level in view.features),
        boxes_NT4=view.boxes_NT4[here],
        labels_N=view.labels_N[objects],
        size=view.size,
        lab_TCHW=view.lab_TCHW[indices],
        background_THW=view.background_THW[indices],
        propagated_NTHW=view.propagated_NTHW[here],
        ring_NTHW=view.ring_NTHW[here],
        unknown_NTHW=view.unknown_NTHW[here],
        others_NTHW=view.others_NTHW[here],
        prior_N=view.prior_N[objects],
        corrections=view.corrections and view.corrections.select(objects, indices),
    )
    return part, objects


def crop_around_boxes(view: WindowInputs) -> tuple[WindowInputs, tuple[slice, slice]]:
    """The part of the grids around all boxes, and its rows and columns. Small objects thus need little computation.

    The region includes the rings around the boxes. Its sides are multiples of the coarsest feature level's cells.
    """
    height, width = view.lab_TCHW.shape[-2:]
    scales = [width // level.shape[-1] for level in view.features or ()]
    step = max(scales, default=0)
    exact = all(
        level.shape[-2] * scale == height and level.shape[-1] * scale == width
        for level, scale in zip(view.features or (), scales, strict=True)
    )
    near_HW = (view.ring_NTHW | view.unknown_NTHW | view.propagated_NTHW).flatten(0, 1).any(0)
    if not step or not exact or not near_HW.any():
        return view, (slice(0, height), slice(0, width))
    rows, columns = span_of(near_HW.any(1), step), span_of(near_HW.any(0), step)
    top, left = rows.start * STRIDE, columns.start * STRIDE
    pixels = slice(top, rows.stop * STRIDE), slice(left, columns.stop * STRIDE)
    return replace(
        view,
        frames_TCHW=view.frames_TCHW[..., pixels[0], pixels[1]],
        features=tuple(
            level[..., rows.start // scale : rows.stop // scale, columns.start // scale : columns.stop // scale]
            for level, scale in zip(view.features, scales, strict=True)
        ),
        boxes_NT4=view.boxes_NT4 - view.boxes_NT4.new_tensor([left, top] * 2),
        size=(min(view.size[0], pixels[0].stop) - top, min(view.size[1], pixels[1].stop) - left),
        lab_TCHW=view.lab_TCHW[..., rows, columns],
        background_THW=view.background_THW[..., rows, columns],
        propagated_NTHW=view.propagated_NTHW[..., rows, columns],
        ring_NTHW=view.ring_NTHW[..., rows, columns],
        unknown_NTHW=view.unknown_NTHW[..., rows, columns],
        others_NTHW=view.others_NTHW[..., rows, columns],
        corrections=view.corrections and view.corrections.crop(rows, columns),
    ), (rows, columns)


def span_of(near_L: Tensor, step: int, margin: int = 1) -> slice:
    """Slice around the True entries with a margin; its ends are multiples of `step`, which divides the length."""
    indices = torch.nonzero(near_L)[:, 0]
    first, last = max(0, int(indices[0]) - margin), min(len(near_L), int(indices[-1]) + 1 + margin)
    return slice(first // step * step, -(-last // step) * step)


def to_batch(view: WindowInputs) -> Batch:
    """The inputs as a batch of one clip, for the criterion."""
    count, frames = view.boxes_NT4.shape[:2]
    return Batch(
        frames_BTCHW=view.frames_TCHW[None],
        boxes_NT4=view.boxes_NT4,
        labels_N=view.labels_N,
        video_index_N=torch.zeros(count, dtype=torch.int64, device=view.boxes_NT4.device),
        masks_NTHW=None,
        sizes_B2=torch.tensor([view.size], device=view.boxes_NT4.device),
        clips=(ClipOrigin(0, tuple(range(frames)), tuple(range(count))),),
    )
