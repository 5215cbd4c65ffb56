"""JSON files: read with a problem where another would crash, written so that nobody sees half of one, and the few words
in which their readers speak about a value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mfvis.errors import Problem
from mfvis.text import shortened
from mfvis.writing import atomic_write

LARGEST = 10**7
"""A coordinate, a size or a number of frames beyond this is a slip, and could not be worked with."""
MAX_PIXELS = 2**27
"""Pixels of the largest picture that masks are decoded for. Damaged headers and sizes ask for gigabytes and more."""


def read_json(path: Path, problems: list[Problem]) -> Any | None:
    """The value in a JSON file; None, and one more entry in `problems`, where there is none to be had."""

    def report(problem: str, remedy: str) -> None:
        problems.append(Problem(str(path), "file", problem, remedy))

    if path.exists() and not path.is_file():  # a pipe would be waited for
        return report(f"is {'a folder' if path.is_dir() else 'a pipe or a device'}", "Name a file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # programs of Windows begin with a mark
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
    except ValueError as error:  # a key that occurs twice, or a number of thousands of digits
        return report(f"is not JSON that can be read ({error})", "Write the file again")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file. Readers of JSON take the last of two values of one key, and the other would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, item in pairs:
            if item != value[key]:
                raise ValueError(f"key {shortened(key)} has two different values in one object")
    return value


def read_object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """As `read_json`, of a file that must hold an object, as annotations do and results do not."""
    before = len(problems)
    value = read_json(path, problems)
    if isinstance(value, dict) or len(problems) > before:
        return value
    remedy = "Give an annotation file, not results; mfvis data import makes one of other box tracks"
    problems.append(Problem(str(path), "top level", f"is {kind_of(value)}, expected an object", remedy))
    return None


def write_json(path: str | Path, value: Any, *, allow_nan: bool = False) -> None:
    """Write `value`; a reader never sees half a file.

    allow_nan: for fields of somebody else's file that are passed on as they were read. In values of our own NaN is a
    bug, and a ValueError.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, allow_nan=allow_nan, separators=(",", ":")), encoding="utf-8")


def is_integer(value: Any) -> bool:
    """A whole number, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_integer(value: Any) -> int | None:
    """The whole number that a JSON value says: 7, 7.0 (tables of floats write it) or "7"; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if is_integer(value) else None


def is_finite(value: Any) -> bool:
    """A number that can be worked with: neither infinite, nor NaN, nor beyond `LARGEST`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
