"""Table of the import formats, and recognition of a file's format."""

from __future__ import annotations

from collections.abc import Sequence

from mfvis.data.importers.boxes import BoxVideo
from mfvis.data.importers.coco_tracks import COCO_TRACKS
from mfvis.data.importers.containers import annotation_files, member, unpacked
from mfvis.data.importers.csv_table import CSV
from mfvis.data.importers.cvat import CVAT
from mfvis.data.importers.kitti import KITTI
from mfvis.data.importers.label_studio import LABEL_STUDIO
from mfvis.data.importers.motchallenge import MOTCHALLENGE
from mfvis.data.importers.mots import MOTS, MOTS_TEXT
from mfvis.data.importers.other_kinds import report_other_kind
from mfvis.data.importers.sav import SAV
from mfvis.data.importers.scalabel import SCALABEL
from mfvis.data.importers.sot import SOT
from mfvis.data.importers.source import ImportedFile, Importer
from mfvis.data.importers.ultralytics import ULTRALYTICS
from mfvis.data.importers.via import VIA
from mfvis.data.importers.visdrone import UAVDT, VISDRONE
from mfvis.data.importers.yolo import YOLO

IMPORTERS = (
    *(CSV, VISDRONE, UAVDT, SOT, MOTCHALLENGE, KITTI, MOTS_TEXT, MOTS, YOLO, CVAT),
    *(COCO_TRACKS, LABEL_STUDIO, SCALABEL, SAV, ULTRALYTICS, VIA),
)
"""Formats in order. The first one that recognizes a file reads it."""
FORMATS = tuple(importer.name for importer in IMPORTERS)
OPTIONS = ("first_frame", "first_pixel", "class_names")


def read_videos(source: ImportedFile, format: str | None) -> list[BoxVideo]:
    """Videos of a file, folder or archive, in a given format or in one recognized from the content.

    Invalid content is reported to `source`.
    """
    if not source.file.exists():
        source.report("file", "does not exist", "Check the path")
        return []
    if not source.file.is_file() and not source.file.is_dir():  # opening it would block
        source.report("file", "is a pipe or a device", "Name a file")
        return []
    importers = [importer for importer in IMPORTERS if format in (None, importer.name)]
    with unpacked(source) as content:
        return [] if source.problems else _read(content, importers)


def _read(source: ImportedFile, importers: Sequence[Importer]) -> list[BoxVideo]:
    importer = _recognized(source, importers)
    if source.problems:
        return []
    is_folder = source.file.is_dir()
    if importer is None and len(importers) == 1 and (not is_folder or importers[0].reads_folders):
        importer = importers[0]  # a requested format explains why it cannot read the file
    if importer is not None:
        return _read_by(importer, source)
    if is_folder:
        return _read_folder(source, importers)
    if not report_other_kind(source):
        source.report("file", "is of no format that can be guessed", f"Say --format {'|'.join(FORMATS)}")
    return []


def _recognized(source: ImportedFile, importers: Sequence[Importer]) -> Importer | None:
    """First format that recognizes the content. None if there is none, or if the content is damaged."""
    before = len(source.problems)
    for importer in importers:
        if importer.sniff(source):
            return importer
        if len(source.problems) > before:
            return None
    return None


def _read_by(importer: Importer, source: ImportedFile) -> list[BoxVideo]:
    before = len(source.problems)
    for option in OPTIONS:
        if getattr(source, option) not in (None, {}) and option not in importer.options:
            flag = f"--{option.replace('_', '-')}"
            source.report("file", f"is {importer.name}, in which {flag} has no meaning", f"Leave {flag} out")
    return importer.read(source) if len(source.problems) == before else []


def _read_folder(source: ImportedFile, importers: Sequence[Importer]) -> list[BoxVideo]:
    """Videos of the files in a folder, which must all have one format. Files of no known format are left out."""
    paths, others = annotation_files(source.file)
    files = [member(source, path, several=len(paths) > 1) for path in paths]
    formats = [(file, _recognized(file, importers)) for file in files]
    chosen = {importer.name: importer for _, importer in formats if importer is not None}
    if source.problems:
        return []
    if not files:
        remedy = "Name the file, such as gt/gt.txt or annotations.xml, or the folder of the texts"
        source.report("folder", "has no file of box tracks in it", remedy)
    elif len(chosen) > 1:
        source.report("folder", f"has files of several formats: {', '.join(chosen)}", "Say --format, or name a file")
    elif not chosen:
        return _read(files[0], importers)  # reports why the format is unknown
    else:
        unknown = sum(importer is None for _, importer in formats)
        source.leave_out("of other formats", "file", unknown + others)
        return [video for file, importer in formats if importer for video in _read_by(importer, file)]
    return []
