"""The floor of rgb_to_lab: three powers and three cube roots per output pixel, some 200 operations; the bytes are few.

The images are four times the setting's size, as those are whose masks have that size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Case, close, main
from inputs import Setting, generator

import mfvis_ext
from mfvis_ext.reference.rgb_to_lab import rgb_to_lab as reference


def bytes_moved(made: dict[str, Any]) -> float:
    return made["images"].numel() * (1 + 4 / made["downsample"] ** 2)


def cases_of(setting: Setting) -> list[Case]:
    shape = (setting.frames, 3, 4 * setting.height, 4 * setting.width)
    return [
        Case(
            kind=f"uint8, downsample {downsample}",
            make=lambda downsample=downsample: {
                "images": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator()),
                "downsample": downsample,
            },
            ours=mfvis_ext.rgb_to_lab,
            reference=reference,
            bytes_moved=bytes_moved,
            operations=lambda made: made["images"].numel() / 3 * 200 / made["downsample"] ** 2,
            agree=partial(close, atol=2e-4),  # LAB has values up to 100; see the operator's test
            setting=setting,
        )
        for downsample in (1, 4)
    ]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("size",))
