"""Train a small network from boxes with the operators only: ``python examples/loss_in_a_loop.py``.

The network gets a generated video and the box of each object, and learns masks that it has never seen. Without TK-Loss it
fills the boxes.
"""

from __future__ import annotations

import argparse

import mfvis_ext
import numpy as np
import torch
from mfvis.data.synthetic import draw_video
from torch import nn


def main(steps: int = 150, tk_weight: float = 1.0) -> float:
    """Train, and return the mean IoU (J) of the learned masks with the true ones."""
    torch.manual_seed(0)
    frames, masks, _ = draw_video(np.random.default_rng(5), 6, (96, 128), (2, 2))
    frames_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2)
    masks_NTHW = torch.from_numpy(masks)
    boxes_NT4 = mfvis_ext.mask_to_boxes(masks_NTHW.float(), threshold=0.5)
    count, length = boxes_NT4.shape[:2]
    video_index = torch.zeros(count, dtype=torch.int64)

    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 5, padding=2), nn.ReLU()),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU()),
        nn.Conv2d(32, count, 1),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    tk_loss = mfvis_ext.TKLoss(radius=5, k=5, threshold=1e-3, tube="cyclic")
    matches = tk_loss.match(frames_TCHW[None])  # depends on the frames only
    lab = mfvis_ext.rgb_to_lab(frames_TCHW)
    for step in range(steps):
        logits_NTHW = network(lab / 50).transpose(0, 1)
        loss = mfvis_ext.box_projection_loss(logits_NTHW, boxes_NT4)
        ramp = min(step / 50, 1)  # let the masks find their boxes first
        loss = loss + tk_weight * ramp * tk_loss(logits_NTHW, boxes_NT4, video_index, matches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found_NTHW = logits_NTHW.detach() > 0
    both = (found_NTHW & masks_NTHW).flatten(2).sum(-1)
    either = (found_NTHW | masks_NTHW).flatten(2).sum(-1)
    return (both / either.clamp(min=1)).mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps
    print(f"J with TK-Loss {main(steps):.3f}, without {main(steps, tk_weight=0):.3f}")
