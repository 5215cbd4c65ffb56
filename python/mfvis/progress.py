"""Progress of a whole run, with the time left: one line that is rewritten on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from typing import Any, TextIO

from tqdm import tqdm

REDRAW = 0.2
"""Seconds between two states of the line on a terminal."""
INTERVAL = 10.0
"""Seconds between two lines without a terminal."""
KNOWN = 0.02
"""Finished share of a kind of work from which its pace is known. First steps take longer than those that follow."""


class Progress:
    """Progress of a run that does several kinds of work, such as training and refinement.

    The time left is extrapolated for each kind of work from the time that its finished part took. Kinds that have
    hardly begun have the pace of the others; their amounts are estimated seconds or any other unit that all share.
    Within the ``with`` block, printed lines appear above the line on a terminal.

    Args:
        visible: False shows nothing.
    """

    def __init__(self, visible: bool = True):
        self.visible = visible
        self.ahead: dict[str, float] = {}
        self.done, self.spent = Counter[str](), Counter[str]()
        self.last = time.perf_counter()
        self.next_shown = self.last + INTERVAL
        self.bar: tqdm | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Progress:
        if self.visible and sys.stderr is not None and sys.stderr.isatty():
            layout = "{percentage:3.0f}% |{bar:20}| {desc}"
            bar = tqdm(total=1.0, bar_format=layout, dynamic_ncols=True, leave=False, file=sys.stderr)
            self.bar = self.stack.enter_context(bar)
            self.stack.enter_context(redirect_stdout(_LinesAbove(sys.stdout, bar)))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def plan(self, ahead: Mapping[str, float]) -> None:
        """Set the work that is left, by kind. The time since the last `advance` is not counted, as after a wait."""
        self.ahead = dict(ahead)
        self.last = time.perf_counter()

    def advance(self, kind: str, amount: float, text: str) -> None:
        """Count finished work, and the time since the last call as the time that it took.

        text: What is being done.
        """
        now = time.perf_counter()
        self.spent[kind] += now - self.last
        self.done[kind] += amount
        self.ahead[kind] = max(0.0, self.ahead.get(kind, 0.0) - amount)
        self.last = now
        if not self.visible or (self.bar is None and now < self.next_shown):
            return
        left, spent = self.seconds_left(), self.spent.total()
        share = spent / max(spent + left, 1e-9)
        if self.bar is None:
            print(f"{share:4.0%}, {duration(left)} left: {text}", flush=True)
            self.next_shown = now + INTERVAL
        elif now >= self.next_shown or not self.bar.n:
            self.bar.n = share
            self.bar.set_description_str(f"{duration(left)} left: {text}")
            self.next_shown = now + REDRAW

    def seconds_left(self) -> float:
        """Estimated seconds that the rest of the run takes; 0 before anything was done."""
        known = [kind for kind, done in self.done.items() if done > KNOWN * (done + self.ahead.get(kind, 0.0))]
        measured = known or list(self.done)
        pace = sum(self.spent[kind] for kind in measured) / max(sum(self.done[kind] for kind in measured), 1e-9)
        return sum(
            amount * (self.spent[kind] / self.done[kind] if kind in known else pace)
            for kind, amount in self.ahead.items()
        )


class _LinesAbove:
    """Output stream whose lines appear above a bar, also where both go to one terminal."""

    def __init__(self, stream: TextIO, bar: tqdm):
        self.stream, self.bar, self.at_start = stream, bar, True

    def write(self, text: str) -> int:
        if self.at_start:
            self.bar.clear()
        self.stream.write(text)
        self.at_start = text.endswith("\n")
        if self.at_start:
            self.stream.flush()
            self.bar.refresh()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
