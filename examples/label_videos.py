"""Masks for box tracks from Python: frames and boxes in, masks out.

    python examples/label_videos.py                        # a generated video
    python examples/label_videos.py clip.mp4 boxes.npy     # yours; boxes [N, T, 4], x1 y1 x2 y2, NaN where absent

Writes masks.npy and an image of the middle frame, masks.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mfvis
import numpy as np
from mfvis.data.rle import mask_box
from mfvis.data.synthetic import draw_video
from mfvis.data.video import open_video, read_frames
from mfvis.vis.draw import side_by_side
from PIL import Image

SMALL = {"backbone": {"name": "tiny", "weights": None, "frozen": False}, "short_side": 96, "zoom": 1, "num_models": 1}
"""Settings for small generated videos. For real ones use the defaults, which download ImageNet weights once."""


def generate(frames: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A video: frames uint8 ``[T, H, W, 3]``, boxes ``[N, T, 4]`` (NaN: hidden), true masks bool ``[N, T, H, W]``."""
    images, masks, _ = draw_video(np.random.default_rng([5, 0, 1]), frames, (96, 160), (2, 2), shared_colors=False)
    boxes = np.array([[mask_box(mask) if mask.any() else [np.nan] * 4 for mask in track] for track in masks])
    return images, boxes, masks


def save(images: np.ndarray, boxes: np.ndarray, masks: np.ndarray, folder: Path) -> None:
    """Write all masks as an array, and an image of the middle frame with its boxes and masks."""
    np.save(folder / "masks.npy", masks)
    t, ids = len(images) // 2, range(len(masks))
    image = side_by_side(images[t], np.nan_to_num(boxes[:, t]), ids, [(masks[:, t], ids)], with_frame=False)
    Image.fromarray(image).save(folder / "masks.png")


def main(folder: Path = Path(), arguments: list[str] | None = None, **settings: Any) -> float:
    """Label, write the result, and return the mean quality: how well the masks fill their boxes, 0 to 1."""
    if arguments:
        video = open_video(arguments[0])
        images = read_frames(video, range(video.length)).permute(0, 2, 3, 1).numpy()
        boxes = np.load(arguments[1])
    else:
        images, boxes, truth = generate()
        settings = SMALL | settings
    masks, quality = mfvis.label(images, boxes, progress=True, **settings)
    print("mean quality of each track:", *np.nanmean(quality, 1).round(2))
    if not arguments:
        visible = truth.any((2, 3))
        iou = (masks & truth).sum((2, 3))[visible] / (masks | truth).sum((2, 3))[visible]
        print(f"IoU with the true masks: {iou.mean():.2f}")
    save(images, boxes, masks, folder)
    return float(np.nanmean(quality))


if __name__ == "__main__":
    main(arguments=sys.argv[1:])
