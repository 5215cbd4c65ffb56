"""Sharding: the part of the videos that this process works on.

Independent runs (``--shard 2/4``, or the tasks of a SLURM array) know nothing of each other; a later run without a
shard joins their results. Processes that ``torchrun`` or ``accelerate launch`` starts wait for each other, and the
first of them joins the results.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mfvis.errors import ConfigError
from mfvis.text import counted

Item = TypeVar("Item")
POLL = 0.2
"""Seconds between two looks at whether the other processes have arrived."""


@dataclass(frozen=True)
class Shard:
    """One of `count` processes that share the videos."""

    index: int = 0
    """0 to `count` - 1."""
    count: int = 1
    launched: bool = False
    """True if a launcher started all processes, which then wait for each other."""
    origin: str = "--shard"
    """The flag or the variables that define the shard."""
    meeting: _Meeting | None = None
    """Connection to the other processes of the launcher."""

    @property
    def joins(self) -> bool:
        """True if this process writes the joint results."""
        return self.count == 1 or (self.launched and self.index == 0)

    @property
    def speaks(self) -> bool:
        """True if this process prints what concerns the whole run."""
        return not self.launched or self.index == 0

    @property
    def next(self) -> str:
        """Sentence on how the results of independent shards are joined."""
        return "When all shards have ended, run the same command with --shard 1/1 to join them"

    def heading(self, count: int) -> list[str]:
        """Lines that report the part of the `count` videos that this process works on; none without shards."""
        if self.count == 1:
            return []
        own = len(self.own(range(count)))
        if self.launched:
            return [f"{self.count} processes share {counted(count, 'video')}"]
        return [f"shard {self} (from {self.origin}): {own} of {counted(count, 'video')}"]

    def say(self, *lines: str) -> None:
        """Print lines that concern the whole run, once."""
        if self.speaks:
            print(*lines, sep="\n", end="\n" if lines else "", flush=True)

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this process: every `count`-th, so that all processes get videos of every part of the file."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Wait for all processes of the launcher; return at once without a launcher."""
        if self.meeting is not None:
            self.meeting.wait()

    def device(self, name: str) -> str:
        """The device flag of this process: "auto" and "cuda" become the GPU of the local rank under a launcher."""
        import torch

        if not self.launched or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        gpu = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        torch.cuda.set_device(gpu)
        return name if name == "auto" else f"cuda:{gpu}"

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


@contextmanager
def sharded(text: str | None) -> Iterator[Shard]:
    """The shard of this process, with the processes of a launcher connected for the duration of the block.

    Raises:
        ConfigError: as `parse_shard`.
    """
    shard = parse_shard(text, os.environ)
    if not shard.launched:
        yield shard
        return
    from torch.distributed.rendezvous import rendezvous

    # Not a process group: the losses would average their counts over it, as in mfvis train.
    store, _, _ = next(rendezvous("env://", shard.index, shard.count))
    yield replace(shard, meeting=_Meeting(store, shard.count))
    store.add("mfvis/ended", 1)
    while shard.index == 0 and store.add("mfvis/ended", 0) < shard.count:  # this process may keep the store
        time.sleep(POLL)


class _Meeting:
    """Point that all processes of a launcher have to reach, as often as needed."""

    def __init__(self, store: Any, count: int):
        self.store, self.count, self.meetings = store, count, 0

    def wait(self) -> None:
        """Wait for all processes, however long they take."""
        self.meetings += 1
        key = f"mfvis/{self.meetings}"
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.count:
            time.sleep(POLL)


def parse_shard(text: str | None, environ: Mapping[str, str]) -> Shard:
    """The shard that the flag names, or else the variables of a launcher or of a SLURM array.

    Raises:
        ConfigError: the flag is not I/N with I from 1 to N, or it is used under a launcher.
    """
    processes = _integer(environ, "WORLD_SIZE", 1)
    if text is not None:
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard is {text!r}, expected I/N with I from 1 to N, such as 2/4")
        if processes > 1:
            raise ConfigError(
                f"shard is {text}, but a launcher started {processes} processes (WORLD_SIZE), which share the videos "
                "already; drop one of the two"
            )
        return Shard(int(match[1]) - 1, int(match[2]))
    if processes > 1:
        return Shard(_integer(environ, "RANK", 0), processes, launched=True, origin="RANK and WORLD_SIZE")
    count = _integer(environ, "SLURM_ARRAY_TASK_COUNT", 1)
    if count == 1 or "SLURM_ARRAY_TASK_ID" not in environ:
        return Shard()
    least, most = (_integer(environ, f"SLURM_ARRAY_TASK_{end}", default) for end, default in (("MIN", 0), ("MAX", -1)))
    task, span = _integer(environ, "SLURM_ARRAY_TASK_ID", 0) - least, most - least
    step = max(1, span // (count - 1))  # of --array=0-30:10
    if most >= 0 and step * (count - 1) != span or task % step or not 0 <= task // step < count:
        raise ConfigError(
            f"the {count} tasks of the SLURM array are not evenly spaced, or SLURM_ARRAY_TASK_MIN is missing; "
            "number them from 1 (--array=1-N), or give --shard I/N"
        )
    return Shard(task // step, count, origin="SLURM_ARRAY_TASK_ID")


def _integer(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else default
