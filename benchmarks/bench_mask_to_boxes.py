"""The floor of mask_to_boxes: memory. The logits are read once."""

from __future__ import annotations

from typing import Any

import torch
from harness import Case, main
from inputs import Setting, generator

import mfvis_ext
from mfvis_ext.reference.mask_to_boxes import mask_to_boxes as reference


def discs(setting: Setting) -> dict[str, Any]:
    """Logits of discs of random place and radius, as masks are: compact, much background."""
    sizes = torch.rand(3, setting.instances, setting.frames, 1, 1, generator=generator())
    x, y, radius = (sizes * setting.height / 3 + setting.height / 4).unbind()
    rows, columns = torch.arange(float(setting.height))[:, None], torch.arange(float(setting.width))
    return {"mask_logits": (radius - ((columns - x) ** 2 + (rows - y) ** 2).sqrt()) / 4}


def cases_of(setting: Setting) -> list[Case]:
    case = Case(
        make=lambda: discs(setting),
        ours=mfvis_ext.mask_to_boxes,
        reference=reference,
        bytes_moved=lambda made: made["mask_logits"].nbytes,
        setting=setting,
    )
    return [case]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("size", "instances"))
