"""A whole box-only training step with our operators and with their plain-PyTorch definitions: time and peak memory.

The model, the criterion and the numbers are the same; only the calls of `mfvis_ext` are replaced. On
CUDA Mask2Former with a ResNet-50, 2 clips of 5 frames of 480x864 with 10 objects each; on the CPU the small model of
the demo, 2 clips of 3 frames of 192x320 with 3 objects each. A step is the forward pass, all losses over all decoder
layers, and the backward pass.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from harness import RETURN_ALL, check_options, peak_in_this_process, take_turns
from inputs import generator, moving_clip
from machine import gpu_state, machine
from mfvis.demo.config import DemoConfig
from mfvis.grid import STRIDE
from mfvis.losses.config import LossConfig, PairwiseConfig, TemporalConfig
from mfvis.losses.criterion import Criterion
from mfvis.models import deformable_attention
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import build, load_preset
from mfvis.types import Batch, ClipOrigin
from report import add_out, write

import mfvis_ext


@dataclass(frozen=True)
class Sizes:
    clips: int
    frames: int
    height: int
    width: int
    objects: int
    """Objects of each clip."""


SMALL = build(DemoConfig, load_preset("demo"), "the demo's preset").model
ON = {
    "cpu": (SMALL, Sizes(2, 3, 192, 320, 3)),
    "cuda": (ModelConfig(backbone=BackboneConfig(name="resnet50")), Sizes(2, 5, 480, 864, 10)),
}
LOSSES = LossConfig(temporal=TemporalConfig(warmup=0), pairwise=PairwiseConfig(warmup=0))
REPLACED = ("rgb_to_lab", "pairwise_loss_terms", "box_projection_loss", "mask_to_boxes", "box_tube_dice")
IN_TK_LOSS = ("temporal_topk", "match_weight", "tk_loss_terms")


def reference_of(name: str) -> Callable[..., Any]:
    """The plain-PyTorch definition of an operator; `tk_loss_terms` shares a module with `tk_loss`."""
    return getattr(importlib.import_module(f"mfvis_ext.reference.{name.removesuffix('_terms')}"), name)


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    """Within, the losses and the pixel decoder compute by `mfvis_ext.reference`."""
    with (
        mock.patch.multiple(mfvis_ext, **{name: reference_of(name) for name in REPLACED}),
        mock.patch.multiple(mfvis_ext.modules, **{name: reference_of(name) for name in IN_TK_LOSS}),
        mock.patch.object(deformable_attention, "ms_deform_attn", reference_of("ms_deform_attn")),
    ):
        yield


def batch_of(sizes: Sizes) -> Batch:
    """Moving pictures with boxes that move along. They move by cells of the mask grid: between cells nothing would be
    found again, and matches that weigh nothing cost our operators nothing."""
    seeded = generator()
    height, width = sizes.height // STRIDE, sizes.width // STRIDE
    cells = torch.cat([moving_clip(seeded, sizes.frames, height, width) for _ in range(sizes.clips)])
    pictures = cells.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)
    count = sizes.clips * sizes.objects
    size = torch.tensor([sizes.width, sizes.height])
    corner = torch.rand(count, 1, 2, generator=seeded) * 0.6 * size
    extent = (torch.rand(count, 1, 2, generator=seeded) * 0.2 + 0.15) * size
    moved = corner + 4 * torch.arange(sizes.frames)[None, :, None]
    return Batch(
        frames_BTCHW=(2 * pictures).clamp(0, 255).byte(),
        boxes_NT4=torch.cat([moved, moved + extent], -1),
        labels_N=torch.randint(40, (count,), generator=seeded),
        video_index_N=torch.arange(sizes.clips).repeat_interleave(sizes.objects),
        masks_NTHW=None,
        sizes_B2=torch.tensor([[sizes.height, sizes.width]] * sizes.clips),
        clips=tuple(ClipOrigin(n, tuple(range(sizes.frames)), tuple(range(sizes.objects))) for n in range(sizes.clips)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=tuple(ON), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add_out(parser)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_options(parser, options)
    torch.set_num_threads(options.threads)
    config, sizes = ON[options.device]
    torch.manual_seed(0)
    model = VideoMask2Former(config, 40).to(options.device)
    criterion, batch = Criterion(LOSSES, 40), batch_of(sizes).to(options.device)

    def ours() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        terms = criterion(model(batch.frames_BTCHW), batch, 0)
        terms.total.backward()
        return {name: value.detach() for name, value in vars(terms).items()}

    def plain() -> dict[str, torch.Tensor]:
        with plain_pytorch():
            return ours()

    sides = {"ours": ours, "plain PyTorch": plain}
    if options.peak:
        print(peak_in_this_process(sides[options.peak]))
        return
    torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-3)
    rows = {}
    times = take_turns(list(sides.values()), options.rounds, 240, options.device)
    for (name, run), measured in zip(sides.items(), times, strict=True):
        if options.device == "cpu":  # in a process of its own, which returns what it frees
            command = [sys.executable, __file__, "--threads", str(options.threads), "--peak", name]
            environment = os.environ | RETURN_ALL
            peak = float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        else:
            torch.cuda.reset_peak_memory_stats()
            run()
            peak = torch.cuda.max_memory_allocated() / 2**20
        rows[name] = {"best_ms": 1e3 * min(measured), "median_ms": 1e3 * statistics.median(measured), "peak_mb": peak}
    where = machine(options.threads) | (gpu_state() if options.device != "cpu" else {})
    model_text = f"{config.backbone.name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    lines = [
        f"# A training step: {model_text}",
        "",
        f"{sizes.clips} clips of {sizes.frames} frames of {sizes.height}x{sizes.width}, {sizes.objects} objects each",
        "",
        *(f"* {name}: {value}" for name, value in where.items()),
        "",
        "| operators | ms: best | median | peak memory, MB |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {r['best_ms']:.0f} | {r['median_ms']:.0f} | {r['peak_mb']:.0f} |" for name, r in rows.items()),
        "",
        f"{rows['plain PyTorch']['best_ms'] / rows['ours']['best_ms']:.1f}x faster (best), "
        f"{rows['ours']['peak_mb'] / rows['plain PyTorch']['peak_mb']:.0%} of the memory; float32.",
    ]
    print("\n".join(lines))
    if options.out:
        write(options.out / "bench_step.md", "\n".join(lines) + "\n")
        record = {"machine": where, "model": model_text, "sizes": asdict(sizes), "rows": rows}
        write(options.out / "bench_step.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
