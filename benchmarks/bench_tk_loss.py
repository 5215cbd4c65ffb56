"""The floor of tk_loss: only pixels inside the boxes count, about 15 % of the frame here.

Per counted pixel and match that weighs something the forward pass needs two exponentials, a logarithm and a division,
some 55 operations, and two gathers; the backward pass two exponentials, a division, the gathers and two scatters.
N 10, 5 pairs and k 5 make 0.2 million such matches out of 0.65 million that have to be read: 11 MFLOP, 0.3 ms of one
core, and as much again for the gathers. Offsets and weights, 3.9 MB, are read twice, the logits in part; a gradient of
5 MB, mostly zeros, is written: half a millisecond of two cores at 20 GB/s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import torch
from harness import Case, main, variants
from inputs import Setting, generator, moving_clip, random_boxes, random_logits
from torch import Tensor

import mfvis_ext
from mfvis_ext.reference.match_weight import match_weight as reference_weight
from mfvis_ext.reference.temporal_topk import temporal_topk as reference_topk
from mfvis_ext.reference.tk_loss import tk_loss as reference

LAYERS = 10
"""Outputs of the decoder whose masks go through the loss together."""
GOAL = Setting(instances=20)
"""On a GPU: matching and loss of all layers for the instances of two clips together, below half a millisecond."""


def inputs(setting: Setting, layers: int, clips: int = 1) -> dict[str, Any]:
    """Arguments of the losses of `layers` decoder layers on `clips` clips, with `instances` instances in total."""
    frames, height, width, instances, *_ = astuple(setting)
    seeded = generator()
    return {
        "frames": torch.cat([moving_clip(seeded, frames, height, width) for _ in range(clips)]),
        "mask_logits": random_logits(seeded, layers * instances, frames, height, width),
        "pairs": mfvis_ext.tube_pairs(frames),
        "boxes": random_boxes(seeded, instances, frames, height, width).repeat(layers, 1, 1),
        "video_index": (torch.arange(instances) * clips // instances).repeat(layers),
        "radius": setting.radius,
        "k": setting.k,
    }


def matched(frames: Tensor, pairs: Tensor, radius: int, k: int, **others: Any) -> dict[str, Any]:
    """The same after matching."""
    distance, offset = mfvis_ext.temporal_topk(frames, pairs, radius=radius, k=k)
    weight = mfvis_ext.match_weight(distance)
    return {"offset": offset, "weight": weight, "pairs": pairs, "radius": radius, **others}


def step(topk: Callable, weigh: Callable, loss: Callable) -> Callable[..., Tensor]:
    """Everything that a training step does: what the peak of the memory is about."""

    def run(frames, mask_logits, pairs, boxes, video_index, radius, k) -> Tensor:
        distance, offset = topk(frames, pairs, radius=radius, k=k)
        return loss(mask_logits, offset, weigh(distance), pairs, boxes, video_index, radius)

    return run


def losses(setting: Setting, make: Callable[[], dict[str, Any]], size: str = "") -> list[Case]:
    """The loss, and matching with it, of what `make` returns."""
    loss = Case(
        make=lambda: matched(**make()),
        ours=mfvis_ext.tk_loss,
        reference=reference,
        bytes_moved=lambda made: made["mask_logits"].nbytes + made["offset"].nbytes + made["weight"].nbytes,
        operations=lambda made: 0.15 * len(made["boxes"]) * float((made["weight"] != 0).sum()) * 55,
        setting=setting,
        size=size,
    )
    return variants(loss, passes=2)


def steps(what: str, setting: Setting, make: Callable[[], dict[str, Any]]) -> Case:
    return Case(
        kind=f"matching + loss forward + backward, {what}",
        make=make,
        ours=step(mfvis_ext.temporal_topk, mfvis_ext.match_weight, mfvis_ext.tk_loss),
        reference=step(reference_topk, reference_weight, reference),
        bytes_moved=lambda made: made["frames"].nbytes + 3 * made["mask_logits"].nbytes,
        differentiate=True,
        setting=setting,
        quick=False,
    )


def cases_of(setting: Setting) -> list[Case]:
    cases = losses(setting, lambda: inputs(setting, 1))
    if setting == Setting():
        for layers in (1, LAYERS):
            cases.append(steps(f"{layers} decoder layers", setting, lambda layers=layers: inputs(setting, layers)))
    if setting == GOAL:
        cases.append(steps(f"B 2, {LAYERS} decoder layers", setting, lambda: inputs(setting, LAYERS, clips=2)))
    return cases


def replay(content: dict[str, Any]) -> list[Case]:
    """A batch that a training kept: its frames, boxes and videos; the logits, which it has none of, are random."""
    lab = mfvis_ext.rgb_to_lab(content["frames_BTCHW"], 4)
    videos, frames, _, height, width = lab.shape
    boxes = content["boxes_NT4"] / 4
    setting = Setting(frames=frames, height=height, width=width, instances=len(boxes))

    def make():
        return {
            "frames": lab,
            "mask_logits": random_logits(generator(), LAYERS * len(boxes), frames, height, width),
            "pairs": mfvis_ext.tube_pairs(frames),
            "boxes": boxes.repeat(LAYERS, 1, 1),
            "video_index": content["video_index_N"].repeat(LAYERS),
            "radius": setting.radius,
            "k": setting.k,
        }

    many = f"B {videos}, {LAYERS} decoder layers"
    cases = [*losses(setting, make, f"{many}, {setting}"), steps(many, setting, make)]
    return [replace(case, quick=True) for case in cases]


if __name__ == "__main__":
    main(__file__, cases_of, axes=("frames", "size", "instances", "radius", "k"), replay=replay)
