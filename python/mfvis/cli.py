"""``mfvis COMMAND``: reads the flags of a command, then imports its function and calls it.

Torch is imported after the flags are read, so that help texts and messages about flags appear at once. ``mfvis doctor``
works in an environment where half of the packages are missing.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from mfvis.errors import MfvisError
from mfvis.text import PrintableStream, printable


@dataclass(frozen=True)
class Command:
    """One command: a frozen dataclass whose fields are the flags, and a function that takes it."""

    summary: str
    run: str
    """``module:function``."""
    config: str | None = None
    """``module:dataclass``, in a module that imports neither torch nor the operators."""
    preset: str | None = None
    """Default preset."""
    plan: str | None = None
    """``module:function`` that returns the lines printed by ``--dry-run``."""


COMMANDS = {
    "train": Command(
        "train a model from box tracks",
        "mfvis.train.engine:train",
        "mfvis.train.config:Config",
        plan="mfvis.train.plan:plan",
    ),
    "label": Command(
        "generate masks for box tracks",
        "mfvis.labeling.run:run",
        "mfvis.labeling.config:LabelConfig",
        plan="mfvis.labeling.plan:plan",
    ),
    "predict": Command(
        "find and segment the objects of videos", "mfvis.predict.run:run", "mfvis.predict.config:PredictConfig"
    ),
    "eval": Command(
        "measure results: AP of YouTube-VIS, OVIS and COCO, BDD100K MOTS, J of labels",
        "mfvis.eval.run:run",
        "mfvis.eval.config:EvalConfig",
    ),
    "convert": Command(
        "convert weights from and to other frameworks", "mfvis.convert:run", "mfvis.weights.config:ConvertConfig"
    ),
    "demo": Command(
        "train from the boxes of synthetic videos, evaluate, and write an HTML report",
        "mfvis.demo.run:run",
        "mfvis.demo.config:DemoConfig",
        preset="demo",
    ),
    "doctor": Command("show build and environment information", "mfvis.doctor:run"),
    "replay": Command(
        "re-run the batch on which training failed", "mfvis.train.replay:run", "mfvis.train.config:ReplayConfig"
    ),
    "data check": Command(
        "report every problem of an annotation file", "mfvis.data.check:run", "mfvis.data.check:CheckConfig"
    ),
    "data import": Command(
        "convert box tracks of other tools (MOTChallenge, CSV, YOLO, CVAT, COCO, ...) to YouTube-VIS JSON",
        "mfvis.data.importers:run",
        "mfvis.data.importers:ImportConfig",
    ),
    "data export": Command(
        "convert masks and boxes to other tools' formats (COCO, CVAT, YOLO, DAVIS, MOTS, ...)",
        "mfvis.data.exporters:run",
        "mfvis.data.exporters:ExportConfig",
    ),
    "data join": Command(
        "join annotation files, or results of parts of a data set", "mfvis.data.join:run", "mfvis.data.join:JoinConfig"
    ),
    "data split": Command(
        "split a training file into train and val", "mfvis.data.split:run", "mfvis.data.split:SplitConfig"
    ),
    "data demo": Command(
        "write synthetic videos with boxes and masks",
        "mfvis.data.synthetic:run",
        "mfvis.data.config:DirectoryConfig",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success; 1 if a check found problems or the output's reader has exited; 2 for a user error, which is
        printed without a traceback; 130 if interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that cannot encode all characters
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # the shell may have closed it
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # the reader, such as head, has exited
        return 1
    except OSError as error:
        # a path that is not a folder, a file without write permission, a full disk
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
        _drop_output()
        return _fail(f"cannot read or write ({reason}). Check the path, its permissions and the room on its disk")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"mfvis {_version()}")
        return 0
    if argv[0] == "data" and argv[1:] in (["-h"], ["--help"]):
        print(usage("data "))
        return 0
    words = 2 if argv[0] == "data" else 1
    name = " ".join(argv[:words])
    try:
        if name not in COMMANDS:
            return _fail(f"no command {name!r}{_guess(name)}\n\n{usage()}")
        return _call(name, argv[words:])
    except MfvisError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        from mfvis.doctor import pip_line

        line = pip_line(error.name or "")
        if line is None:
            raise
        return _fail(f"mfvis {name} needs {error.name}, which is not installed: {line}")
    except ImportError as error:
        if error.name != "mfvis_ext" or "mfvis_ext" in sys.modules:
            raise
        return _fail(str(error))  # mfvis_ext is not built or was built for another torch; the message says so


def _drop_output() -> None:
    """Discard buffered output that cannot be written; otherwise Python would print an error at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("mfvis-ext")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def usage(start: str = "") -> str:
    """List of the commands whose names begin with `start`."""
    width = max(map(len, COMMANDS))
    matching = {name: command for name, command in COMMANDS.items() if name.startswith(start)}
    lines = [f"  mfvis {name:<{width}}  {command.summary}" for name, command in matching.items()]
    return "\n".join(["Masks from boxes. mfvis COMMAND --help lists the flags of a command.\n", *lines])


def _call(name: str, argv: list[str]) -> int:
    command = COMMANDS[name]
    arguments = []
    if command.config is not None:
        from mfvis.parsing import parse, to_yaml

        dry_run = "--dry-run" in argv
        argv = [argument for argument in argv if argument != "--dry-run"]
        arguments = [parse(_load(command.config), argv, prog=f"mfvis {name}", preset=command.preset)]
        if dry_run:
            plan = _load(command.plan)(*arguments) if command.plan else []
            print("\n".join([to_yaml(*arguments), *plan]))
            return 0
    elif argv:
        print(f"mfvis {name} has no flags. Summary: {command.summary}")
        return 0 if argv in (["-h"], ["--help"]) else 2
    with redirect_stdout(PrintableStream(sys.stdout)):
        status = _load(command.run)(*arguments)
    _end_process_group()
    return status if isinstance(status, int) else 0


def _end_process_group() -> None:
    """The group of a command that ``torchrun`` or ``accelerate launch`` started: its threads may abort a process that
    exits while it is open. After an error it stays open, because ending it could wait for the other processes.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _guess(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
    return f", did you mean 'mfvis {close[0]}'?" if close else ""


def _fail(text: str) -> int:
    print("\n".join(printable(line) for line in f"mfvis: {text}".split("\n")), file=sys.stderr)
    return 2
