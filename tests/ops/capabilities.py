"""`python capabilities.py FILE`: write every operator's results to FILE, or compare with those in it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from operator_tests import FLOAT, OperatorTests, tensors_of


def main(file: Path) -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(path.stem)
    expected = torch.load(file, weights_only=True) if file.exists() else None
    results = {}
    for op in (operator() for operator in OperatorTests.__subclasses__()):
        # The dtypes, the sizes for other kernels, and the deterministic variants.
        runs = [*((dtype, {}, False) for dtype in op.dtypes)]
        runs += [*((FLOAT, sizes, False) for sizes in op.other_kernels), (FLOAT, {}, True)]
        for run, (dtype, sizes, deterministic) in enumerate(runs):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            arguments = op.make(dtype, **sizes)
            outputs, gradients = op.gradients(op.function, arguments)
            outputs = tuple(output.detach() for output in tensors_of(outputs))
            results[op.name, run] = outputs, gradients
            if expected is None:
                continue
            expected_outputs, expected_gradients = expected.pop((op.name, run))
            op.compare(outputs, expected_outputs, arguments)
            for ours, theirs in zip(gradients, expected_gradients, strict=True):
                torch.testing.assert_close(ours, theirs, **op.tolerance(ours.dtype))
    assert results and not expected
    if expected is None:
        torch.save(results, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
