"""Names of classes that a file of box tracks numbers."""

from __future__ import annotations

from pathlib import Path

from mfvis.data.importers.source import ImportedFile


def class_names(path: Path, source: ImportedFile) -> tuple[str, ...]:
    """The names in a text, one per line."""
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        source.report(path.name, f"cannot be read ({error})", "Write one class per line, or remove it")
        return ()
