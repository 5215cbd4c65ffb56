"""The formats that can be imported, and the choice among them."""

from __future__ import annotations

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.coco_video import COCO_VIDEO
from mfvis.data.importers.csv_table import CSV
from mfvis.data.importers.cvat import CVAT
from mfvis.data.importers.kitti import KITTI
from mfvis.data.importers.label_studio import LABEL_STUDIO
from mfvis.data.importers.motchallenge import MOTCHALLENGE
from mfvis.data.importers.scalabel import SCALABEL
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.yolo import YOLO

IMPORTERS = (MOTCHALLENGE, CSV, KITTI, YOLO, CVAT, COCO_VIDEO, LABEL_STUDIO, SCALABEL)
FORMATS = tuple(importer.name for importer in IMPORTERS)


def read_videos(source: ImportedFile, format: str | None) -> list[BoxVideo]:
    """The videos of a file of a named format, or of one that is recognized by its content; faults are reported."""
    importer = _named(format) if format else _recognized(source)
    if importer is None or source.problems:
        return []
    for option in ("first_frame",):
        if getattr(source, option) is not None and option not in importer.options:
            flag = f"--{option.replace('_', '-')}"
            source.report("file", f"is {importer.name}, in which {flag} has no meaning", f"Leave {flag} out")
    return [] if source.problems else importer.read(source)


def _named(format: str) -> Importer:
    return next(importer for importer in IMPORTERS if importer.name == format)


def _recognized(source: ImportedFile) -> Importer | None:
    """The format that a file looks like; None, reported, where it is none of them."""
    if not source.file.exists():
        source.report("file", "does not exist", "Check the path")
        return None
    for importer in IMPORTERS:
        if importer.sniff(source):
            return importer
        if source.problems:
            return None
    if source.head.startswith(b"PK"):
        source.report("file", "is a ZIP archive", "Unpack it, and give the file with the annotations")
    elif isinstance(source.root, dict) and "videos" in source.root:
        source.report("file", "is a YouTube-VIS JSON", "Use it as it is")
    else:
        source.report("file", "is of no format that can be guessed", f"Say --format {'|'.join(FORMATS)}")
    return None
