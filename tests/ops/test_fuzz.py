"""Random shapes, dtypes, strides and arguments against the reference, and random mistakes against the checks.

MFVIS_FUZZ is the number of cases per operator: few by default, 300 in `make gpu-check`. Every case has its own
seed, which a failure reports.
"""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_tests import DEVICE, REFUSED, OperatorTests, strided
from torch import Tensor

for path in sorted(Path(__file__).parent.glob("test_*.py")):
    if path.stem != "test_fuzz":
        importlib.import_module(path.stem)

CASES = int(os.environ.get("MFVIS_FUZZ", "60"))
OPERATORS = sorted((op() for op in OperatorTests.__subclasses__()), key=lambda op: op.name)
every_operator = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)


def sizes_of(op: OperatorTests, chance: random.Random) -> dict[str, int]:
    """Sizes within the operator's ranges; half of the cases use their lower halves, where the edge cases are."""
    small = chance.random() < 0.5
    return {
        axis: chance.randint(low, max(low, (low + high) // 2) if small else high)
        for axis, (low, high) in op.ranges.items()
    }


@every_operator
def test_any_case(op):
    for seed in range(CASES):
        chance = random.Random(f"{op.name} {seed}")
        arguments = op.make(chance.choice(op.dtypes), seed, **sizes_of(op, chance))
        for name, value in arguments.items():
            if isinstance(value, Tensor) and chance.random() < 0.3:
                arguments[name] = strided(value.detach()).requires_grad_(value.requires_grad)
        try:
            op.agree(arguments)
        except Exception as error:
            shapes = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in arguments.items()}
            raise AssertionError(f"case {seed} of {op.name}, {shapes}") from error


def mistaken(value: Any, chance: random.Random) -> Any:
    """A replacement for an argument, which is often invalid."""
    if isinstance(value, Tensor):
        axis = chance.randrange(value.dim()) if value.dim() else None
        changes = [
            lambda: value.detach()[None],
            lambda: value.detach().to(chance.choice([torch.int32, torch.bool, torch.float64, torch.complex64])),
        ]
        if axis is not None:
            changes += [
                lambda: value.detach().select(axis, 0) if value.shape[axis] else value.detach()[None],
                lambda: torch.cat([value.detach(), value.detach().narrow(axis, 0, min(1, value.shape[axis]))], axis),
                lambda: value.detach().narrow(axis, 0, value.shape[axis] // 2),
            ]
        return chance.choice(changes)()
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([-1, 0, 1, 2, 3])
    if isinstance(value, float):
        return chance.choice([-1.0, 0.0, 0.5, 1e30, float("nan"), float("inf")])
    return chance.choice(["", "no such name"]) if isinstance(value, str) else value


def refused_for_values(op: OperatorTests, arguments: dict[str, Any]) -> bool:
    """True if the CPU refuses the values, which a GPU does not check; there invalid indices abort the reference."""
    try:
        op.function(**{n: v.cpu() if isinstance(v, Tensor) else v for n, v in arguments.items()})
    except REFUSED as error:
        return op.about_values in str(error)
    return False


@every_operator
def test_any_mistake(op):
    """With one argument replaced, either an error names the operator, or the result equals the reference's."""
    refused = 0
    for seed in range(CASES):
        chance = random.Random(f"mistake {op.name} {seed}")
        arguments = op.make(op.dtypes[-1], seed, **sizes_of(op, chance))
        name = chance.choice([n for n, v in arguments.items() if v is not None])
        arguments[name] = mistaken(arguments[name], chance)
        described = f"case {seed} of {op.name}: {name} is " + (
            f"{arguments[name].dtype} {tuple(arguments[name].shape)}"
            if isinstance(arguments[name], Tensor)
            else repr(arguments[name])
        )
        if DEVICE != "cpu" and refused_for_values(op, arguments):
            continue
        try:
            outputs = op.function(**arguments)
        except REFUSED as error:
            assert any(f"mfvis::{name}" in str(error) for name in op.operators), described
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"{described}: not refused by a check") from error
        try:
            op.compare(outputs, op.reference(**arguments), arguments)
        except Exception as error:
            raise AssertionError(f"{described}: accepted, but the result differs from the reference") from error
    assert refused > CASES / 10
