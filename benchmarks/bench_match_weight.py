"""The floor of match_weight: memory. Distances in, weights out: 5 MB at the usual sizes."""

from __future__ import annotations

import torch
from harness import Case, main
from inputs import Setting, generator

import mfvis_ext
from mfvis_ext.reference.match_weight import match_weight as reference


def cases_of(setting: Setting) -> list[Case]:
    shape = (1, setting.frames, setting.k, setting.height, setting.width)
    return [
        Case(
            kind=f"weighted={weighted}",
            make=lambda weighted=weighted: {
                "distance": 12 * torch.rand(shape, generator=generator()),
                "weighted": weighted,
            },
            ours=mfvis_ext.match_weight,
            reference=reference,
            bytes_moved=lambda made: 2 * made["distance"].nbytes,
            setting=setting,
        )
        for weighted in (False, True)
    ]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("size",))
