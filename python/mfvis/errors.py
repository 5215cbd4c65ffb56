"""Errors that a user can mend. The command line prints their text alone; a traceback means a bug of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from mfvis.text import printable


class MfvisError(Exception):
    """Base of every error that is the input's fault. Its text names the thing and the remedy."""


class ConfigError(MfvisError):
    """A flag, a preset or a combination of them is wrong."""


def require(config: object, wanted: Mapping[str, tuple[bool, str]]) -> None:
    """ConfigError with a line for each field that is not as wanted: ``{name: (is it good, what is expected)}``."""
    faulty = {name: expected for name, (good, expected) in wanted.items() if not good}
    if faulty:
        lines = [f"{name} is {attrgetter(name)(config)}; expected {expected}" for name, expected in faulty.items()]
        raise ConfigError("\n".join(lines))


class CheckpointError(MfvisError):
    """A checkpoint or a weights file is damaged, of another kind, or does not fit the model."""


class TrainingError(MfvisError):
    """A training cannot go on; what led there was kept for a look."""


class VideoError(MfvisError):
    """A frame or a video file cannot be read or written."""


@dataclass(frozen=True)
class Problem:
    """One fault in a user's data: where it is, what it is, what mends it."""

    file: str
    record: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        end = "" if self.problem.endswith("?") else "."
        return printable(f"{self.file}: {self.record}: {self.problem}{end} {self.remedy}")


class DataError(MfvisError):
    """All the faults found in a data file, gathered and reported together."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        shown = "\n".join(f"  {problem}" for problem in self.problems[:20])
        more = f"\n  ... and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{count} in the data:\n{shown}{more}")

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        # readers in worker processes send it as it is
        return DataError, (self.problems,)
