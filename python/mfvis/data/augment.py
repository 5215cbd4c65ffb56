"""Augmentation of whole clips: all frames of a clip are transformed alike, and boxes and masks follow exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfvis.data.rle import mask_box
from mfvis.types import Clip, present

PADDING = (124, 116, 104)
"""RGB padding color: the ImageNet mean, which is 0 after normalization, as in Mask2Former. Black is not neutral: a
model trained on frames without padding detects black padding as an object and misses others."""

MULTIPLE = 32
"""Frames are padded to a multiple of this, the coarsest stride of the backbones."""


def fitted_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """``(height, width)`` scaled to `short_side`, or less if the long side would exceed `max_side`; the aspect is kept.

    Halves round up. Products are rounded in the order of detectron2's `ResizeShortestEdge`, which gives the same sizes.
    """
    scale = short_side / min(height, width)
    new_height, new_width = (short_side, width * scale) if height < width else (height * scale, short_side)
    shrink = min(1.0, max_side / max(new_height, new_width))
    return max(1, int(new_height * shrink + 0.5)), max(1, int(new_width * shrink + 0.5))


def padded_size(height: int, width: int) -> tuple[int, int]:
    """``(height, width)`` of frames of this size after padding for a model."""
    return height + -height % MULTIPLE, width + -width % MULTIPLE


def resize_frames(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Frames resampled bilinearly, uint8 ``[T, C, H, W]``. Shrinking is antialiased."""
    if frames_TCHW.shape[-2:] == (height, width):
        return frames_TCHW
    resized = F.interpolate(frames_TCHW.float(), (height, width), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def pad_frames(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """The frames with `PADDING` at the right and bottom: uint8 ``[T, 3, height, width]``."""
    padded = torch.tensor(PADDING, dtype=torch.uint8, device=frames_TCHW.device)[:, None, None]
    padded = padded.repeat(len(frames_TCHW), 1, height, width)
    padded[..., : frames_TCHW.shape[-2], : frames_TCHW.shape[-1]] = frames_TCHW
    return padded


def resize(clip: Clip, height: int, width: int) -> Clip:
    """The clip resized. Each mask pixel takes the value at its center, so that masks keep filling their boxes."""
    old_height, old_width = clip.frames_TCHW.shape[-2:]
    scale = torch.tensor([width / old_width, height / old_height] * 2)
    masks_NTHW = clip.masks_NTHW
    if masks_NTHW is not None and masks_NTHW.shape[-2:] != (height, width):
        rows = _nearest(old_height, height)
        columns = _nearest(old_width, width)
        masks_NTHW = masks_NTHW[:, :, rows][..., columns]
    frames_TCHW = resize_frames(clip.frames_TCHW, height, width)
    return replace(clip, frames_TCHW=frames_TCHW, boxes_NT4=clip.boxes_NT4 * scale, masks_NTHW=masks_NTHW)


def flip(clip: Clip) -> Clip:
    """The clip mirrored left to right. An absent box stays zeros."""
    width = clip.frames_TCHW.shape[-1]
    x1, y1, x2, y2 = clip.boxes_NT4.unbind(-1)
    boxes_NT4 = torch.stack([width - x2, y1, width - x1, y2], -1)
    return replace(
        clip,
        frames_TCHW=clip.frames_TCHW.flip(-1),
        boxes_NT4=torch.where(present(clip.boxes_NT4)[..., None], boxes_NT4, 0.0),
        masks_NTHW=None if clip.masks_NTHW is None else clip.masks_NTHW.flip(-1),
    )


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """The clip cropped to a window. Boxes are clipped to it, and objects that are completely outside are dropped.

    Only the boxes decide, so that training from masks sees the same objects as training from boxes.
    """
    x1, y1, x2, y2 = clip.boxes_NT4.unbind(-1)
    boxes_NT4 = torch.stack(
        [
            (x1 - left).clamp(0, width),
            (y1 - top).clamp(0, height),
            (x2 - left).clamp(0, width),
            (y2 - top).clamp(0, height),
        ],
        -1,
    )
    boxes_NT4 = torch.where(present(boxes_NT4)[..., None], boxes_NT4, 0.0)
    masks_NTHW = None
    if clip.masks_NTHW is not None:
        masks_NTHW = clip.masks_NTHW[..., top : top + height, left : left + width]
    cropped = replace(
        clip,
        frames_TCHW=clip.frames_TCHW[..., top : top + height, left : left + width],
        boxes_NT4=boxes_NT4,
        masks_NTHW=masks_NTHW,
    )
    return keep(cropped, present(boxes_NT4).any(1))


def pan(clip: Clip, frames: int, random: np.random.Generator, *, rotation: float, smallest_crop: float) -> Clip:
    """A pseudo-clip of `frames` frames from a clip of a single one, as seen by a camera that turns and moves.

    As in SeqFormer and VITA, the angles lie within +- `rotation` degrees, rise or fall, and have one center near the
    middle. A window of at least `smallest_crop` of each side moves along a line. Areas outside the image are black.
    Boxes are computed from masks if the clip has them, else from the ellipses in the given boxes, since the box of a
    turned box is larger than that of the turned object (Kalra et al., ICCV 2021).
    """
    height, width = clip.frames_TCHW.shape[-2:]
    angles = np.deg2rad(np.sort(random.uniform(-rotation, rotation, frames)))
    if random.random() < 0.5:
        angles = angles[::-1]
    center = random.uniform(0.4, 0.6, 2) * (width, height)
    window_height, window_width = (max(1, round(side * random.uniform(smallest_crop, 1))) for side in (height, width))
    room = (width - window_width, height - window_height)
    start, end = random.uniform(0, 1, 2) * room, random.uniform(0, 1, 2) * room
    corners = start + np.linspace(0, 1, frames)[:, None] * (end - start)

    # Map the center of each window pixel back to its position in the image.
    cos_T, sin_T = np.cos(angles), np.sin(angles)
    y, x = np.mgrid[:window_height, :window_width] + 0.5
    x, y = x + (corners[:, 0] - center[0])[:, None, None], y + (corners[:, 1] - center[1])[:, None, None]
    cos, sin = cos_T[:, None, None], sin_T[:, None, None]
    sources = np.stack([(cos * x + sin * y + center[0]) / width, (cos * y - sin * x + center[1]) / height], -1)
    grid_THW2 = torch.from_numpy(2 * sources - 1).float()
    image = clip.frames_TCHW.float().expand(frames, -1, -1, -1)
    frames_TCHW = F.grid_sample(image, grid_THW2, mode="bilinear", align_corners=False)
    masks_NTHW = None
    if clip.masks_NTHW is not None:
        pixels = clip.masks_NTHW[:, 0].float().expand(frames, -1, -1, -1)
        masks_NTHW = (F.grid_sample(pixels, grid_THW2, mode="nearest", align_corners=False) > 0.5).transpose(0, 1)

    # Map each box's ellipse from the image to the window: move its center and rotate its half axes.
    x1, y1, x2, y2 = clip.boxes_NT4.double().numpy()[:, :1].transpose(2, 0, 1)
    right, down = (x1 + x2) / 2 - center[0], (y1 + y2) / 2 - center[1]
    across = cos_T * right - sin_T * down + center[0] - corners[:, 0]
    along = sin_T * right + cos_T * down + center[1] - corners[:, 1]
    half_width, half_height = (x2 - x1) / 2, (y2 - y1) / 2
    reach_x = np.hypot(cos_T * half_width, sin_T * half_height)
    reach_y = np.hypot(sin_T * half_width, cos_T * half_height)
    boxes_NT4 = np.stack([across - reach_x, along - reach_y, across + reach_x, along + reach_y], -1)
    boxes_NT4[~present(clip.boxes_NT4)[:, 0].numpy()] = 0
    if masks_NTHW is not None:
        boxes = [[mask_box(mask_HW) for mask_HW in masks_THW] for masks_THW in masks_NTHW.numpy()]
        boxes_NT4 = np.array(boxes, np.float32).reshape(boxes_NT4.shape)
    panned = replace(
        clip,
        frames_TCHW=frames_TCHW.round_().clamp_(0, 255).to(torch.uint8),
        boxes_NT4=torch.from_numpy(boxes_NT4).float(),
        masks_NTHW=masks_NTHW,
        frame_indices=clip.frame_indices * frames,
    )
    return crop(panned, 0, 0, window_height, window_width)


def keep(clip: Clip, kept_N: Tensor) -> Clip:
    """The clip with only the objects for which bool ``kept_N [N]`` is true."""
    return replace(
        clip,
        boxes_NT4=clip.boxes_NT4[kept_N],
        labels_N=clip.labels_N[kept_N],
        masks_NTHW=None if clip.masks_NTHW is None else clip.masks_NTHW[kept_N],
        track_ids=tuple(track for track, kept in zip(clip.track_ids, kept_N.tolist(), strict=True) if kept),
    )


def augment(
    clip: Clip,
    random: np.random.Generator,
    *,
    short_sides: tuple[int, ...],
    max_side: int,
    flip_probability: float,
    smallest_crop: float,
) -> Clip:
    """Crop (if `smallest_crop`, the smallest fraction of each side to keep, is < 1), scale to one of `short_sides`,
    flip."""
    height, width = clip.frames_TCHW.shape[-2:]
    if smallest_crop < 1:
        new_height, new_width = (max(1, round(side * random.uniform(smallest_crop, 1))) for side in (height, width))
        top, left = int(random.integers(height - new_height + 1)), int(random.integers(width - new_width + 1))
        clip = crop(clip, top, left, new_height, new_width)
        height, width = new_height, new_width
    clip = resize(clip, *fitted_size(height, width, int(random.choice(short_sides)), max_side))
    return flip(clip) if random.random() < flip_probability else clip


def _nearest(old: int, new: int) -> Tensor:
    """For each of `new` pixels, the index of the one of `old` pixels that contains its center."""
    return ((torch.arange(new) * 2 + 1) * old).div(2 * new, rounding_mode="floor")
