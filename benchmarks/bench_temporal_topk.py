"""The floor of temporal_topk: 13 operations per pixel, pair and candidate.

Those are 3 squared differences, 4 additions (a separable 3x3 sum) and one comparison with the worst of the k kept: 0.2
GFLOP for 5 pairs of 120x216 at radius 5, so 2 ms on two cores of 50 GFLOP/s. An insertion, 5 operations for each of
the k, comes on top; most candidates of a video need none. Frames in, distances and offsets out are 5.4 MB, which
takes next to no time.

The reference unfolds the patches of all candidates at once. Nine tenths of its time is that; that it sorts all
candidates, to have ties in order, instead of taking the k smallest is the rest.
"""

from __future__ import annotations

from dataclasses import astuple, replace

import torch
from harness import Case, main
from inputs import Setting, generator, moving_clip
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.temporal_topk import temporal_topk as reference


def agree(ours: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> None:
    """Offsets may differ where two distances are equal but for rounding."""
    torch.testing.assert_close(ours[0], reference[0], rtol=1e-5, atol=1e-3)
    assert (ours[1] == reference[1]).float().mean() > 0.999


def case_of(setting: Setting, dilation: int = 1) -> Case:
    frames, height, width, _, radius, k = astuple(setting)
    pixels, candidates = frames * height * width, (2 * radius + 1) ** 2

    def make():
        return {
            "frames": moving_clip(generator(), frames, height, width),
            "pairs": mfvis_ext.tube_pairs(frames),
            "radius": radius,
            "dilation": dilation,
            "k": k,
        }

    return Case(
        make=make,
        ours=mfvis_ext.temporal_topk,
        reference=reference,
        bytes_moved=lambda made: made["frames"].nbytes + pixels * k * 6,
        operations=lambda made: 13 * pixels * candidates,
        agree=agree,
        reference_bytes=3 * 27 * candidates * height * width * 4,
        setting=setting,
    )


def cases_of(setting: Setting) -> list[Case]:
    if setting != Setting():
        return [case_of(setting)]
    # The nine candidates of the paper's released code.
    nine = case_of(Setting(radius=1), dilation=3)
    return [case_of(setting), replace(nine, kind="nine candidates", size="T 5, 120x216, radius 1, dilation 3, k 5")]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "radius", "k"))
