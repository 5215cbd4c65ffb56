"""A window of a video as label mode sees it: pictures, boxes, and what follows from the two before any training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import mfvis_ext
from mfvis.data.augment import resize_frames
from mfvis.data.clips import MULTIPLE
from mfvis.infer.evidence import EvidenceConfig, escaped_background, inside_boxes, ring_around
from mfvis.losses.criterion import PADDING_COLOUR, STRIDE
from mfvis.models.backbone import Backbone
from mfvis.types import Batch

STRIDES = (4, 8, 16, 32)
"""Of the backbone's feature maps."""


@dataclass(frozen=True)
class View:
    """A window of a video, or a part of one, as the model sees it, on the model's device. Grids are those of masks."""

    frames_TCHW: Tensor
    """uint8 RGB, scaled, padded to a multiple of 32."""
    features: tuple[Tensor, ...] | None
    """What a frozen backbone says of the frames, computed once."""
    boxes_NT4: Tensor
    """In pixels of these frames."""
    labels_N: Tensor
    size: tuple[int, int]
    """(height, width) before the padding."""
    lab_TCHW: Tensor
    """Colours on the grid."""
    background_THW: Tensor
    """bool: in no box, and not padding."""
    escaped_NTHW: Tensor
    """bool: inside the box, but not the object."""
    ring_NTHW: Tensor
    """bool: around the box, and in no other one."""
    unknown_NTHW: Tensor
    """bool: inside the box, and nothing says that it is not the object."""
    others_NTHW: Tensor
    """bool: outside the box, but inside that of another object."""


def look(
    backbone: Backbone,
    frames_TCHW: Tensor,
    boxes_NT4: Tensor,
    labels_N: Tensor,
    size: tuple[int, int],
    evidence: EvidenceConfig,
) -> View:
    """Gather all that the pictures and the boxes of a window say before any training.

    Args:
        frames_TCHW: uint8 RGB at the video's own size.
        boxes_NT4: in pixels of these.
        size: (height, width) to which the frames are scaled.
    """
    device = backbone.mean.device
    old_height, old_width = frames_TCHW.shape[-2:]
    height, width = size
    resized = resize_frames(frames_TCHW, height, width)
    padded = F.pad(resized, (0, -width % MULTIPLE, 0, -height % MULTIPLE)).to(device)
    boxes_NT4 = (boxes_NT4 * torch.tensor([width / old_width, height / old_height] * 2)).to(device)

    lab_TCHW = mfvis_ext.rgb_to_lab(padded, STRIDE)
    grid = lab_TCHW.shape[-2:]
    content_HW = inside_boxes(torch.tensor([[[0, 0, width // STRIDE, height // STRIDE]]], device=device), *grid)[0, 0]
    lab_TCHW = torch.where(content_HW, lab_TCHW, PADDING_COLOUR)
    cells_NT4 = boxes_NT4 / STRIDE
    inside_NTHW = inside_boxes(cells_NT4, *grid)
    others_NTHW = (inside_NTHW.sum(0) > inside_NTHW.long()) & ~inside_NTHW
    escaped_NTHW = torch.zeros_like(inside_NTHW)
    if evidence.weight > 0:
        # Matches are sought on a grid of half the resolution: a quarter of the pixels, of as wide a window.
        coarse_TCHW, coarse_HW = F.avg_pool2d(lab_TCHW, 2), F.avg_pool2d(content_HW[None].float(), 2)[0] == 1
        found = escaped_background(coarse_TCHW, coarse_HW, cells_NT4 / 2, evidence)
        escaped_NTHW = found.repeat_interleave(2, -2).repeat_interleave(2, -1) & inside_NTHW

    features = None
    if backbone.config.frozen:
        with torch.no_grad():
            per_frame = [backbone(frame[None]) for frame in padded]
        features = tuple(torch.cat(level) for level in zip(*per_frame, strict=True))
    return View(
        padded,
        features,
        boxes_NT4,
        labels_N.to(device),
        (height, width),
        lab_TCHW,
        content_HW & ~inside_NTHW.any(0),
        escaped_NTHW,
        ring_around(cells_NT4, *grid) & content_HW & ~others_NTHW,
        inside_NTHW & ~escaped_NTHW,
        others_NTHW,
    )


def close_up(view: View, indices: Tensor) -> tuple[View, Tensor, tuple[slice, slice]]:
    """The frames at `indices`, cut to the surroundings of their boxes.

    Returns the part, the objects with a box in it (int64), and its rows and columns on the grid of the masks.
    """
    boxes_NT4 = view.boxes_NT4[:, indices]
    shown_NT = (boxes_NT4[..., 2] > boxes_NT4[..., 0]) & (boxes_NT4[..., 3] > boxes_NT4[..., 1])
    objects = torch.nonzero(shown_NT.any(1))[:, 0]
    height, width = view.frames_TCHW.shape[-2:]
    shown_B4 = boxes_NT4[shown_NT]
    if len(shown_B4):
        (x1, y1), (x2, y2) = shown_B4[:, :2].amin(0).tolist(), shown_B4[:, 2:].amax(0).tolist()
    else:
        x1, y1, x2, y2 = 0, 0, width, height
    margin = MULTIPLE + 0.2 * max(x2 - x1, y2 - y1)
    # Whole cells of the coarsest features, so that what the backbone said of the whole frames can be cut likewise.
    left, top = (max(0, int((low - margin) // MULTIPLE)) * MULTIPLE for low in (x1, y1))
    right, bottom = (
        min(side, -int(-(high + margin) // MULTIPLE) * MULTIPLE) for high, side in ((x2, width), (y2, height))
    )

    def cut(pixels: Tensor, stride: int) -> Tensor:
        return pixels[..., top // stride : bottom // stride, left // stride : right // stride]

    features = None
    if view.features is not None:
        features = tuple(cut(level[indices], stride) for level, stride in zip(view.features, STRIDES, strict=True))
    per_object = (
        cut(known_NTHW[objects][:, indices], STRIDE)
        for known_NTHW in (view.escaped_NTHW, view.ring_NTHW, view.unknown_NTHW, view.others_NTHW)
    )
    part = View(
        cut(view.frames_TCHW[indices], 1),
        features,
        boxes_NT4[objects] - boxes_NT4.new_tensor([left, top, left, top]) * shown_NT[objects][..., None],
        view.labels_N[objects],
        (min(bottom, view.size[0]) - top, min(right, view.size[1]) - left),
        cut(view.lab_TCHW[indices], STRIDE),
        cut(view.background_THW[indices], STRIDE),
        *per_object,
    )
    return part, objects, (slice(top // STRIDE, bottom // STRIDE), slice(left // STRIDE, right // STRIDE))


def as_batch(view: View) -> Batch:
    """The view as a batch of one clip, for the criterion."""
    count, frames = view.boxes_NT4.shape[:2]
    return Batch(
        frames_BTCHW=view.frames_TCHW[None],
        boxes_NT4=view.boxes_NT4,
        labels_N=view.labels_N,
        video_index_N=torch.zeros(count, dtype=torch.int64, device=view.boxes_NT4.device),
        masks_NTHW=None,
        sizes_B2=torch.tensor([view.size], device=view.boxes_NT4.device),
        clips=((0, tuple(range(frames)), tuple(range(count))),),
    )
