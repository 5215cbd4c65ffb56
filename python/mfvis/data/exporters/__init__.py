"""Export of masks and boxes to other tools: ``mfvis data export``."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mfvis.data.exporters.source import Export, ExportedVideo, MaskForm, read_export
from mfvis.data.exporters.table import EXPORT_FORMATS, EXPORTERS, FORMATS_HELP, Exporter
from mfvis.data.images import save_image
from mfvis.data.video import stream_frames
from mfvis.errors import ConfigError, DataError, Problem, require
from mfvis.text import counted
from mfvis.writing import LOCK, atomic_write, run_lock

ExportFormat = Literal[EXPORT_FORMATS]


@dataclass(frozen=True)
class ExportConfig:
    """Export masks and boxes to the formats of other tools."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Source: the JSON of `mfvis label`, any JSON in the layout of YouTube-VIS or COCO, a named data set,
    NAME:FOLDER, or results.json of `mfvis predict` together with --data."""
    format: Annotated[ExportFormat, tyro.conf.arg(help=f"Format to write. {FORMATS_HELP}.")]
    out: Path
    """File or new folder to write, as the format requires."""
    data: str | None = None
    """For results: the data that were predicted on, a JSON or NAME:FOLDER."""
    frames: Path | None = None
    """Folder of the frames, if they are not in their usual place."""
    images: bool = False
    """Also write the frames as images, under the names that the export gives them: VIDEO/FRAME."""
    masks: MaskForm | None = None
    """Form of the masks in coco, youtube-vis and cvat: rle (compressed; in cvat its own), list (an RLE with a list of
    counts), polygons (exact for pycocotools; a mask can become several). Default: list in coco, else rle."""
    min_score: float = 0.3
    """Minimum score of results."""

    def __post_init__(self) -> None:
        require(self, {"min_score": (0 <= self.min_score <= 1, "0 to 1")})


def run(config: ExportConfig) -> tuple[str, ...]:
    """Export, print a summary, and print and return notes on what was left out or changed."""
    exporter = next(exporter for exporter in EXPORTERS if exporter.name == config.format)
    _check_out(config, exporter)
    content = read_export(config.file, config.data, config.frames, config.min_score, config.masks)
    write_export(content, exporter, config.out, config.file, images=config.images)
    tracks = [track for video in content.videos for track in video.tracks]
    masks = sum(rle is not None for track in tracks for rle in track.rles)
    boxes = sum(int(track.present_T.sum()) for track in tracks)
    numbers = {"video": len(content.videos), "track": len(tracks), "box": boxes, "mask": masks}
    counts = ", ".join(counted(number, noun) for noun, number in numbers.items())
    print(f"{config.out}: {counts} as {exporter.name}")
    notes = tuple(f"{what} ({count})" for what, count in content.noted.items())
    for note in notes:
        print(f"note: {note}")
    return notes


def write_export(content: Export, exporter: Exporter, out: Path, file: str, *, images: bool = False) -> None:
    """Write what was read from `file` in a format, and the frames if requested.

    Raises:
        ConfigError: `out` is in use by another run or holds other files.
        DataError: the format needs masks, and there are none.
    """
    tracks = [track for video in content.videos for track in video.tracks]
    marks = sum(len(track.marks) for track in tracks)
    if marks and not exporter.marks:
        content.note(f"clicks and scribbles were left out, as {exporter.name} has none", marks)
    if exporter.needs_masks:
        if not content.has_masks:
            remedy = f"Generate them first: mfvis label {file}"
            raise DataError([Problem(file, "file", f"has no masks, which {exporter.name} needs", remedy)])
        bare = sum(int((track.present_T & [rle is None for rle in track.rles]).sum()) for track in tracks)
        if bare:
            content.note(f"boxes without a mask were left out, as {exporter.name} has masks only", bare)
    with nullcontext() if out.suffix else run_lock(out):
        if not out.suffix and any(path.name != LOCK for path in out.iterdir()):
            raise ConfigError(f"out is {out}, which holds other files; name a new folder, or delete it")
        exporter.write(content, out)
        if images:
            for video in content.videos:
                _write_images(video, out.parent if out.suffix else out, exporter.images)


def _check_out(config: ExportConfig, exporter: Exporter) -> None:
    """Raise ConfigError unless `out` has a suffix of the format and is not the file that is read."""
    if config.out.suffix not in exporter.suffixes:
        kinds = " or ".join(
            f"a file *{suffix}" if suffix else "a folder, without a suffix" for suffix in exporter.suffixes
        )
        raise ConfigError(f"out is {config.out}; expected {kinds} for --format {exporter.name}")
    inputs = [Path(name) for name in (config.file, config.data) if name]
    if any(path.exists() and config.out.resolve() == path.resolve() for path in inputs):
        raise ConfigError(f"out is {config.out}, which is read; name another")
    if config.masks is not None and not exporter.mask_encodings:
        choices = ", ".join(other.name for other in EXPORTERS if other.mask_encodings)
        raise ConfigError(f"masks is {config.masks}, a choice of {choices} only; leave it out for {exporter.name}")


def _write_images(video: ExportedVideo, folder: Path, images: str) -> None:
    """Copy the image files of a video, or write the frames of its video file, under their exported names."""
    frames = video.video.frames
    folder = folder / images.format(video=video.name)
    names = list(video.file_names)
    if images.endswith("img1"):  # MOTChallenge counts frames from 1
        names = [f"{t:06d}{Path(name).suffix}" for t, name in enumerate(names, 1)]
    elif "{video}" in images:
        names = [Path(name).name for name in names]
    if isinstance(frames, tuple):
        for frame, name in zip(frames, names, strict=True):
            with atomic_write(folder / name) as temporary:
                shutil.copyfile(frame, temporary)
        return
    for frame_CHW, name in zip(stream_frames(video.video), names, strict=True):
        with atomic_write(folder / name) as temporary:
            save_image(temporary, frame_CHW.permute(1, 2, 0).numpy(), quality=95)
