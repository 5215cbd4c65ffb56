"""Random shapes, dtypes, strides and arguments against the reference, and random mistakes against the checks.

MFVIS_FUZZ is the number of cases per operator: some here, 300 in `make gpu-check`, 2,000 whenever you like. Every case
has its own seed, which a failure names.
"""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from ladder import DEVICE, REFUSED, Ladder, reference_of, strided
from torch import Tensor

for path in sorted(Path(__file__).parent.glob("test_*.py")):
    if path.stem != "test_fuzz":
        importlib.import_module(path.stem)

CASES = int(os.environ.get("MFVIS_FUZZ", "60"))
CLIMBERS = sorted((climber() for climber in Ladder.__subclasses__()), key=lambda climber: climber.name)
every_operator = pytest.mark.parametrize("climber", CLIMBERS, ids=lambda climber: climber.name)


def sizes_of(climber: Ladder, chance: random.Random) -> dict[str, int]:
    """Within the operator's ranges; every other case keeps to their lower halves, where the edges are."""
    small = chance.random() < 0.5
    return {
        axis: chance.randint(low, max(low, (low + high) // 2) if small else high)
        for axis, (low, high) in climber.ranges.items()
    }


@every_operator
def test_any_case(climber):
    for seed in range(CASES):
        chance = random.Random(f"{climber.name} {seed}")
        arguments = climber.make(chance.choice(climber.dtypes), seed, **sizes_of(climber, chance))
        for name, value in arguments.items():
            if isinstance(value, Tensor) and chance.random() < 0.3:
                arguments[name] = strided(value.detach()).requires_grad_(value.requires_grad)
        try:
            climber.agree(arguments)
        except Exception as error:
            shapes = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in arguments.items()}
            raise AssertionError(f"case {seed} of {climber.name}, {shapes}") from error


def mistaken(value: Any, chance: random.Random) -> Any:
    """Something else in the place of an argument: often wrong, sometimes not."""
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


def refused_for_values(climber: Ladder, arguments: dict[str, Any]) -> bool:
    """By the CPU. On a GPU nobody looks, and indices that name nothing end the reference there, and CUDA with it."""
    try:
        climber.function(**{n: v.cpu() if isinstance(v, Tensor) else v for n, v in arguments.items()})
    except REFUSED as error:
        return climber.about_values in str(error)
    return False


@every_operator
def test_any_mistake(climber):
    """One argument is replaced. Either an error names the operator, or the result is the reference's."""
    refused = 0
    for seed in range(CASES):
        chance = random.Random(f"mistake {climber.name} {seed}")
        arguments = climber.make(climber.dtypes[-1], seed, **sizes_of(climber, chance))
        name = chance.choice([n for n, v in arguments.items() if v is not None])
        arguments[name] = mistaken(arguments[name], chance)
        told = f"case {seed} of {climber.name}: {name} is " + (
            f"{arguments[name].dtype} {tuple(arguments[name].shape)}"
            if isinstance(arguments[name], Tensor)
            else repr(arguments[name])
        )
        if DEVICE != "cpu" and refused_for_values(climber, arguments):
            continue
        try:
            outputs = climber.function(**arguments)
        except REFUSED as error:
            assert f"mfvis::{climber.name}" in str(error), told
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"{told}: not refused by a check") from error
        try:
            climber.compare(outputs, reference_of(climber.name)(**arguments), arguments)
        except Exception as error:
            raise AssertionError(f"{told}: accepted, but not as the reference") from error
    assert refused > CASES / 10
