"""Writers of masks as PNG: DAVIS (palette) and MOTS (16 bits)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mfvis.data.exporters.classes import class_lines, mots_classes, renumbered
from mfvis.data.exporters.source import Export, ExportedTrack, ExportedVideo, write_png
from mfvis.data.importers.mots import PER_CLASS
from mfvis.data.rle import decode_mask
from mfvis.writing import atomic_write

OVERLAP = "pixels of overlapping masks went to the smaller mask, as a pixel has one object"


def write_davis(export: Export, folder: Path) -> None:
    """DAVIS: ``Annotations/VIDEO/FRAME.png``, whose pixels are track ids, with the palette of PASCAL VOC.

    Classes are not part of the format; ``categories.csv`` lists video, id and class. At most 255 tracks per video.
    """
    palette = bytes(_voc_palette())
    rows = ["video,id,category"]
    for video in export.videos:
        ids = renumbered(export, video, most=255)
        rows += [f"{video.name},{ids[track.id]},{track.category.name}" for track in video.tracks if any(track.rles)]
        for t, stem in enumerate(video.stems):
            image = Image.fromarray(_painted(export, video, ids, t).astype(np.uint8), "P")
            image.putpalette(palette)
            write_png(folder / "Annotations" / video.name / f"{stem}.png", image)
    with atomic_write(folder / "categories.csv") as temporary:
        temporary.write_text("\n".join([*rows, ""]), encoding="utf-8")


def write_mots(export: Export, folder: Path) -> None:
    """MOTS: ``VIDEO/instances/FRAME.png`` with 16 bits, class times 1000 plus index; ``labels.txt`` has the names."""
    classes = mots_classes(export.categories)
    lines = class_lines(classes, first=1)
    for video in export.videos:
        own = renumbered(export, video, most=PER_CLASS - 1, by_class=True)
        ids = {track.id: classes[track.category.name] * PER_CLASS + own[track.id] for track in video.tracks}
        instances = folder / video.name / "instances"
        for t, stem in enumerate(video.stems):
            write_png(instances / f"{stem}.png", Image.fromarray(_painted(export, video, ids, t).astype(np.uint16)))
        with atomic_write(instances / "labels.txt") as temporary:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _painted(export: Export, video: ExportedVideo, ids: dict[int, int], t: int) -> np.ndarray:
    """Id of each pixel of a frame, int64 ``[H, W]``, 0 for background. Smaller masks are painted over larger ones."""
    ids_HW = np.zeros((video.video.height, video.video.width), np.int64)
    masks = [(track, decode_mask(track.rles[t], *ids_HW.shape)) for track in _visible(video.tracks, t)]
    covered = 0
    for track, mask_HW in sorted(masks, key=lambda pair: -int(pair[1].sum())):
        covered += int((ids_HW[mask_HW] != 0).sum())
        ids_HW[mask_HW] = ids[track.id]
    if covered:
        export.note(OVERLAP, covered)
    return ids_HW


def _visible(tracks: Sequence[ExportedTrack], t: int) -> list[ExportedTrack]:
    return [track for track in tracks if track.rles[t] is not None]


def _voc_palette() -> list[int]:
    """Colors of the 256 ids: bits 0, 1, 2 of the id, then 3, 4, 5, ... become the upper bits of red, green, blue."""
    return [
        sum((id >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
        for id in range(256)
        for channel in range(3)
    ]
