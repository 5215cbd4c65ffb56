"""Report of a labeling run: one HTML file with the most doubtful tracks first, and links into the overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from mfvis.data.images import read_image, write_image
from mfvis.data.rle import decode_mask
from mfvis.data.video import read_frames
from mfvis.eval.mean_j import MeanJ, mean_j
from mfvis.labeling.quality import DOUBTFUL
from mfvis.text import counted
from mfvis.types import TrackResult, Video, VideoDataset
from mfvis.vis.draw import overlay
from mfvis.vis.report import Figure, Gallery, Report, Table, Tile, write_report

HEIGHT = 200
"""Height of a thumbnail's panels in pixels."""
MARGIN = 0.35
"""Width of the surroundings of a box in a thumbnail, as a share of its longer side."""
MAX_THUMBNAILS = 60
"""Tracks with a thumbnail in the report, the most doubtful first."""
MAX_ROWS = 1000
"""Tracks in the report's table."""
FRAMES_AT_ONCE = 16


def worst_frame(result: TrackResult) -> int | None:
    """Frame of the mask with the lowest quality; None without masks."""
    known = [(value, t) for t, value in enumerate(result.quality) if value is not None]
    return min(known)[1] if known else None


def write_thumbnails(folder: Path, video: Video, results: Sequence[TrackResult]) -> None:
    """Write a JPEG of the worst frame of each track: the frame around the box, without and with the mask."""
    worst = {n: t for n, result in enumerate(results) if (t := worst_frame(result)) is not None}
    frames = sorted(set(worst.values()))
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        part = frames[first : first + FRAMES_AT_ONCE]
        pixels = dict(zip(part, read_frames(video, part), strict=True))
        for n, t in worst.items():
            if t in pixels:
                frame_HW3 = pixels[t].permute(1, 2, 0).numpy()
                write_image(thumbnail_path(folder, video, n), _thumbnail(frame_HW3, video, results[n], t))


def has_thumbnails(folder: Path, video: Video, results: Sequence[TrackResult]) -> bool:
    """True if `write_thumbnails` has written all thumbnails of the video."""
    there = (
        worst_frame(result) is None or thumbnail_path(folder, video, n).is_file() for n, result in enumerate(results)
    )
    return all(there)


def true_j(dataset: VideoDataset, results: Sequence[TrackResult]) -> MeanJ | None:
    """J of the masks and of filled boxes; None if the data set has no true masks."""
    if not any(mask for video in dataset.videos for track in video.tracks for mask in track.segmentations or ()):
        return None
    return mean_j(dataset, results)


def thumbnail_path(folder: Path, video: Video, n: int) -> Path:
    """File of the thumbnail of the video's n-th track."""
    return folder / f"{video.id}-{n}.jpg"


