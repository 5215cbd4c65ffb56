"""Names of numbered classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfvis.data.importers.boxes import whole_number_in
from mfvis.data.importers.source import ImportedFile
from mfvis.data.jsonfile import is_integer
from mfvis.errors import ConfigError
from mfvis.yamlfile import read_yaml


def parse_class_names(values: Sequence[str]) -> dict[int, str]:
    """Names by class index, from ``NUMBER=NAME`` strings or from one file (see `read_class_names`).

    Raises:
        ConfigError: for any other text, and for a file that cannot be read.
    """
    pairs = [re.fullmatch(r"(\d{1,9})=(.+)", value) for value in values]
    if all(pairs):
        return {int(pair[1]): pair[2].strip() for pair in pairs}
    if len(values) == 1 and Path(values[0]).is_file():
        try:
            return read_class_names(Path(values[0]))
        except ValueError as error:
            raise ConfigError(f"--class-names {values[0]} cannot be read: {error}") from None
    wrong = next(value for value, pair in zip(values, pairs, strict=True) if not pair)
    raise ConfigError(
        f"--class-names {wrong!r} is neither NUMBER=NAME nor a file; write 0=person 2=car, or classes.txt"
    )


def read_class_names(path: Path, first: int = 0) -> dict[int, str]:
    """Names by class index: the lines of a text, numbered from `first` on, or ``names`` of a YAML file.

    Raises:
        ValueError: when the text is neither.
    """
    try:
        if path.suffix not in (".yaml", ".yml"):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            return {i: line.strip() for i, line in enumerate(lines, first) if line.strip()}
        root = read_yaml(path)
    except OSError as error:
        raise ValueError(str(error)) from None
    names = root.get("names") if isinstance(root, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(map(_is_named, names, names.values())):
        raise ValueError("'names' is neither a list of names nor one of NUMBER: NAME (yes, no, on, off need quotes)")
    return {int(number): str(name) for number, name in names.items()}


def read_names_near(source: ImportedFile, path: Path, first: int = 0) -> dict[int, str]:
    """Names from a file next to the imported one, as by `read_class_names`. Empty, with a report, if it cannot be
    read."""
    try:
        return read_class_names(path, first)
    except ValueError as error:
        source.report(path.name, f"cannot be read ({error})", "Write one class per line, or remove it")
        return {}


def name_classes(source: ImportedFile, numbers: Collection[int], names: Mapping[int, str]) -> dict[int, str]:
    """Names of these classes, from --class-names or else from `names`. Empty, with a report, if a name is missing.

    If the file has only one class, a single --categories names it. --categories may also list class numbers.
    """
    names = dict(names) | source.class_names
    if len(numbers) == 1 and not numbers & names.keys() and len(source.categories) == 1:
        return dict.fromkeys(numbers, source.categories[0])
    names = {number: str(number) for number in numbers if str(number) in source.categories} | names
    unnamed = sorted(number for number in numbers if number not in names)
    if unnamed:
        listed = ", ".join(map(str, unnamed[:10])) + (", ..." if len(unnamed) > 10 else "")
        pairs = " ".join(f"{number}=NAME" for number in unnamed[:3]) + (" ..." if len(unnamed) > 3 else "")
        problem = f"has class {listed} without a name" if len(unnamed) == 1 else f"has classes {listed} without names"
        source.report("file", problem, f"Name them: --class-names {pairs}, or a file with a name per line, from 0 on")
        return {}
    return names


def _is_named(number: Any, name: Any) -> bool:
    is_number = is_integer(number) or isinstance(number, str) and whole_number_in(number) is not None
    # YAML reads yes, no, on and off without quotes as truth values
    return is_number and (is_integer(name) or isinstance(name, str)) and bool(str(name).strip())
