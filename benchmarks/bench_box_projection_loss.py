"""The floor of box_projection_loss: memory. The logits are read once, a gradient of zeros is written: 10 MB at N 10.

At 20 GB/s that is half a millisecond of two cores. What a fresh gradient's pages cost at their first touch comes on
top, and is the larger part unless they are huge pages: 1300 pages of 4 KB at 2 µs against two of 2 MB.
"""

from __future__ import annotations

from dataclasses import astuple

from harness import Case, main, variants
from inputs import Setting, generator, random_boxes, random_logits

import mfvis_ext
from mfvis_ext.reference.box_projection_loss import box_projection_loss as reference


def cases_of(setting: Setting) -> list[Case]:
    frames, height, width, instances, *_ = astuple(setting)

    def make():
        seeded = generator()
        return {
            "mask_logits": random_logits(seeded, instances, frames, height, width),
            "boxes": random_boxes(seeded, instances, frames, height, width),
        }

    case = Case(
        make=make,
        ours=mfvis_ext.box_projection_loss,
        reference=reference,
        bytes_moved=lambda made: made["mask_logits"].nbytes,
        setting=setting,
    )
    return variants(case, passes=2)  # backward reads no logits


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "instances"))
