"""JSON files: reading with collected problems, atomic writing, and checks and names of values for the readers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mfvis.errors import Problem
from mfvis.text import shortened
from mfvis.writing import atomic_write

LARGEST = 10**7
"""Largest coordinate, size or number of frames. A larger value is a mistake and could not be processed."""
MAX_PIXELS = 2**27
"""Maximum number of pixels of an image whose masks are decoded. Damaged headers and sizes would need gigabytes and
more."""


def read_json(path: Path, problems: list[Problem]) -> Any | None:
    """The value of a JSON file. None, and an entry in `problems`, if it cannot be read."""

    def report(problem: str, remedy: str) -> None:
        problems.append(Problem(str(path), "file", problem, remedy))

    if path.exists() and not path.is_file():  # opening a pipe would block
        return report(f"is {'a folder' if path.is_dir() else 'a pipe or a device'}", "Name a file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # programs on Windows write a byte order mark
    except (FileNotFoundError, NotADirectoryError):
        return report("does not exist", "Check the path")
    except UnicodeDecodeError:
        return report("is not a text file in UTF-8", "Give a JSON file")
    except OSError as error:
        return report(f"cannot be read ({error.strerror})", "Check the path and its permissions")
    if not text.strip():
        return report("is empty", "Write the file again")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        if text.lstrip()[0] not in "{[":
            return report(f"is not JSON ({where})", "Give a JSON file; mfvis data import makes one of other box tracks")
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            return report(f"ends in the middle of the JSON ({where})", "It was cut off: write or copy it again")
        return report(f"is not JSON ({where})", "Mend that line, or write the file again")
    except RecursionError:
        return report("is nested too deeply", "Give a JSON file of annotations or results")
    except ValueError as error:  # a duplicate key, or a number with thousands of digits
        return report(f"is not JSON that can be read ({error})", "Write the file again")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file. Duplicate keys are refused, since JSON readers silently keep only the last value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, item in pairs:
            if item != value[key]:
                raise ValueError(f"key {shortened(key)} has two different values in one object")
    return value


def read_object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """The object in a JSON file, read as by `read_json`. Annotation files contain an object, results files do not."""
    before = len(problems)
    value = read_json(path, problems)
    if isinstance(value, dict) or len(problems) > before:
        return value
    remedy = "Give an annotation file, not results; mfvis data import makes one of other box tracks"
    problems.append(Problem(str(path), "top level", f"is {kind_of(value)}, expected an object", remedy))
    return None


def write_json(path: str | Path, value: Any, *, allow_nan: bool = False) -> None:
    """Write `value` atomically.

    allow_nan: accept NaN in fields that are copied unchanged from an input file. In values of our own NaN is a bug and
    raises a ValueError.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, allow_nan=allow_nan, separators=(",", ":")), encoding="utf-8")


def is_integer(value: Any) -> bool:
    """True for an integer; True and False are not integers here."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_integer(value: Any) -> int | None:
    """The integer given by a JSON value: 7, 7.0 (as in tables of floats) or "7". None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if is_integer(value) else None


def is_finite(value: Any) -> bool:
    """True for a number that can be processed: not infinite, not NaN, and at most `LARGEST`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def kind_of(value: Any) -> str:
    """Name of the kind of a JSON value, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
