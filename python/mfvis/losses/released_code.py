"""Projection, pairwise and temporal losses as the released code of the paper computes them: ``loss.released_code``.

The code (github.com/SysCV/MaskFreeVIS, commit 0e7018b) differs from the paper's text, which `mfvis.losses.criterion`
follows. This module repeats the code in plain PyTorch, term by term:

* Colors are LAB of red/blue-swapped block means, truncated to whole bytes. Padding is black and matches other black.
* Boxes are drawn at full size and downsampled bilinearly, so that a pixel at an edge may weigh 1/2. A pixel counts for
  the temporal loss if its weights in all frames add up to 1.
* Neighbors and candidates outside the frame are included: they have color 0 and no loss, but count in the denominator.
* Pairs of frames are those in `PAIRS`. Ties between candidates are resolved by `torch.topk`.
* Every decoder output counts as a step of the warm-up, the last output first.
* Every process divides by its own counts.
* Single frames follow the code for images: a quarter of the pairwise loss, with a warm-up.
* In clips of five frames, objects without a box in the last frame are trained as "no object".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mfvis.errors import ConfigError
from mfvis.grid import STRIDE
from mfvis.losses.background import box_spans
from mfvis.losses.pairwise import PairwiseConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.text import counted
from mfvis.types import Batch, present

PAIRS = {
    1: (),
    3: ((1, 0), (2, 0), (2, 1)),
    5: ((1, 0), (2, 1), (3, 2), (4, 3), (0, 4)),
}
"""Pairs of frames (target, source) by number of frames in a clip."""
IMAGE_PAIRWISE = 0.25
"""Factor on the pairwise loss of images."""
IMAGE_WARMUP = 100
"""Steps over which the pairwise loss of images rises."""
XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423, 0.95047),
    (0.212671, 0.715160, 0.072169, 1.0),
    (0.019334, 0.119193, 0.950227, 1.08883),
)
"""Factors of red, green and blue in X, Y and Z, and the white point. As Python numbers, because a tensor made from them
at every step would be a copy that the GPU waits for."""


class BoxWeights(NamedTuple):
    """Boxes on the grid of the masks. The weight of a pixel is that of its row times that of its column, each 0, 1/2 or
    1."""

    rows_NTH: Tensor
    columns_NTW: Tensor


def labels_of_last_frame(batch: Batch, no_object: int) -> Batch:
    """The batch with the label `no_object` for objects without a box in the last of five frames."""
    if batch.boxes_NT4.shape[1] != 5:
        return batch
    return replace(batch, labels_N=torch.where(present(batch.boxes_NT4[:, -1]), batch.labels_N, no_object))


def warmup_factor(step: int, layer: int, layers: int, warmup: int) -> float:
    """Factor on a loss that rises over `warmup` steps, at one of the decoder outputs; the last output comes first."""
    outputs_seen = step * layers + (1 if layer == layers - 1 else layer + 2)
    return min(outputs_seen / (warmup * layers), 1.0) if warmup else 1.0


def grid_colors(batch: Batch) -> Tensor:
    """LAB of the block means, truncated to bytes, of red/blue-swapped frames: float32 ``[B, T, 3, H / 4, W / 4]``."""
    frames = batch.frames_BTCHW
    height, width = frames.shape[-2:]
    rows = torch.arange(height, device=frames.device) < batch.sizes_B2[:, :1]
    columns = torch.arange(width, device=frames.device) < batch.sizes_B2[:, 1:]
    black_padded = frames * (rows[:, :, None] & columns[:, None, :])[:, None, None]
    means = F.avg_pool2d(black_padded.flip(2).flatten(0, 1).float(), STRIDE)
    return lab_in_float64(means.byte()).float().unflatten(0, frames.shape[:2])


def lab_in_float64(images_M3HW: Tensor) -> Tensor:
    """CIE-LAB of RGB in 0..255, with the constants of `skimage.color.rgb2lab`.

    Candidates often differ only by rounding. The same ones are selected only with the released code's precision.
    """
    rgb = images_M3HW.double() / 255
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    red, green, blue = linear.unbind(1)
    xyz = [
        (red * of_red + green * of_green + blue * of_blue) / white for of_red, of_green, of_blue, white in XYZ_OF_RGB
    ]
    x, y, z = (torch.where(value > 0.008856, value ** (1 / 3), 7.787 * value + 16 / 116) for value in xyz)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def box_weights(boxes_NT4: Tensor, height: int, width: int) -> BoxWeights:
    """Weights of boxes drawn at full size and halved bilinearly twice: the mean of a cell's two middle pixels.

    boxes: in pixels of the frames; height, width: size of the masks.
    """
    spans = box_spans(boxes_NT4, STRIDE * height, STRIDE * width)
    return BoxWeights(*((span[..., 1::STRIDE].float() + span[..., 2::STRIDE].float()) / 2 for span in spans))


def neighbors(maps_MCHW: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Neighbors of every pixel ``[M, C, kernel_size², H, W]``, row by row; zeros outside the frame."""
    unfolded = F.unfold(maps_MCHW, kernel_size, dilation, padding=dilation * (kernel_size // 2))
    return unfolded.view(*maps_MCHW.shape[:2], kernel_size**2, *maps_MCHW.shape[-2:])


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Similarity exp(-‖a - b‖ / 2) over axis 1."""
    return torch.exp(-torch.norm(a - b, dim=1) * 0.5)


def disagreement(a: Tensor, b: Tensor) -> Tensor:
    """Loss -log p, where p is the probability that two pixels with these logits have the same label."""
    return F.softplus(a) + F.softplus(b) - F.softplus(a + b)


def projection_loss(masks_NTHW: Tensor, boxes: BoxWeights) -> Tensor:
    """Dice loss of the projections on x and y, averaged over objects and frames. masks: logits."""
    scores = masks_NTHW.sigmoid()

    def dice_loss(mask: Tensor, box: Tensor) -> Tensor:
        return 1 - 2 * (mask * box).sum(-1) / ((mask**2).sum(-1) + (box**2).sum(-1) + 1e-5)

    on_x = dice_loss(scores.max(-2).values, boxes.columns_NTW * boxes.rows_NTH.amax(-1, keepdim=True))
    on_y = dice_loss(scores.max(-1).values, boxes.rows_NTH * boxes.columns_NTW.amax(-1, keepdim=True))
    return (on_x + on_y).mean()


def similar_neighbors(lab_BTCHW: Tensor, config: PairwiseConfig) -> Tensor:
    """bool ``[B, T, kernel_size² - 1, H, W]``: True for neighbors of similar color; those outside are black."""
    lab = lab_BTCHW.flatten(0, 1)
    around = _without_center(neighbors(lab, config.kernel_size, config.dilation))
    return (similarity(lab[:, :, None], around) >= config.threshold).unflatten(0, lab_BTCHW.shape[:2])


def pairwise_loss(masks_NTHW: Tensor, similar_NTKHW: Tensor, boxes_NTHW: Tensor, config: PairwiseConfig) -> Tensor:
    """Mean disagreement of similar neighbors, weighted by the boxes. masks: logits; boxes: pixel weights."""

    def around(maps: Tensor) -> Tensor:
        unfolded = _without_center(neighbors(maps.flatten(0, 1)[:, None], config.kernel_size, config.dilation))
        return unfolded[:, 0].unflatten(0, maps.shape[:2])

    weight = similar_NTKHW * boxes_NTHW[:, :, None]
    exists = around(torch.ones_like(masks_NTHW[:1, :1]))
    loss = disagreement(masks_NTHW[:, :, None], around(masks_NTHW)) * exists
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def match_frames(lab_BTCHW: Tensor, config: TemporalConfig) -> list[Tensor]:
    """For each pair, bool ``[B, candidates, H, W]``: True for the k most similar patches above the threshold."""
    batch, frames = lab_BTCHW.shape[:2]
    patches = neighbors(lab_BTCHW.flatten(0, 1), config.patch_size, 1).flatten(1, 2).unflatten(0, (batch, frames))
    matched = []
    for target, source in PAIRS[frames]:
        candidates = neighbors(patches[:, source], 2 * config.radius + 1, config.dilation)
        similar = similarity(patches[:, target, :, None], candidates)
        nearest, index = similar.topk(config.k, dim=1)
        matched.append(torch.zeros_like(similar).scatter(1, index, nearest) >= config.threshold)
    return matched


def temporal_loss(
    masks_NTHW: Tensor, matched_PNKHW: list[Tensor], boxes_NTHW: Tensor, config: TemporalConfig
) -> Tensor:
    """Mean disagreement of matches, summed over pairs of frames. masks: logits; boxes: pixel weights."""
    counted = (boxes_NTHW.sum(1) >= 1)[:, None]
    window = 2 * config.radius + 1, config.dilation
    exists = neighbors(torch.ones_like(masks_NTHW[:1, :1]), *window)[:, 0]
    loss = masks_NTHW.new_zeros(())
    for (target, source), matched_NKHW in zip(PAIRS[masks_NTHW.shape[1]], matched_PNKHW, strict=True):
        weight = matched_NKHW & counted
        candidates = neighbors(masks_NTHW[:, source : source + 1], *window)[:, 0]
        terms = disagreement(masks_NTHW[:, target, None], candidates) * exists
        loss = loss + (terms * weight).sum() / weight.sum().clamp(min=1)
    return loss


def box_terms(
    masks_LNTHW: Tensor, batch: Batch, step: int, projection: float, pairwise: PairwiseConfig, temporal: TemporalConfig
) -> dict[str, Tensor]:
    """Weighted projection, pairwise and temporal losses by name, summed over the decoder outputs.

    masks: logits; projection: weight of that loss. ConfigError if the released code does not support clips of this
    length.
    """
    layers, objects, frames, height, width = masks_LNTHW.shape
    if frames not in PAIRS:
        raise ConfigError(
            f"loss.released_code is true, but a clip has {counted(frames, 'frame')}; the code takes 1, 3 or 5: "
            "set clip.frames (or length of a data set) to one of them, or loss.released_code to false"
        )
    if not objects:
        return {}
    with torch.no_grad():
        boxes = box_weights(batch.boxes_NT4, height, width)
        pixels_NTHW = boxes.rows_NTH[..., None] * boxes.columns_NTW[..., None, :]
        lab_BTCHW = grid_colors(batch)
        similar_NTKHW = similar_neighbors(lab_BTCHW, pairwise)[batch.video_index_N]
        matched_PNKHW = [matched_BKHW[batch.video_index_N] for matched_BKHW in match_frames(lab_BTCHW, temporal)]
    image_factor, pairwise_warmup = (IMAGE_PAIRWISE, IMAGE_WARMUP) if frames == 1 else (1.0, pairwise.warmup)
    terms: dict[str, Tensor] = defaultdict(lambda: masks_LNTHW.new_zeros((), dtype=torch.float32))
    for layer, masks in enumerate(masks_LNTHW.float()):
        terms["projection"] += projection * projection_loss(masks, boxes)
        if pairwise.weight > 0 and step >= pairwise.start:
            ramp = image_factor * warmup_factor(step - pairwise.start, layer, layers, pairwise_warmup)
            terms["pairwise"] += pairwise.weight * ramp * pairwise_loss(masks, similar_NTKHW, pixels_NTHW, pairwise)
        if temporal.weight > 0:
            ramp = warmup_factor(step, layer, layers, temporal.warmup)
            terms["temporal"] += temporal.weight * ramp * temporal_loss(masks, matched_PNKHW, pixels_NTHW, temporal)
    return terms


def _without_center(around: Tensor) -> Tensor:
    center = around.shape[2] // 2
    return torch.cat([around[:, :, :center], around[:, :, center + 1 :]], 2)
