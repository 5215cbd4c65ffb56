"""Messages, help texts and documentation name only commands and flags that exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path

import mfvis
import pytest
from mfvis.cli import COMMANDS, _load

ROOT = Path(mfvis.__file__).parent
DOCS = ROOT.parents[1]
FLAG = re.compile(r"(?<![\w-])(?<!var\()--([a-z]\w*(?:[-.]\w+)*)(?!:)\b")
COMMAND = re.compile(r"(?<![-/\w.])mfvis (data [a-z]+|[a-z]+)(?= --| [A-Z]{2,}\b| [\w/]+\.[a-z0-9]+|`)")
OTHER_PROGRAMS = {
    *("force-reinstall", "no-deps", "upgrade", "array", "output", "gpus", "parsable", "wrap", "dependency"),
    *("nproc-per-node", "nproc_per_node", "nnodes", "node-rank", "rdzv-backend", "rdzv-endpoint", "rdzv-id"),
    *("standalone", "multi_gpu", "num_processes"),
}
"""Flags of pip, Slurm, torchrun and accelerate."""
BENCHMARK_COMMAND = re.compile(r"python benchmarks/\S+\.py[^`\n#]*")
BENCHMARK_FLAGS = {
    flag for file in DOCS.glob("benchmarks/*.py") for flag in re.findall(r'"--([a-z][a-z-]*)"', file.read_text("utf-8"))
}
EVERY_COMMAND = {"help", "preset", "dry-run", "version"}


def flags_of(cls: type, prefix: str = "") -> set[str]:
    hints = typing.get_type_hints(cls)
    flags = set()
    for field in dataclasses.fields(cls):
        kind, name = hints[field.name], field.name.replace("_", "-")
        flags |= flags_of(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name}
        flags |= {f"{prefix}no-{name}"} if kind is bool else set()
    return flags


ALL_FLAGS = {flag for command in COMMANDS.values() if command.config for flag in flags_of(_load(command.config))}


def texts() -> list[tuple[str, str]]:
    """Every text of the package, with its file; parts of f-strings are joined by a blank."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else " X " for part in node.values]
                found.append((file.name, "".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((file.name, node.value))
    if (DOCS / "README.md").is_file():
        found += [
            (file.name, file.read_text(encoding="utf-8")) for file in [DOCS / "README.md", *DOCS.glob("docs/*.md")]
        ]
    return found


def test_every_flag_exists() -> None:
    unknown = {
        (file, flag)
        for file, text in texts()
        for flag in FLAG.findall(BENCHMARK_COMMAND.sub("", text))
        if flag not in ALL_FLAGS | OTHER_PROGRAMS | EVERY_COMMAND
        and not any(known.startswith(f"{flag}.") for known in ALL_FLAGS)
    }
    assert unknown == set()


@pytest.mark.skipif(not BENCHMARK_FLAGS, reason="no benchmarks next to the package")
def test_every_flag_of_a_benchmark_exists() -> None:
    commands = [command for _, text in texts() for command in BENCHMARK_COMMAND.findall(text)]
    assert any("--" in command for command in commands)
    known = BENCHMARK_FLAGS | ALL_FLAGS  # bench_label.py passes flags on to mfvis label
    assert {flag for command in commands for flag in FLAG.findall(command)} <= known


def test_every_command_exists() -> None:
    named = {(file, command) for file, text in texts() for command in COMMAND.findall(text)}
    assert len(named) > 20
    assert {(file, command) for file, command in named if command not in COMMANDS} == set()


@pytest.mark.parametrize("text", ["run --no-such-flag", "mfvis data nothing --out x"])
def test_the_patterns_find_what_does_not_exist(text: str) -> None:
    assert set(FLAG.findall(text)) - ALL_FLAGS or set(COMMAND.findall(text)) - COMMANDS.keys()
