"""Inference on whole videos: the objects with class, score and mask tube."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from mfvis.data.augment import fitted_size, pad_frames, padded_size, resize_frames
from mfvis.data.config import ClipConfig
from mfvis.data.video import stream_frames
from mfvis.errors import CheckpointError
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.pixel_decoder import PixelFeatures
from mfvis.predict.config import InferConfig
from mfvis.predict.track_association import TrackMemory, emitted, windows_of
from mfvis.predict.upsample import encode_tubes
from mfvis.types import Category, TrackResult, Video


def sized_as_trained(config: InferConfig, clip: ClipConfig) -> InferConfig:
    """The configuration with `short_side` filled in: by default the smallest short side used in training."""
    return config if config.short_side else replace(config, short_side=min(clip.short_sides))


@torch.inference_mode()
def predict_video(
    model: VideoMask2Former, video: Video, categories: Sequence[Category], config: InferConfig | None = None
) -> list[TrackResult]:
    """Tracks of one video, best first, with masks at the video's own size.

    Scores are a softmax over the classes. The `max_tracks` best pairs of query and class are returned, and a pixel is
    in the mask where its logit is above 0. Frames are read and decoded once. Without a `short_side` they keep their
    size.

    By default the whole video is one clip, as in the paper. Memory then grows with the number of frames: per frame the
    stride-4 embeddings, the tokens of strides 8 to 32, and the queries' masks at stride 4. With a `window`, these are
    held for one window only, so memory does not depend on the length of the video. Windows overlap, and objects are
    associated by their queries and by their masks in the overlap (`mfvis.predict.track_association`). Class scores are
    averaged over the windows in which an object is visible, and masks are encoded window by window. The `max_tracks`
    pairs are then those of the highest `TrackState.ranking_score_K`.
    """
    model.eval()
    config = config or InferConfig()
    short_side = config.short_side or min(video.height, video.width)
    resized = fitted_size(video.height, video.width, short_side, config.max_side)
    windows = windows_of(video.length, config.window, config.stride)
    identities = TrackMemory(config.memory, config.max_tracks)
    features = WindowFeatures(model, video, resized, config.chunk)
    for number, frames in enumerate(windows):
        pixels = features.move_to(frames)
        prediction = model.decode(pixels, 1, last_only=True)
        scores_QK = prediction.scores_LBQK[-1, 0]  # the flat index below counts classes within a query
        flat_D = scores_QK.flatten().topk(min(config.max_tracks, scores_QK.numel())).indices
        # One query may be selected for several classes; its masks are computed once.
        chosen_M = (flat_D // scores_QK.shape[1]).unique()
        masks_MTHW = prediction.masks.select(0, chosen_M[None])[0]
        if not (torch.isfinite(scores_QK).all() and torch.isfinite(masks_MTHW).all()):
            raise CheckpointError(
                f"video {video.name}, frames {frames.start} to {frames.stop - 1}: the model predicts NaN or "
                "infinity. Its weights are damaged or too large; use another checkpoint"
            )
        # Frames shared with the previous and with the next window.
        head = windows[number - 1].stop - frames.start if number > 0 else 0
        tail = frames.stop - windows[number + 1].start if number + 1 < len(windows) else 0
        found = identities.recognize(
            number,
            prediction.embeddings_LBQC[-1, 0, chosen_M],
            scores_QK[chosen_M],
            masks_MTHW[:, :head] > 0,
            masks_MTHW[:, len(frames) - tail :] > 0,
        )
        shown = emitted(windows, number)
        kept_MTHW = masks_MTHW[:, shown.start - frames.start : shown.stop - frames.start]
        tubes = encode_tubes(kept_MTHW, resized, (video.height, video.width))
        for identity, (segmentations, boxes_T4) in zip(found, tubes, strict=True):
            identity.fill(shown.start)
            identity.segmentations += segmentations
            identity.boxes += list(boxes_T4)

    if not identities.all:
        return []
    ranking_score_IK = torch.stack([identity.ranking_score_K for identity in identities.all])
    results = []
    for flat in ranking_score_IK.flatten().topk(min(config.max_tracks, ranking_score_IK.numel())).indices.tolist():
        identity, label = identities.all[flat // ranking_score_IK.shape[1]], flat % ranking_score_IK.shape[1]
        identity.fill(video.length)
        score = identity.mean_K[label].item()
        tube = tuple(identity.segmentations), np.array(identity.boxes)
        results.append(TrackResult(video.id, categories[label].id, score, *tube))
    return sorted(results, key=lambda result: -result.score)


class WindowFeatures:
    """Pixel features of successive windows of a video; every frame goes through the backbone once.

    Args:
        resized: (height, width) of the frames before the padding.
        chunk: frames per forward pass.
    """

    def __init__(self, model: VideoMask2Former, video: Video, resized: tuple[int, int], chunk: int):
        self.model, self.resized, self.chunk = model, resized, chunk
        self.stream = stream_frames(video)
        self.window, self.pixels = range(0), None

    def move_to(self, window: range) -> PixelFeatures:
        """Features of the next window, which must begin inside the previous window or directly after it."""
        # The parts are copied into one allocation: concatenating them at the end would hold all features twice.
        whole, filled = (), 0
        for part in self._parts(window):
            tensors = (*part.levels_NSC, part.mask_NCHW)
            whole = whole or tuple(some.new_empty((len(window), *some.shape[1:])) for some in tensors)
            for all_frames, some in zip(whole, tensors, strict=True):
                all_frames[filled : filled + len(some)] = some
            filled += len(part.mask_NCHW)
        self.window, self.pixels = window, PixelFeatures(whole[:-1], part.shapes, whole[-1])
        return self.pixels

    def _parts(self, window: range) -> Iterator[PixelFeatures]:
        """Features of the frames shared with the previous window, then of the other frames, `chunk` at a time."""
        if window.start < self.window.stop:
            first, pixels = window.start - self.window.start, self.pixels
            yield PixelFeatures(
                tuple(level[first:] for level in pixels.levels_NSC), pixels.shapes, pixels.mask_NCHW[first:]
            )
        device = next(self.model.parameters()).device
        for first in range(self.window.stop, window.stop, self.chunk):
            count = min(self.chunk, window.stop - first)
            pictures = resize_frames(torch.stack(list(itertools.islice(self.stream, count))), *self.resized)
            padded = pad_frames(pictures, *padded_size(*self.resized))
            yield self.model.encode(padded.to(device))