def _thumbnail(frame_HW3: np.ndarray, video: Video, result: TrackResult, t: int) -> np.ndarray:
    """Two panels next to each other, uint8 ``[HEIGHT, W, 3]``."""
    x1, y1, x2, y2 = result.boxes_T4[t]
    mask_HW = decode_mask(result.segmentations[t], video.height, video.width)
    margin = MARGIN * max(x2 - x1, y2 - y1) + 8
    left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
    right, bottom = min(video.width, int(x2 + margin) + 1), min(video.height, int(y2 + margin) + 1)
    scale = HEIGHT / (bottom - top)
    size = (min(2 * HEIGHT, max(1, round((right - left) * scale))), HEIGHT)
    crop = Image.fromarray(frame_HW3[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(mask_HW[top:bottom, left:right]).resize(size, Image.Resampling.NEAREST)
    scales = np.array([size[0] / (right - left), scale] * 2)
    box_14 = (np.array([[x1 - left, y1 - top, x2 - left, y2 - top]]) * scales).astype(np.float32)
    drawn = overlay(np.asarray(crop), np.asarray(mask)[None], box_14, None, [result.track_id or 0])
    return np.concatenate([np.asarray(crop), np.full((HEIGHT, 4, 3), 255, np.uint8), drawn], 1)


def write_label_report(
    path: Path,
    dataset: VideoDataset,
    results: Mapping[int, Sequence[TrackResult]],
    thumbnails: Path,
    overlays: Mapping[int, Path],
    truth: MeanJ | None,
) -> None:
    """Write the report.

    Args:
        path: the HTML file. Links to overlays are relative to it.
        results: results of each video, by its id.
        thumbnails: folder of `write_thumbnails`.
        overlays: overlay of each video, by its id; empty without overlays.
        truth: J of the masks, if the file has true ones.
    """
    names = {category.id: category.name for category in dataset.categories}
    tracks = [
        (video, n, result)
        for video in dataset.videos
        for n, result in enumerate(results[video.id])
        if worst_frame(result) is not None
    ]
    tracks.sort(key=lambda track: track[2].score)
    figures = []
    for video, n, result in tracks[:MAX_THUMBNAILS]:
        file, t = thumbnail_path(thumbnails, video, n), worst_frame(result)
        if not file.is_file() or t is None:
            continue
        caption = f"{video.name}, track {result.track_id} ({names[result.category_id]}): score {result.score:.2f}"
        caption += f"; frame {t}, quality {result.quality[t]:.2f}"
        figures.append(Figure(read_image(file), caption, _link(path, video, overlays.get(video.id), t)))
    doubtful = sum(result.score < DOUBTFUL for _, _, result in tracks)
    given = sum(len(result.given) for _, _, result in tracks)
    masks = sum(value is not None for _, _, result in tracks for value in result.quality)
    tiles = [
        Tile(
            "Masks",
            f"{masks}",
            f"{counted(len(tracks), 'track')} in {counted(len(dataset.videos), 'video')}; {given} given by a person",
        ),
        Tile("Doubtful tracks", f"{doubtful}", f"score below {DOUBTFUL:g}; look at these first"),
    ]
    if truth is not None:
        note = f"over {truth.object_frames} true masks; a filled box has {truth.filled_box_j:.3f}"
        tiles.append(Tile("J", f"{truth.j:.3f}", note))
    lead = "Each row is the frame with the lowest quality of a track, the most doubtful tracks first."
    gallery = Gallery("Look at these first", lead, tuple(tiles), (), tuple(figures), tiled=True)
    write_report(
        path, Report(f"Labels of {dataset.path.name}", _LEAD, (gallery,), (_table(tracks, names),), (), _NOTES)
    )


def _link(path: Path, video: Video, target: Path | None, t: int) -> str:
    """Link to the moment of a frame in an overlay; "" without one."""
    if target is None or not target.is_file():
        return ""
    moment = "" if video.length == 1 else f"#t={t / (video.fps or 10.0):.2f}"
    return quote(target.relative_to(path.parent).as_posix()) + moment


def _table(tracks: Sequence[tuple[Video, int, TrackResult]], names: Mapping[int, str]) -> Table:
    rows = []
    for video, _, result in tracks[:MAX_ROWS]:
        values = [value for value in result.quality if value is not None]
        low = sum(value < DOUBTFUL for value in values)
        row = (f"{video.name}, track {result.track_id}", names[result.category_id], f"{result.score:.2f}")
        rows.append((*row, f"{worst_frame(result)}", f"{min(values):.2f}", f"{low} of {len(values)}"))
    rest = f"The {MAX_ROWS} most doubtful of {len(tracks)} tracks." if len(tracks) > MAX_ROWS else ""
    header = ("track", "class", "score", "worst frame", "its quality", f"masks below {DOUBTFUL:g}")
    return Table("All tracks", rest, header, tuple(rows))


_LEAD = "Masks that mfvis label made from boxes. Left: the frame. Right: its mask. A click opens the overlay there."
_NOTES = (
    "The quality of a mask is its expected J (IoU with the true mask), estimated without true masks from uncertain "
    "pixels, the sides of the box that the mask does not reach, the agreement of the models, changes between frames, "
    "and the size of the object. The score of a track is the mean over its masks. Both order masks; neither is a "
    "measurement.",
    "To correct a track, give the right masks of one or two of its worst frames, or clicks or scribbles, in the JSON "
    "that was labeled (mfvis data import reads them from CVAT), and run the same command again: given masks are kept, "
    "and the others learn from them; clicks and scribbles change the mask of their frame.",
)
