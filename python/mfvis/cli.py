"""``mfvis COMMAND``: finds the function of a command, reads its flags, calls it.

Nothing heavy is imported before a command is known, so that ``mfvis --help`` is quick and ``mfvis doctor`` works in an
environment where half of the packages are missing.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from mfvis.errors import MfvisError
from mfvis.text import PrintableStream, printable


@dataclass(frozen=True)
class Command:
    """One command: a function of one frozen dataclass, whose fields are the flags."""

    summary: str
    target: str
    """``module:function``."""
    preset: str | None = None
    """The preset that holds unless the user names another."""
    plan: str | None = None
    """``module:function`` that says, line by line, what follows from the flags, for ``--dry-run``."""


COMMANDS = {
    "train": Command("train a model from box tracks", "mfvis.train.engine:train", plan="mfvis.train.plan:plan"),
    "label": Command("give box tracks their masks: boxes in, masks out", "mfvis.label.run:run", "label"),
    "predict": Command("find and segment the objects of a video", "mfvis.predict.run:run"),
    "eval": Command("measure: AP of YouTube-VIS, OVIS and COCO, BDD100K MOTS, J of labels", "mfvis.eval.run:run"),
    "convert": Command("weights of other programs for mfvis, and mfvis' for them", "mfvis.convert:run"),
    "demo": Command("synthetic videos, box-only training, evaluation, an HTML report", "mfvis.demo.run:run", "demo"),
    "doctor": Command("what was built, what is installed, what is missing", "mfvis.doctor:run"),
    "replay": Command("compute the losses of a batch that stopped a training once more", "mfvis.train.replay:run"),
    "data check": Command("report every problem of an annotation file", "mfvis.data.check:run"),
    "data import": Command(
        "box tracks of other tools (MOTChallenge, CSV, YOLO, CVAT, COCO-VID, ...) as YouTube-VIS JSON",
        "mfvis.data.importers:run",
    ),
    "data split": Command("hold out a part of a training file to measure on", "mfvis.data.split:run"),
    "data demo": Command("write synthetic videos with boxes and masks", "mfvis.data.synthetic:run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Status 0; 2 for a user's error, told without a traceback; 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter of a name shows its number
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
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
        return _fail(str(error))  # mfvis_ext is not built, or for another torch, and says so in one sentence
    except BrokenPipeError:
        # who reads our output, such as head, has seen enough; at exit, too, it would be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # the machine's: a folder that is none, a file that may not be written, a full disk
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
        return _fail(f"cannot read or write ({reason}). Check the path, its permissions and the room on its disk")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def usage(start: str = "") -> str:
    """The list of commands whose names start so."""
    width = max(map(len, COMMANDS))
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(start)}
    lines = [f"  mfvis {name:<{width}}  {command.summary}" for name, command in shown.items()]
    return "\n".join(["Masks from boxes. mfvis COMMAND --help lists the flags of a command.\n", *lines])


def _call(name: str, argv: list[str]) -> int:
    command = COMMANDS[name]
    function = _function(command.target)
    kinds = [kind for key, kind in typing.get_type_hints(function).items() if key != "return"]
    arguments = []
    if kinds:  # doctor has none, and must answer even where the parser is missing
        from mfvis.parsing import parse, to_yaml

        dry_run = "--dry-run" in argv
        argv = [argument for argument in argv if argument != "--dry-run"]
        arguments = [parse(kind, argv, prog=f"mfvis {name}", preset=command.preset) for kind in kinds]
        if dry_run:
            plan = _function(command.plan)(*arguments) if command.plan else []
            print("\n".join([to_yaml(*arguments), *plan]))
            return 0
    elif argv:
        print(f"mfvis {name} has no flags. It says {command.summary}")
        return 0 if argv in (["-h"], ["--help"]) else 2
    with redirect_stdout(PrintableStream(sys.stdout)):
        status = function(*arguments)
    return status if isinstance(status, int) else 0


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _guess(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
    return f", did you mean 'mfvis {close[0]}'?" if close else ""


def _fail(text: str) -> int:
    print("\n".join(printable(line) for line in f"mfvis: {text}".split("\n")), file=sys.stderr)
    return 2
