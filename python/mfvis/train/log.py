"""Training log: progress lines, ``log.jsonl`` with one JSON object per line, and TensorBoard."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import get_available_trackers

from mfvis.errors import ConfigError
from mfvis.losses.inputs import mean_over_processes
from mfvis.text import PrintableStream, counted
from mfvis.writing import atomic_write


class Log:
    """Writes losses, averaged over the processes and between two reports. Only the main process writes anything.

    Args:
        out: The run's directory.
        first_step: Steps done before; later records of an interrupted run are removed from the log.
        steps: Total number of steps, for the remaining time.
        every: Steps between reports.
        active: False in all but the main process.
    """

    def __init__(self, out: Path, first_step: int, steps: int, every: int, active: bool):
        self.first_step, self.steps, self.every, self.active = first_step, steps, every, active
        self.file = out / "log.jsonl"
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.waited = 0.0
        self.since = self.started = time.perf_counter()
        self.board = None
        self.trackers: list[Any] = []
        """accelerate's trackers, which get the same records."""
        if active:
            out.mkdir(parents=True, exist_ok=True)
            if dropped := _keep_until(self.file, first_step):
                self.say(f"{self.file}: {counted(dropped, 'line')} without a record dropped")
            self.board = _tensorboard(out, first_step)

    def step(
        self,
        step: int,
        losses: Mapping[str, torch.Tensor],
        norm: torch.Tensor,
        rate: float,
        waited: float,
    ) -> None:
        """Count one optimizer step, the `step`-th; report if a report is due.

        The first step is also printed to the terminal, as it shows the duration of a step.

        losses, norm of the gradient: scalars, read only for a report, so that steps do not wait for the device. A norm
        that is not finite means that the step was skipped. rate: learning rate; waited: seconds spent waiting for data.
        """
        taken = norm.isfinite()
        counted = {"grad_norm": torch.where(taken, norm, 0.0), "skipped": (~taken).float()}
        for name, value in (losses | counted).items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1
        self.waited += waited
        due = step % self.every == 0 or step == self.steps
        if not due and step != self.first_step + 1:
            return
        now = time.perf_counter()
        seconds = (now - self.since) / self.count
        means = mean_over_processes(torch.stack([total.float() for total in self.sums.values()])) / self.count
        values = dict(zip(self.sums, means.tolist(), strict=True))
        values["grad_norm"] /= max(1 - values["skipped"], 1 / self.count)  # the mean over steps that were not skipped
        record = {
            "step": step,
            **values,
            "lr": rate,
            "step_seconds": seconds,
            "data_wait": self.waited / self.count,
            "memory_gib": _memory(),
        }
        left = (now - self.started) / (step - self.first_step) * (self.steps - step)
        if self.active:
            print(_line(record, values, left, self.steps), file=sys.stderr, flush=True)
            if due:
                self._write(record)
        if due:
            self.sums, self.count, self.waited, self.since = {}, 0, 0.0, now

    def say(self, text: str) -> None:
        """Print a line to the terminal."""
        if self.active:
            print(text, file=PrintableStream(sys.stderr), flush=True)

    def close(self) -> None:
        """Flush and close the TensorBoard writer and the trackers."""
        if self.board is not None:
            self.board.close()
        for tracker in self.trackers:
            tracker.finish()

    def _write(self, record: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        if self.board is not None:
            for name, value in record.items():
                if name != "step":
                    self.board.add_scalar(name, value, record["step"])
        for tracker in self.trackers:
            tracker.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])


def require_trackers(names: Sequence[str]) -> list[str]:
    """The names of accelerate's trackers; ConfigError if the package of one is not installed."""
    available = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in available]:
        packages = " ".join({"comet_ml": "comet-ml"}.get(name, name) for name in missing)
        raise ConfigError(f"train.log_with is {', '.join(names)}, not installed: pip install {packages}")
    return list(names)


def _line(record: Mapping[str, Any], losses: Mapping[str, float], left: float, steps: int) -> str:
    terms = " ".join(
        f"{name} {value:.3g}" for name, value in losses.items() if name not in ("total", "grad_norm") and value
    )
    hours, minutes = divmod(int(left) // 60, 60)
    return (
        f"step {record['step']}/{steps}  loss {losses['total']:.4g} ({terms})  lr {record['lr']:.2g}  "
        f"{record['step_seconds']:.3g} s/step, {record['data_wait']:.2g} s waiting for data  "
        f"{record['memory_gib']:.2f} GiB  {hours}:{minutes:02}:{int(left) % 60:02} left"
    )


def _memory() -> float:
    """Peak memory in GiB: of the GPU if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _keep_until(file: Path, step: int) -> int:
    """Remove from a log the records after `step`, which will be written again, and an incomplete last line.

    Returns the number of other invalid lines, which are removed too.
    """
    if not file.exists():
        return 0
    if not file.is_file():  # reading a pipe would never end
        raise ConfigError(f"{file} is not a file, but the training's log is written there; delete it")
    lines = file.read_bytes().split(b"\n")[:-1]
    steps = [_step_of(line) for line in lines]
    kept = [line + b"\n" for line, done in zip(lines, steps, strict=True) if done is not None and done <= step]
    with atomic_write(file) as temporary:
        temporary.write_bytes(b"".join(kept))
    return steps.count(None)


def _step_of(line: bytes) -> int | None:
    """Step of a record; None for an invalid line."""
    try:
        step = json.loads(line.decode("utf-8"))["step"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return step if isinstance(step, int) else None


def _tensorboard(out: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(out / "tensorboard", purge_step=first_step + 1)
