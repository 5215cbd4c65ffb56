"""Drawings of tracks: masks, boxes and names over frames, and panels that compare references with predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mfvis.types import present

OPACITY = 0.42
"""Opacity of mask interiors. Outlines are opaque."""
LEAST_HEIGHT = 220
# Neighboring colors differ in hue and in lightness, so that color-blind readers can distinguish them too.
_PALETTE = ("ff5a5f", "1fb6ff", "ffc53d", "9b5de5", "2ec27e", "ff8fab", "00d1c7", "f77f00", "4361ee", "b5e048")
_PALETTE_RGB = [tuple(bytes.fromhex(color)) for color in _PALETTE]
_BACKGROUND = (250, 250, 249)
_INK = (28, 27, 26)


def color_of(track_id: int) -> tuple[int, int, int]:
    """RGB color of a track, the same in every frame and every run."""
    lap, index = divmod(track_id, len(_PALETTE_RGB))
    shade = (1.0, 0.72, 0.86)[lap % 3]
    red, green, blue = _PALETTE_RGB[index]
    return round(red * shade), round(green * shade), round(blue * shade)


def overlay(
    frame_HW3: np.ndarray,
    masks_NHW: np.ndarray | None,
    boxes_N4: np.ndarray | None,
    labels: Sequence[str] | None,
    ids: Sequence[int],
) -> np.ndarray:
    """A frame with its objects drawn over it, uint8 ``[H, W, 3]``.

    Args:
        frame_HW3: RGB uint8.
        masks_NHW: bool; None draws no masks.
        boxes_N4: xyxy pixels, a box without area is not drawn; None draws no boxes.
        labels: a text for each box; None or an empty one draws none. Text needs a box.
        ids: the track id of each object, which determines its color.
    """
    height, width = frame_HW3.shape[:2]
    line = max(1, round(min(height, width) / 180))
    image_HW3 = frame_HW3.astype(np.float32)
    if masks_NHW is not None:
        outlines = []
        for mask_HW, track_id in zip(np.asarray(masks_NHW, dtype=bool), ids, strict=True):
            image_HW3[mask_HW] += OPACITY * (np.array(color_of(track_id), dtype=np.float32) - image_HW3[mask_HW])
            outlines.append(_outline(mask_HW, line))
        # All outlines are drawn after all interiors: both edges stay visible where objects overlap.
        for outline_HW, track_id in zip(outlines, ids, strict=True):
            image_HW3[outline_HW] = color_of(track_id)
    drawn = np.clip(image_HW3 + 0.5, 0, 255).astype(np.uint8)
    if boxes_N4 is None:
        return drawn
    image = Image.fromarray(drawn)
    draw = ImageDraw.Draw(image)
    there = np.flatnonzero(present(boxes_N4))
    for n in there:
        x1, y1, x2, y2 = (round(float(side)) for side in boxes_N4[n])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color_of(ids[n]), width=line)
    for n in there if labels is not None else ():
        if labels[n]:
            _label(draw, labels[n], boxes_N4[n], color_of(ids[n]), (height, width))
    return np.asarray(image)


def enlarge(pixels: np.ndarray, factor: int, smooth: bool) -> np.ndarray:
    """A frame ``[H, W, 3]`` (smooth) or masks ``[..., H, W]`` (not smooth) enlarged by an integer factor."""
    if not smooth:
        return pixels.repeat(factor, -2).repeat(factor, -1)
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def side_by_side(
    frame_HW3: np.ndarray,
    boxes_N4: np.ndarray,
    box_ids: Sequence[int],
    masks: Sequence[tuple[np.ndarray, Sequence[int]]],
    with_frame: bool = True,
) -> np.ndarray:
    """Panels in a row: frame, boxes, and one for each set of masks, uint8 ``[H, W, 3]``.

    Small frames are enlarged to `LEAST_HEIGHT` or more. masks: bool ``[M, H, W]`` and the ids of their tracks. Equal
    ids give equal colors. with_frame: False leaves out the panel of the frame without drawings.
    """
    factor = max(1, -(-LEAST_HEIGHT // frame_HW3.shape[0]))
    image = enlarge(frame_HW3, factor, smooth=True)
    sets = [(enlarge(np.asarray(masks_MHW, bool), factor, smooth=False), ids) for masks_MHW, ids in masks]
    panels = [
        *([image] if with_frame else []),
        overlay(image, None, np.asarray(boxes_N4) * factor, None, box_ids),
        *(overlay(image, masks_MHW, None, None, ids) for masks_MHW, ids in sets),
    ]
    gutter = np.full((image.shape[0], 6, 3), _BACKGROUND, dtype=np.uint8)
    pieces = [piece for panel in panels for piece in (gutter, panel)]
    return np.concatenate(pieces[1:], axis=1)


def sheet(rows: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Rows of panels, each uint8 ``[H, W, 3]`` and of equal width, one below the other, under a line of captions."""
    width, gutter = rows[0].shape[1], 6
    font = ImageFont.load_default(size=28)
    header = Image.new("RGB", (width, 44), _BACKGROUND)
    draw = ImageDraw.Draw(header)
    for n, caption in enumerate(captions):
        draw.text((n * (width + gutter) / len(captions) + 4, 6), caption, fill=_INK, font=font)
    gap = np.full((gutter, width, 3), _BACKGROUND, np.uint8)
    return np.concatenate([np.asarray(header), *(piece for row in rows for piece in (row, gap))][:-1])


def _outline(mask_HW: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask within `width` steps of its edge. The frame's border does not count as an edge."""
    inner = mask_HW
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_HW & ~inner


def _label(
    draw: ImageDraw.ImageDraw, text: str, box_4: np.ndarray, color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Draw a label in the track's color on the top edge of the box, or below that edge at the top of the frame."""
    height, width = size
    font = ImageFont.load_default(size=max(10, round(min(height, width) / 28)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, font.size // 5)
    plate_width, plate_height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(0, round(float(box_4[0]))), max(0, width - plate_width))
    y = round(float(box_4[1])) - plate_height
    if y < 0:
        y = min(max(0, round(float(box_4[1]))), max(0, height - plate_height))
    draw.rectangle((x, y, x + plate_width - 1, y + plate_height - 1), fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = _INK if luminance > 140 else (255, 255, 255)
    draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)
