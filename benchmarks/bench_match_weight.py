from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Case, close, main

import mfvis_ext
from mfvis_ext.reference.match_weight import match_weight as reference


def arguments(weighted: bool) -> dict[str, Any]:
    distance = 12 * torch.rand(1, 5, 5, 120, 216, generator=torch.Generator().manual_seed(0))
    return {"distance": distance, "weighted": weighted}


CASES = [
    Case(
        name=f"P 5, K 5, 120x216, weighted={weighted}",
        make=partial(arguments, weighted),
        ours=mfvis_ext.match_weight,
        baseline=reference,
        agree=close,
        bytes_moved=lambda made: 2 * made["distance"].nbytes,
    )
    for weighted in (False, True)
]

if __name__ == "__main__":
    main(__file__, CASES)
