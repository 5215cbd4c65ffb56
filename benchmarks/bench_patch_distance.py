"""The floor of patch_distance is the volume it returns: 4 bytes per pixel and candidate, 63 MB for 5 frames of 120x216.

In addition, some 12 operations each: 3 squared differences, 4 additions (a separable 3x3 sum) and a root. The backward
pass reads the volume and its gradient once for each of the two frames, 16 bytes per pixel and candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial

from harness import Case, close, main, variants
from inputs import Setting, generator, moving_clip
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.patch_distance import patch_distance as reference


def summed(distances: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Infinite, because distances to beyond the frame are; the gradient of every finite one is 1."""
    return lambda **arguments: distances(**arguments).sum()


def cases_of(setting: Setting) -> list[Case]:
    frames, height, width, _, radius, _ = astuple(setting)
    candidates = (2 * radius + 1) ** 2
    volume = frames * height * width * candidates

    def make():
        (clip,) = moving_clip(generator(), frames, height, width)
        return {"target": clip.requires_grad_(), "source": clip.detach().roll(-1, 0).requires_grad_(), "radius": radius}

    case = Case(
        size=f"T {frames}, {height}x{width}, radius {radius}",
        make=make,
        ours=mfvis_ext.patch_distance,
        reference=reference,
        bytes_moved=lambda made: 2 * made["target"].nbytes + 4 * volume,
        operations=lambda made: 12 * volume,
        agree=partial(close, atol=2e-4),  # a gradient adds some thousand terms of either sign, each up to 1
        reference_bytes=3 * 27 * 4 * volume,
        setting=setting,
    )
    forward, both = variants(case, passes=5)
    return [forward, replace(both, ours=summed(mfvis_ext.patch_distance), reference=summed(reference))]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "radius"))
