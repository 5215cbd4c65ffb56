"""A whole box-only training step of both model families, with our operators and with their plain-PyTorch definitions:
time and peak memory.

The model, the criterion and the numbers are the same; only the calls of `mfvis_ext` are replaced. On CUDA a ResNet-50
and 2 clips of 5 frames of 480x864 with 10 objects each; on the CPU the small model of the demo, 2 clips of 3 frames of
192x320 with 3 objects each. `--backbone resnet50` takes the ResNet-50 with the sizes of the paper's models there, too.
A step is the forward pass, all losses over all decoder layers, and the backward pass.
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
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import torch
from harness import RETURN_ALL, check_options, peak_in_this_process, take_turns
from inputs import generator, moving_clip
from machine import gpu_state, machine
from mfvis.demo.config import DemoConfig
from mfvis.grid import STRIDE
from mfvis.losses.config import LossConfig
from mfvis.losses.criterion import Criterion
from mfvis.losses.pairwise import PairwiseConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.models import deformable_attention
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.video_model import MODELS, build_model
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


SIZES = {"cpu": Sizes(2, 3, 192, 320, 3), "cuda": Sizes(2, 5, 480, 864, 10)}
LOSSES = LossConfig(temporal=TemporalConfig(warmup=0), pairwise=PairwiseConfig(warmup=0))
NAMES = {"ours": "ours", "plain": "plain PyTorch"}
REPLACED = ("rgb_to_lab", "mask_loss_terms", "mask_to_boxes", "box_tube_dice")
IN_TK_LOSS = ("temporal_topk", "match_weight")


def reference_of(name: str) -> Callable[..., Any]:
    """The plain-PyTorch definition of an operator; `mask_loss_terms` is in the module `mask_loss`."""
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
    """Moving images with boxes that move along. They move by cells of the mask grid: between cells nothing would be
    found again, and matches that weigh nothing cost our operators nothing."""
    seeded = generator()
    height, width = sizes.height // STRIDE, sizes.width // STRIDE
    cells = torch.cat([moving_clip(seeded, sizes.frames, height, width) for _ in range(sizes.clips)])
    images = cells.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)
    count = sizes.clips * sizes.objects
    size = torch.tensor([sizes.width, sizes.height])
    corner = torch.rand(count, 1, 2, generator=seeded) * 0.6 * size
    extent = (torch.rand(count, 1, 2, generator=seeded) * 0.2 + 0.15) * size
    moved = corner + 4 * torch.arange(sizes.frames)[None, :, None]
    return Batch(
        frames_BTCHW=(2 * images).clamp(0, 255).byte(),
        boxes_NT4=torch.cat([moved, moved + extent], -1),
        labels_N=torch.randint(40, (count,), generator=seeded),
        video_index_N=torch.arange(sizes.clips).repeat_interleave(sizes.objects),
        masks_NTHW=None,
        sizes_B2=torch.tensor([[sizes.height, sizes.width]] * sizes.clips),
        clips=tuple(ClipOrigin(n, tuple(range(sizes.frames)), tuple(range(sizes.objects))) for n in range(sizes.clips)),
    )


def model_config(family: str, backbone: str) -> ModelConfig:
    """The demo's small model, or one of the paper's size; without dropout, so that both sides compute the same."""
    if backbone == "tiny":
        config = build(DemoConfig, load_preset("demo"), "the demo's preset").model
    else:
        preset = load_preset("seqformer").get("model", {}) if family == "seqformer" else {}
        config = build(ModelConfig, preset, family)
    return replace(config, name=family, backbone=BackboneConfig(name=backbone), dropout=0.0)


class Step:
    """One training step of a model family."""

    def __init__(self, config: ModelConfig, sizes: Sizes, device: str):
        torch.manual_seed(0)
        self.model = build_model(config, 40, pretrained=False).to(device)
        self.criterion, self.batch = Criterion(LOSSES, 40), batch_of(sizes).to(device)

    def ours(self) -> dict[str, torch.Tensor]:
        self.model.zero_grad(set_to_none=True)
        terms = self.criterion(self.model(self.batch.frames_BTCHW), self.batch, 0)
        terms.total.backward()
        return terms.as_dict()

    def plain(self) -> dict[str, torch.Tensor]:
        with plain_pytorch():
            return self.ours()


def peak_mb(step: Step, side: str, options: argparse.Namespace, family: str) -> float:
    """Peak memory of a step; on the CPU in a process of its own, which returns what it frees."""
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        getattr(step, side)()
        return torch.cuda.max_memory_allocated() / 2**20
    flags = ["--threads", str(options.threads), "--backbone", options.backbone, "--peak", f"{family}:{side}"]
    command = [sys.executable, __file__, *flags]
    return float(
        subprocess.run(command, env=os.environ | RETURN_ALL, check=True, capture_output=True, text=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--backbone", help="tiny: the small model of the demo, default on the CPU; resnet50 on CUDA")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add_out(parser)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_options(parser, options)
    torch.set_num_threads(options.threads)
    options.backbone = options.backbone or {"cpu": "tiny", "cuda": "resnet50"}[options.device]
    sizes = SIZES[options.device]
    if options.peak:
        family, side = options.peak.split(":")
        print(peak_in_this_process(getattr(Step(model_config(family, options.backbone), sizes, "cpu"), side)))
        return
    rows = []
    for family in MODELS:
        step = Step(model_config(family, options.backbone), sizes, options.device)
        torch.testing.assert_close(step.ours(), step.plain(), rtol=1e-3, atol=1e-3)
        parameters = sum(p.numel() for p in step.model.parameters())
        times = take_turns([step.ours, step.plain], options.rounds, 240, options.device)
        for side, measured in zip(("ours", "plain"), times, strict=True):
            row = {"model": family, "parameters": parameters, "operators": side, "best_ms": 1e3 * min(measured)}
            row |= {"median_ms": 1e3 * statistics.median(measured), "peak_mb": peak_mb(step, side, options, family)}
            rows.append(row)
    where = machine(options.threads) | (gpu_state() if options.device != "cpu" else {})
    lines = [
        f"# A training step: {options.backbone}",
        "",
        f"{sizes.clips} clips of {sizes.frames} frames of {sizes.height}x{sizes.width}, {sizes.objects} objects each",
        "",
        *(f"* {name}: {value}" for name, value in where.items()),
        "",
        "| model | parameters | operators | ms: best | median | peak memory, MB |",
        "|---|--:|---|--:|--:|--:|",
        *(
            f"| {r['model']} | {r['parameters'] / 1e6:.1f} M | {NAMES[r['operators']]} | {r['best_ms']:.0f} | "
            f"{r['median_ms']:.0f} | {r['peak_mb']:.0f} |"
            for r in rows
        ),
        "",
    ]
    for ours, plain in zip(rows[::2], rows[1::2], strict=True):
        times_faster, share = plain["best_ms"] / ours["best_ms"], ours["peak_mb"] / plain["peak_mb"]
        lines.append(f"* {ours['model']}: {times_faster:.1f}x faster (best), {share:.0%} of the memory; float32.")
    print("\n".join(lines))
    if options.out:
        name = "bench_step" if options.backbone == "tiny" else f"bench_step_{options.backbone}"
        write(options.out / f"{name}.md", "\n".join(lines) + "\n")
        record = {"machine": where, "sizes": asdict(sizes), "rows": rows}
        write(options.out / f"{name}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
