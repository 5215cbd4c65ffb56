"""A small box-prompted network: trained on the boxes of many videos, it segments given boxes in new videos.

A model that has to detect its objects cannot simply fill their boxes. A network that gets each box as input, as in
label mode, can; only the losses prevent it. This network therefore shows the effect of the losses, in the demo and in
``benchmarks/bench_given_boxes.py``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from mfvis.data.augment import fitted_size, resize
from mfvis.data.clips import ClipDataset, ClipSampler, collate, make_clip
from mfvis.data.config import ClipConfig
from mfvis.demo.config import BoxPromptedConfig
from mfvis.grid import STRIDE
from mfvis.losses.background_propagation import inside_boxes
from mfvis.losses.criterion import Criterion
from mfvis.models.backbone import Backbone
from mfvis.models.pyramid import FeaturePyramid
from mfvis.predict.upsample import encode_tubes
from mfvis.progress import Progress
from mfvis.train.optim import train_small
from mfvis.train.step import box_prompts, forward
from mfvis.types import BoxPrompts, DenseMasks, Prediction, TrackResult, Video, VideoDataset


class BoxPromptedSegmenter(nn.Module):
    """Predicts one mask tube for every box tube.

    A pyramid combines backbone features at stride 4. Two convolutions, applied to each tube separately, also see the
    inside of its box and the coordinates of every pixel relative to it. Like a video Mask2Former with box prompts it
    returns a `Prediction`, with one layer and without classes.
    """

    num_classes = 1

    def __init__(self, config: BoxPromptedConfig):
        super().__init__()
        dim, width = config.dim, config.width
        self.backbone = Backbone(config.backbone)
        self.laterals = FeaturePyramid(self.backbone.channels, dim)
        layers = [nn.Conv2d(dim + 3, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, 1, 1)]
        self.head = nn.Sequential(*layers)

    def forward(self, frames_BTCHW: Tensor, sizes_B2: Tensor | None, prompts: BoxPrompts) -> Prediction:
        """Predict mask tubes; tubes that only pad a clip get mask logits of 0.

        Args:
            frames_BTCHW: uint8 RGB, sides multiples of 32.
            prompts: in pixels of these frames.
        """
        levels = self.backbone(frames_BTCHW.flatten(0, 1))
        grid = levels[0].shape[-2:]
        features = self.laterals(levels, grid).unflatten(0, frames_BTCHW.shape[:2])
        clip_N, query_N = prompts.valid_BQ.nonzero(as_tuple=True)
        boxes_NT4 = prompts.boxes_BQT4[clip_N, query_N] / STRIDE
        inputs = torch.cat([features[clip_N], _box_channels(boxes_NT4, *grid)], 2)
        logits_NTHW = self.head(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])[:, :, 0]
        masks_BQTHW = logits_NTHW.new_zeros(*prompts.valid_BQ.shape, *logits_NTHW.shape[1:])
        masks_BQTHW[clip_N, query_N] = logits_NTHW
        no_class = masks_BQTHW.new_zeros(1, *prompts.valid_BQ.shape, self.num_classes + 1)
        return Prediction(no_class, DenseMasks(masks_BQTHW[None]))


def _box_channels(boxes_NT4: Tensor, height: int, width: int) -> Tensor:
    """``[N, T, 3, H, W]``: inside (0 or 1), and box-relative x and y, -1 to 1 between the sides (2: far outside)."""
    inside = inside_boxes(boxes_NT4, height, width).float()
    x1, y1, x2, y2 = (side[..., None, None] for side in boxes_NT4.unbind(-1))
    x = torch.arange(width, device=boxes_NT4.device) + 0.5
    y = torch.arange(height, device=boxes_NT4.device)[:, None] + 0.5
    across = ((x - x1) / (x2 - x1).clamp(min=1) * 2 - 1).clamp(-2, 2).expand_as(inside)
    down = ((y - y1) / (y2 - y1).clamp(min=1) * 2 - 1).clamp(-2, 2).expand_as(inside)
    return torch.stack([inside, across, down], 2)


def train_box_prompted(
    dataset: VideoDataset, clip: ClipConfig, config: BoxPromptedConfig, with_masks: bool = False
) -> BoxPromptedSegmenter:
    """Train the network on clips of the data set; it is returned in eval mode.

    with_masks: train on ground-truth masks, for comparison; otherwise masks are never read.
    """
    torch.manual_seed(config.seed)
    model = BoxPromptedSegmenter(config)
    criterion = Criterion(config.loss, model.num_classes, with_masks)
    clips = ClipDataset(dataset, clip, with_masks)
    draws = iter(ClipSampler([len(clips)], config.seed))

    def loss_of(step: int) -> Tensor:
        batch = collate([clips[next(draws)] for _ in range(config.batch_size)])
        batch = replace(batch, labels_N=torch.zeros_like(batch.labels_N))
        return forward(model, criterion, batch, step, prompted=True).total

    with Progress() as progress:
        progress.plan({"training": config.optim.steps})
        after_step = partial(progress.advance, "training", 1.0)
        train_small(model, config.optim, loss_of, "box-prompted network", after_step=after_step)
    return model.eval()


@torch.no_grad()
def segment_boxes(
    model: BoxPromptedSegmenter, dataset: VideoDataset, video: Video, clip: ClipConfig
) -> list[TrackResult]:
    """Results of all tracks of the video except crowds: the network's masks in each frame with a box.

    Masks may extend beyond their boxes. clip: the training's clip settings; frames are resized to its smallest size.
    """
    video_clip = make_clip(dataset, video, range(video.length))
    if not video_clip.track_ids:
        return []
    size = fitted_size(video.height, video.width, min(clip.short_sides), clip.max_side)
    batch = collate([resize(video_clip, *size)])
    prompts, _ = box_prompts(batch)
    masks_NTHW = model(batch.frames_BTCHW, batch.sizes_B2, prompts).masks.all_queries(0, 0)[: len(video_clip.track_ids)]
    tubes = encode_tubes(masks_NTHW, size, (video.height, video.width))
    tracks = {track.id: track for track in video.tracks}
    results = []
    for track, (rles, _) in zip((tracks[id] for id in video_clip.track_ids), tubes, strict=True):
        masks = tuple(rle if present else None for rle, present in zip(rles, track.present_T, strict=True))
        results.append(TrackResult(video.id, track.category_id, 1.0, masks, track.boxes_T4, track.id))
    return results
