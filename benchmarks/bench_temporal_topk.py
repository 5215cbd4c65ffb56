"""The floor of temporal_topk: 13 operations per pixel, pair and candidate.

Those are 3 squared differences, 4 additions (a separable 3x3 sum) and one comparison with the worst of the k kept: 0.2
GFLOP for 5 pairs of 120x216 at radius 5, so 2 ms on two cores of 50 GFLOP/s. The insertion, 5 operations for each of
the k, costs more than that. Frames in, distances and offsets out: 5.4 MB, nothing beside that.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Case, main
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.temporal_topk import temporal_topk as reference


def arguments(frames: int, height: int, width: int) -> dict[str, Any]:
    """A textured picture that moves by a pixel per frame, with noise: most candidates are bad, as in a video."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator) * 60
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    clip = torch.stack([picture.roll((t, -t), (1, 2)) for t in range(frames)])
    noisy = clip + 0.5 * torch.randn(clip.shape, generator=generator)
    return {"frames": noisy[None], "pairs": mfvis_ext.tube_pairs(frames)}


def agree(ours: tuple[Tensor, Tensor], baseline: tuple[Tensor, Tensor]) -> None:
    """Offsets may differ where two distances are equal but for rounding."""
    torch.testing.assert_close(ours[0], baseline[0], rtol=1e-5, atol=1e-4)
    assert (ours[1] == baseline[1]).float().mean() > 0.999


def case_of(name: str, quick: bool, sizes: tuple[int, int, int], **window: int) -> Case:
    return Case(
        name=name,
        make=lambda: {**arguments(*sizes), **window},
        ours=mfvis_ext.temporal_topk,
        baseline=reference,
        agree=agree,
        bytes_moved=lambda made: made["frames"].nbytes + len(made["pairs"]) * sizes[1] * sizes[2] * window["k"] * 6,
        quick=quick,
    )


if __name__ == "__main__":
    main(
        __file__,
        [
            case_of("T 5, 120x216, radius 5, k 5", True, (5, 120, 216), radius=5, k=5),
            case_of("T 5, 120x216, radius 1, dilation 3, k 5", True, (5, 120, 216), radius=1, dilation=3, k=5),
            case_of("T 3, 96x160, radius 8, k 9", False, (3, 96, 160), radius=8, k=9),
        ],
    )
