"""Safe printing of names and values that come from files, and safe file names for them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from reprlib import Repr
from typing import Any, TextIO

LONGEST_NAME = 255
"""Maximum length of a name in characters. Common file systems do not support longer names."""
_LONGEST_STEM = 150
"""Maximum bytes of a file name from `file_stems`; leaves room for a suffix and the marks of a temporary file."""
_TURNS_TEXT = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_REFUSED_IN_FILE_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')


class _Short(Repr):
    """Representations limited to a few levels and elements, with keys in their original order."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60

    def repr_dict(self, value: dict, level: int) -> str:
        if level <= 0:
            return "{...}"
        items = islice(value.items(), self.maxlist)
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}" for key, item in items]
        return "{" + ", ".join([*pairs, *["..."] * (len(value) > self.maxlist)]) + "}"

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to convert the longest ones.
        return str(value) if value.bit_length() <= 200 else f"<an integer of {value.bit_length()} bits>"


_SHORT = _Short()


def printable(text: object) -> str:
    """The text on one line, with escapes such as ``\\x1b`` for characters that control a terminal or forge a line.

    These are control characters, line breaks, bidirectional marks, and lone surrogates, which JSON can contain and
    UTF-8 cannot.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _drives_a_terminal(c) else c for c in text)


def _drives_a_terminal(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in _TURNS_TEXT
    )


class PrintableStream:
    """Text stream that escapes all characters that could control a terminal."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def shortened(value: Any, longest: int = 60) -> str:
    """Representation of a value for a message, at bounded time and memory for values of any size."""
    text = printable(_SHORT.repr(value))
    return text if len(text) <= longest else text[: longest - 3] + "..."


def counted(count: int, noun: str) -> str:
    """A count with its noun in the singular or plural, such as "1 box" or "2 boxes"."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {plural}"


def name_fault(name: str) -> str | None:
    """Reason why a video, a class or a frame cannot have this name; None if it can."""
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters, at most {LONGEST_NAME} are possible"
    return None if printable(name) == name else "has characters that cannot be printed"


def path_fault(path: str) -> str | None:
    """Reason why no file can have this path; None if one can."""
    try:
        parts = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which no file name can have"
    if "\0" in path:
        return "has a NUL character, which no file name can have"
    longest, total = max(map(len, parts)), sum(map(len, parts))
    if longest > 255:
        return f"has a part of {longest} bytes; file names have at most 255"
    return f"has {total} bytes; paths have at most 4096" if total > 3000 else None


def unique_names(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    """The names, with the id appended to those that occur twice."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    taken = set(names)
    unique = []
    for name, id in zip(names, ids, strict=True):
        if name in repeated:
            name = f"{name}-{id}"
            while name in taken:
                name = f"{name}-{id}"
        taken.add(name)
        unique.append(name)
    return unique


def file_stems(names: Iterable[str]) -> list[str]:
    """File names without suffix for the given names: portable, short, and unique even if case is ignored."""
    stems: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = _REFUSED_IN_FILE_NAMES.sub("-", name).strip(". ")
        stem = stem.encode()[:_LONGEST_STEM].decode(errors="ignore") or "video"
        numbered, n = stem, 1
        while (key := unicodedata.normalize("NFC", numbered).casefold()) in taken:
            n += 1
            numbered = f"{stem}-{n}"
        taken.add(key)
        stems.append(numbered)
    return stems
