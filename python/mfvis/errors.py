"""Errors that a user can fix. The command line prints only their text; a traceback indicates a bug in mfvis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from mfvis.text import counted, printable


class MfvisError(Exception):
    """Base of all errors caused by the input. The text names the faulty object and the remedy."""


class ConfigError(MfvisError):
    """A flag, a preset or a combination of them is wrong."""


def require(config: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Raise ConfigError with a line for each invalid field. `rules`: ``{name: (valid, expectation)}``."""
    faulty = {name: expected for name, (valid, expected) in rules.items() if not valid}
    if faulty:
        lines = [f"{name} is {attrgetter(name)(config)}; expected {expected}" for name, expected in faulty.items()]
        raise ConfigError("\n".join(lines))


class CheckpointError(MfvisError):
    """A checkpoint or a weights file is damaged, of another kind, or does not fit the model."""


class TrainingError(MfvisError):
    """Training cannot continue; the failing batch was saved."""


class VideoError(MfvisError):
    """A frame or a video file cannot be read or written."""


@dataclass(frozen=True)
class Problem:
    """One fault in a user's data: location, description, and remedy."""

    file: str
    record: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        end = "" if self.problem.endswith("?") else "."
        return printable(f"{self.file}: {self.record}: {self.problem}{end} {self.remedy}")


class DataError(MfvisError):
    """All problems found in a data file, reported together."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        listed = "\n".join(f"  {problem}" for problem in self.problems[:20])
        more = f"\n  ... and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        count = counted(len(self.problems), "problem")
        super().__init__(f"{count} in the data:\n{listed}{more}")

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        # data loading processes pickle it
        return DataError, (self.problems,)
