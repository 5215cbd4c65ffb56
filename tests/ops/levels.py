"""`python levels.py FILE`, MFVIS_CPU_LEVEL set: every operator's results, into FILE, or compared with what it has."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from ladder import FLOAT, Ladder, tensors_of


def main(file: Path) -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(path.stem)
    expected = torch.load(file, weights_only=True) if file.exists() else None
    results = {}
    for climber in (operator() for operator in Ladder.__subclasses__()):
        # The dtypes, other kernels' sizes, and what is repeatable on a GPU that otherwise is not.
        runs = [*((dtype, {}, False) for dtype in climber.dtypes)]
        runs += [*((FLOAT, sizes, False) for sizes in climber.other_kernels), (FLOAT, {}, True)]
        for run, (dtype, sizes, deterministic) in enumerate(runs):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            arguments = climber.make(dtype, **sizes)
            outputs, gradients = climber.gradients(climber.function, arguments)
            outputs = tuple(output.detach() for output in tensors_of(outputs))
            results[climber.name, run] = outputs, gradients
            if expected is None:
                continue
            expected_outputs, expected_gradients = expected.pop((climber.name, run))
            climber.compare(outputs, expected_outputs, arguments)
            for ours, theirs in zip(gradients, expected_gradients, strict=True):
                torch.testing.assert_close(ours, theirs, **climber.tolerance(ours.dtype))
    assert results and not expected
    if expected is None:
        torch.save(results, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
