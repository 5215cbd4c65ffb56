"""The floor of pairwise_loss: every unordered pair of neighbors once, 4 per pixel of the boxes instead of 8.

The forward pass needs an exponential, a logarithm and a division per pair, some 40 operations; the backward pass an
exponential and a division. With boxes of about 11 % of the frame, N 10 and T 5 that is 0.6 million pairs, 40 MFLOP:
under 1 ms on two cores. Logits in, gradient out: 10 MB, mostly the gradient's zeros.
"""

from __future__ import annotations

from dataclasses import astuple

import torch
from harness import Case, main, variants
from inputs import Setting, generator, moving_clip, random_boxes, random_logits

import mfvis_ext
from mfvis_ext.reference.pairwise_loss import pairwise_loss as reference


def cases_of(setting: Setting) -> list[Case]:
    frames, height, width, instances, *_ = astuple(setting)

    def make():
        seeded = generator()
        return {
            "mask_logits": random_logits(seeded, instances, frames, height, width),
            "frames": moving_clip(seeded, frames, height, width),
            "boxes": random_boxes(seeded, instances, frames, height, width),
            "video_index": torch.zeros(instances, dtype=torch.int64),
        }

    case = Case(
        make=make,
        ours=mfvis_ext.pairwise_loss,
        reference=reference,
        bytes_moved=lambda made: made["mask_logits"].nbytes,
        operations=lambda made: 0.11 * made["mask_logits"].numel() * 4 * 40,
        reference_bytes=instances * frames * height * width * 8 * 4 * 4,
        setting=setting,
    )
    return variants(case, passes=3)


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "instances"))
