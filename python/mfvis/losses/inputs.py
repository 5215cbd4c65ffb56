"""Inputs of the losses of the matched masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import mfvis_ext
from mfvis.grid import STRIDE, grid_colors
from mfvis.losses.background_propagation import (
    camera_motion,
    inside_boxes,
    outside_all_boxes,
    propagated_background,
)
from mfvis.losses.config import LossConfig
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.types import Batch


@dataclass(frozen=True)
class MaskLossInputs:
    """Matched masks of all decoder layers with their boxes and clips; M = L * N, layer by layer.

    The masks of all layers go through each loss in one call. Whatever depends only on the frames is computed on first
    use.
    """

    masks_LNTHW: Tensor
    """Mask logits of each object's query at every layer, on the stride-4 grid."""
    batch: Batch
    objects: Tensor
    """Number of objects, at least 1, averaged over the processes."""
    step: int
    """Optimizer steps done so far."""
    config: LossConfig
    """Weights and settings of the losses."""

    @property
    def layers(self) -> int:
        """Number of decoder layers, L."""
        return len(self.masks_LNTHW)

    @cached_property
    def masks_MTHW(self) -> Tensor:
        """Mask logits."""
        return self.masks_LNTHW.flatten(0, 1)

    @cached_property
    def boxes_NT4(self) -> Tensor:
        """Boxes on the grid of the masks."""
        return self.batch.boxes_NT4 / STRIDE

    @cached_property
    def boxes_MT4(self) -> Tensor:
        """The same boxes for every layer."""
        return self.boxes_NT4.repeat(self.layers, 1, 1)

    @cached_property
    def video_index_M(self) -> Tensor:
        """int64: index of each object's clip."""
        return self.batch.video_index_N.repeat(self.layers)

    @cached_property
    def colors(self) -> tuple[Tensor, Tensor]:
        """LAB and content of the clips on the grid of the masks, see `mfvis.grid.grid_colors`."""
        return grid_colors(self.batch.frames_BTCHW, self.batch.sizes_B2)

    @cached_property
    def box_terms(self) -> mfvis_ext.MaskLossTerms:
        """Sums of the projection, pairwise and temporal losses, of those that have a weight at this step.

        Together, because they then have a single gradient, which is as large as all masks.
        """
        pairwise, temporal = self.config.pairwise, self.config.temporal
        return mfvis_ext.mask_loss_terms(
            self.masks_MTHW,
            self.boxes_MT4,
            self.video_index_M,
            projection=self.config.projection > 0,
            frames=self.colors[0] if pairwise.weight_at(self.step) > 0 else None,
            kernel_size=pairwise.kernel_size,
            dilation=pairwise.dilation,
            threshold=pairwise.threshold,
            matches=temporal.match(self) if temporal.weight_at(self.step) > 0 else None,
        )

    def camera_motion(self, tube: str) -> Tensor:
        """int64 ``[B, P, 2]``: camera motion (dy, dx) in grid cells, of each clip and pair of frames of the tube."""
        lab_BTCHW, _ = self.colors
        pairs_P2 = mfvis_ext.tube_pairs(lab_BTCHW.shape[1], tube, lab_BTCHW.device)
        clips = zip(lab_BTCHW, self._outside_boxes(), strict=True)
        return torch.stack([camera_motion(lab_TCHW, outside_THW, pairs_P2) for lab_TCHW, outside_THW in clips])

    def propagated_background(self, config: BackgroundPropagationConfig) -> tuple[Tensor, Tensor]:
        """Background inside each object's boxes that other frames of its clip show, bool ``[M, T, H, W]``; and the
        number of pixels inside the boxes, ``[M]``."""
        lab_BTCHW, content_BHW = self.colors
        boxes = [self.boxes_NT4[objects] for objects in self.batch.objects_of_clips]
        clips = zip(lab_BTCHW, self._outside_boxes(), boxes, strict=True)
        known_NTHW = torch.cat([propagated_background(*clip, config) for clip in clips])
        pixels_N = inside_boxes(self.boxes_NT4, *content_BHW.shape[1:]).sum((1, 2, 3))
        return known_NTHW.repeat(self.layers, 1, 1, 1), pixels_N.repeat(self.layers)

    def _outside_boxes(self) -> list[Tensor]:
        """For each clip, bool ``[T, H, W]``: True outside its boxes and outside the padding."""
        clips = zip(self.colors[1], self.batch.objects_of_clips, strict=True)
        return [outside_all_boxes(self.boxes_NT4[objects], content_HW) for content_HW, objects in clips]

    def mean(self, total: Tensor, count: Tensor) -> Tensor:
        """Sum over the layers of each layer's mean: a sum over all layers, divided by the count of one layer.

        The count is averaged over the processes, so that their gradients average to that of a single process.
        """
        return total / mean_over_processes(count / self.layers).clamp(min=1)


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed training; the tensor itself with a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    values = values.detach().clone()
    torch.distributed.all_reduce(values)
    return values / torch.distributed.get_world_size()
