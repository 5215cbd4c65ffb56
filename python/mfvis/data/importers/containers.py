"""Archives and folders that contain files of box tracks."""

from __future__ import annotations

import errno
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mfvis.data.importers.source import ImportedFile

PATTERNS = (
    *("annotations.xml", "gt/gt.txt", "groundtruth.txt", "groundtruth_rect.txt"),
    *("*/annotations.xml", "*/gt/gt.txt", "*/groundtruth.txt", "*/groundtruth_rect.txt"),
    *("*/*/gt/gt.txt", "*/*/groundtruth.txt", "*_gt_whole.txt", "*/*_gt_whole.txt", "*_manual.json"),
    *("annotations/*.json", "annotations/*.txt", "*.json", "*.xml", "*.csv", "*.txt", "data/*.txt", "label_02/*.txt"),
)
"""Subpaths of annotations in the folders of tools and data sets. The files of the first match are read."""
OTHER_FILES = frozenset({"labels.txt", "classes.txt", "train.txt", "val.txt", "test.txt", "det.txt", "nlp.txt"})
SUFFIXES = frozenset({".xml", ".json", ".txt", ".csv", ".yaml", ".yml", ".ini", ".names", ".label"})
MAX_BYTES = 2**31
"""Maximum size of the annotations in an archive, in bytes."""


def annotation_files(folder: Path) -> tuple[list[Path], int]:
    """Files of a folder that may contain box tracks, in the order of their names, and the number of similar files that
    cannot."""
    for pattern in PATTERNS:
        files = _files(folder, pattern)
        if files:
            return files, len(_files(folder, str(PurePosixPath(pattern).with_name("*" + files[0].suffix)))) - len(files)
    return [], 0


def _files(folder: Path, pattern: str) -> list[Path]:
    paths = (path for path in sorted(folder.glob(pattern)) if path.is_file())
    return [path for path in paths if path.name not in OTHER_FILES and path.name[0] != "."]


def member(source: ImportedFile, path: Path, *, several: bool) -> ImportedFile:
    """A file of the folder `source`, imported with or without others."""
    inside = f"{source.unpacked_from}/{path.relative_to(source.file).as_posix()}" if source.unpacked_from else ""
    return replace(source, file=path, several=several or source.several, unpacked_from=inside)


@contextmanager
def unpacked(source: ImportedFile) -> Iterator[ImportedFile]:
    """The file itself or, for a ZIP archive, a temporary folder with its annotations."""
    if not source.head.startswith(b"PK"):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="mfvis-") as folder:
        try:
            with zipfile.ZipFile(source.file) as archive:
                members = [info for info in archive.infolist() if _is_annotation(info)]
                size = sum(info.file_size for info in members)
                if size > MAX_BYTES:
                    problem = f"holds {size / 2**30:.0f} GiB of annotations"
                    source.report("file", problem, "Unpack it, and give the file with the annotations")
                else:
                    archive.extractall(folder, members)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # an error of the disk, not of the archive
            source.report("file", f"cannot be unpacked ({error})", "Export or copy the archive again")
        yield replace(source, file=Path(folder), unpacked_from=source.display_path)


def _is_annotation(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    mask = path.suffix.lower() == ".png" and "instances" in path.parts
    return not info.filename.endswith("/") and (path.suffix.lower() in SUFFIXES or mask)
