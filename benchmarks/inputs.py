"""The sizes that are measured, and seeded inputs that look like a video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """The sizes of an input. The defaults are the point at which the goals are stated."""

    frames: int = 5
    height: int = 120
    width: int = 216
    instances: int = 10
    radius: int = 5
    k: int = 5

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"T {self.frames}, {size}, N {self.instances}, radius {self.radius}, k {self.k}"


GRID: dict[str, list[Setting]] = {
    "frames": [Setting(frames=frames) for frames in (2, 3, 5, 9)],
    "size": [Setting(height=height, width=width) for height, width in ((120, 216), (184, 328), (360, 640))],
    "instances": [Setting(instances=instances) for instances in (1, 5, 10, 20, 50, 100)],
    "radius": [Setting(radius=radius) for radius in (1, 2, 3, 5, 8, 12, 16)],
    "k": [Setting(k=k) for k in (1, 3, 5, 9)],
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_boxes(generator: torch.Generator, instances: int, frames: int, height: int, width: int) -> Tensor:
    """`[N, T, 4]`: sides of 20 to 60 % of the frame's, moving by a few pixels; about 14 % of the frame in the end."""
    size = torch.tensor([width, height])
    center = torch.rand(instances, 1, 2, generator=generator) * size
    half = (torch.rand(instances, 1, 2, generator=generator) * 0.4 + 0.2) / 2 * size
    moved = center + torch.randn(instances, frames, 2, generator=generator) * 3
    return torch.cat([moved - half, moved + half], -1)


def moving_clip(generator: torch.Generator, frames: int, height: int, width: int) -> Tensor:
    """`[1, T, 3, H, W]`: a textured image that moves by a pixel per frame, with noise.

    Most candidates are bad and a part of the matches is good enough, as in a video.
    """
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator) * 60
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    clip = torch.stack([image.roll((t, -t), (1, 2)) for t in range(frames)])
    return (clip + 0.5 * torch.randn(clip.shape, generator=generator))[None]


def random_logits(generator: torch.Generator, instances: int, frames: int, height: int, width: int) -> Tensor:
    """`[N, T, H, W]`, a leaf that requires its gradient."""
    return (3 * torch.randn(instances, frames, height, width, generator=generator)).requires_grad_()
