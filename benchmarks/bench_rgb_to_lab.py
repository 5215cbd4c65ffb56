from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Case, close, main

import mfvis_ext
from mfvis_ext.reference.rgb_to_lab import rgb_to_lab as reference


def arguments(frames: int, height: int, width: int, downsample: int) -> dict[str, Any]:
    images = torch.randint(0, 256, (frames, 3, height, width), generator=torch.Generator().manual_seed(0))
    return {"images": images.to(torch.uint8), "downsample": downsample}


def bytes_moved(made: dict[str, Any]) -> int:
    images = made["images"]
    return images.numel() + 4 * images.numel() // made["downsample"] ** 2


CASES = [
    Case(
        name=f"uint8, T 5, 480x864, downsample {downsample}",
        make=partial(arguments, 5, 480, 864, downsample),
        ours=mfvis_ext.rgb_to_lab,
        baseline=reference,
        agree=partial(close, atol=2e-4),  # LAB has values up to 100; see the operator's test
        bytes_moved=bytes_moved,
    )
    for downsample in (1, 4)
]

if __name__ == "__main__":
    main(__file__, CASES)
