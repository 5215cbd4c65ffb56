"""The temporal KNN-patch loss (TK-Loss), Ke et al. 2023, section 3.2: what looks alike in two frames has one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import mfvis_ext
from mfvis.errors import require


@dataclass(frozen=True)
class TemporalConfig:
    """Where and how matches between frames are sought; the defaults are the paper's."""

    weight: float = 0.5
    """5, the weight of the mask losses, times the 0.1 of the paper; the term is summed over the pairs of frames."""
    warmup: int = 200
    """Steps in which the weight rises from 0."""
    tube: Literal["cyclic", "chain", "dense"] = "cyclic"
    """Pairs of frames: neighbours and last with first, neighbours only, or each with each."""
    radius: int = 5
    """Candidates lie up to this many steps away in both directions."""
    dilation: int = 1
    """Cells of the stride-4 grid in such a step."""
    patch_size: int = 3
    """Side of the compared patches, odd."""
    k: int = 5
    """Nearest candidates kept for each pixel."""
    threshold: float = 0.05
    """Least similarity exp(-distance / 2) of a match that counts."""

    def __post_init__(self) -> None:
        candidates = (2 * self.radius + 1) ** 2
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "patch_size": (self.patch_size >= 1 and self.patch_size % 2 == 1, "an odd number, 1 or more"),
            "k": (1 <= self.k <= candidates, f"1 to {candidates}, the candidates within radius {self.radius}"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, wanted)


@dataclass(frozen=True)
class FrameMatches:
    """Matches between the frames of clips. They depend on the pictures alone, so all layers and objects share them."""

    pairs_P2: Tensor
    """int64 (target frame, source frame)."""
    offset_BPKHW: Tensor
    weight_BPKHW: Tensor
    """float32, 0 where there is no match."""
    shift_BP2: Tensor | None


def tube_pairs(tube: str, frames: int, device: torch.device | str = "cpu") -> Tensor:
    """int64 ``[P, 2]``: the (target, source) frames of a tube of `frames` frames; none for a single frame."""
    if tube == "dense":
        pairs = [(a, b) for a in range(frames) for b in range(frames) if a != b]
    else:
        last = frames if tube == "cyclic" and frames > 1 else frames - 1
        pairs = [(a, (a + 1) % frames) for a in range(last)]
    return torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2)


@torch.no_grad()
def match_frames(lab_BTCHW: Tensor, config: TemporalConfig, shift_BP2: Tensor | None = None) -> FrameMatches:
    """The matches of every pixel in the pairs of frames, and their weights.

    shift: int64 cells (dy, dx) by which each pair's window is displaced, for cameras that move.
    """
    pairs_P2 = tube_pairs(config.tube, lab_BTCHW.shape[1], lab_BTCHW.device)
    distance, offset = mfvis_ext.temporal_topk(
        lab_BTCHW, pairs_P2, config.patch_size, config.radius, config.dilation, config.k, shift_BP2
    )
    return FrameMatches(pairs_P2, offset, mfvis_ext.match_weight(distance, config.threshold), shift_BP2)


def temporal_terms(
    masks_NTHW: Tensor, matches: FrameMatches, boxes_NT4: Tensor, video_index_N: Tensor, config: TemporalConfig
) -> tuple[Tensor, Tensor]:
    """Summed disagreement of the matches and their summed weight, both ``[P]``; the loss is the sum of their ratios.

    masks: logits; boxes: on the grid of the masks. The two come apart so that the weights of all processes can be
    joined before the division (eq. 5 divides by the matches of the whole batch).
    """
    loss_NP, weight_NP = mfvis_ext.tk_loss_terms(
        masks_NTHW,
        matches.offset_BPKHW,
        matches.weight_BPKHW,
        matches.pairs_P2,
        boxes_NT4,
        video_index_N,
        config.radius,
        config.dilation,
        matches.shift_BP2,
    )
    return loss_NP.sum(0), weight_NP.sum(0)
