"""Damaged annotations and results: `mfvis eval` measures them or says what is wrong, and never ends otherwise."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from mfvis.errors import DataError
from mfvis.eval.config import EvalConfig
from mfvis.eval.run import run
from mots_cases import random_case, write_scalabel
from test_eval_reference import random_files

STRANGE = (None, True, -1, 0, 2**40, 1e300, float("nan"), "", "x", [], {}, [1, 2], 1.5)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in places(inner)]


def damaged(text: str, rng: random.Random) -> str:
    kind, place = rng.randrange(5), rng.randrange(len(text))
    if kind == 0:
        return text[:place]
    if kind == 1:
        return text[:place] + chr(rng.randrange(32, 126)) + text[place + 1 :]
    value = json.loads(text)
    for _ in range(rng.randrange(1, 3)):
        container, key = rng.choice(places(value) or [([0], 0)])
        if kind == 2:
            container[key] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 3:
            del container[key]
        else:
            container[key] = [container[key], copy.deepcopy(container[key])]
    return json.dumps(value)


@pytest.mark.parametrize("form", ["tracks", "scalabel"])
def test_250_damaged_files_are_measured_or_refused(form, tmp_path: Path):
    rng = random.Random(form)
    refused = 0
    for case in range(250):
        folder = tmp_path / str(case)
        folder.mkdir()
        paths = (
            random_files(folder, case % 9) if form == "tracks" else write_scalabel(folder, random_case(case % 9 + 5))
        )
        target = rng.choice(paths)
        target.write_text(damaged(target.read_text(), rng))
        try:
            run(EvalConfig(paths[1], str(paths[0])))
        except DataError as error:
            refused += 1
            assert error.problems and all(str(folder) in problem.file for problem in error.problems)
    assert refused > 100
