"""The floor of box_tube_dice: 10 operations per pair of tubes and frame, and what it costs to call an operator."""

from __future__ import annotations

import torch
from harness import Case, main
from inputs import Setting, generator

import mfvis_ext
from mfvis_ext.reference.box_tube_dice import box_tube_dice as reference


def case_of(queries: int, instances: int, frames: int) -> Case:
    def make():
        corners = torch.rand(queries + instances, frames, 2, 2, generator=generator()) * 200
        boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
        return {"boxes_a": boxes[:queries], "boxes_b": boxes[queries:]}

    return Case(
        size=f"A {queries}, B {instances}, T {frames}",
        make=make,
        ours=mfvis_ext.box_tube_dice,
        reference=reference,
        bytes_moved=lambda made: made["boxes_a"].nbytes + made["boxes_b"].nbytes + 4 * queries * instances,
        operations=lambda made: 10 * queries * instances * frames,
    )


def cases_of(setting: Setting) -> list[Case]:
    return [case_of(100, setting.instances, setting.frames), case_of(1000, 100, 36)]


if __name__ == "__main__":
    main(__file__, cases_of)
