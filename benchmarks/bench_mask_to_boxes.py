from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Case, close, main

import mfvis_ext
from mfvis_ext.reference.mask_to_boxes import mask_to_boxes as reference


def arguments(instances: int) -> dict[str, Any]:
    """Discs of random place and radius, as masks are: compact, much background."""
    generator = torch.Generator().manual_seed(0)
    x, y, radius = (torch.rand(3, instances, 5, 1, 1, generator=generator) * 40 + 30).unbind()
    rows, columns = torch.arange(120.0)[:, None], torch.arange(216.0)
    return {"mask_logits": (radius - ((columns - x) ** 2 + (rows - y) ** 2).sqrt()) / 4}


CASES = [
    Case(
        name=f"N {instances}, T 5, 120x216",
        make=partial(arguments, instances),
        ours=mfvis_ext.mask_to_boxes,
        baseline=reference,
        agree=close,
        bytes_moved=lambda made: made["mask_logits"].nbytes,
        quick=instances == 10,
    )
    for instances in (10, 100)
]

if __name__ == "__main__":
    main(__file__, CASES)
