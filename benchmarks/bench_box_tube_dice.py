from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Case, close, main

import mfvis_ext
from mfvis_ext.reference.box_tube_dice import box_tube_dice as reference


def arguments(count_a: int, count_b: int, frames: int) -> dict[str, Any]:
    corners = torch.rand(count_a + count_b, frames, 2, 2, generator=torch.Generator().manual_seed(0)) * 200
    boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
    return {"boxes_a": boxes[:count_a], "boxes_b": boxes[count_a:]}


CASES = [
    Case(
        name=f"A {count_a}, B {count_b}, T {frames}",
        make=partial(arguments, count_a, count_b, frames),
        ours=mfvis_ext.box_tube_dice,
        baseline=reference,
        agree=close,
        bytes_moved=lambda made: (
            made["boxes_a"].nbytes + made["boxes_b"].nbytes + 4 * len(made["boxes_a"]) * len(made["boxes_b"])
        ),
    )
    for count_a, count_b, frames in ((100, 10, 5), (1000, 100, 36))
]

if __name__ == "__main__":
    main(__file__, CASES)
