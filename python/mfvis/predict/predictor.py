"""Inference on whole videos: the objects with class, score and mask tube."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfvis.data.augment import fitted_size, pad_frames, padded_size, resize_frames
from mfvis.data.config import ClipConfig
from mfvis.data.video import stream_frames
from mfvis.errors import CheckpointError
from mfvis.models.video_model import VideoModel
from mfvis.predict.config import InferConfig
from mfvis.predict.track_association import TrackMemory, output_frames, windows_of
from mfvis.predict.upsample import encode_tubes
from mfvis.progress import Progress
from mfvis.types import Category, TrackResult, Video

FEATURES, MASKS = "features", "masks"
"""Kinds of work on a video."""


def video_work(video: Video) -> Counter[str]:
    """Work of `predict_video` by kind, in frames."""
    return Counter({FEATURES: video.length, MASKS: video.length})


def sized_as_trained(config: InferConfig, clip: ClipConfig) -> InferConfig:
    """The configuration with `short_side` filled in: by default the smallest short side used in training."""
    return config if config.short_side else replace(config, short_side=min(clip.short_sides))


@torch.inference_mode()
def predict_video(
    model: VideoModel,
    video: Video,
    categories: Sequence[Category],
    config: InferConfig | None = None,
    progress: Progress | None = None,
) -> list[TrackResult]:
    """Tracks of one video, best first, with masks at the video's own size.

    The `max_tracks` best pairs of query and class are returned, and a pixel is in the mask where its logit is above 0.
    Frames are read and decoded once; masks are computed and encoded `chunk` frames at a time. Without a `short_side`
    frames keep their size.

    By default the whole video is one clip, as in the papers. Memory then grows with the number of frames: for
    Mask2Former by the stride-4 embeddings and the tokens of strides 8 to 32, for SeqFormer by the samples of its
    queries, some 1.9 MB per frame at the default size. With a `window`, these are held for one window only, so memory
    does not depend on the length of the video. Windows overlap, and objects are associated by their queries and by
    their masks in the overlap (`mfvis.predict.track_association`). Class scores are averaged over the windows in which
    an object is visible. The `max_tracks` pairs are then those of the highest `TrackState.ranking_score_K`.

    progress: Progress that counts the work on this video, `video_work`.
    """
    model.eval()
    config, progress = config or InferConfig(), progress or Progress(visible=False)
    short_side = config.short_side or min(video.height, video.width)
    resized = fitted_size(video.height, video.width, short_side, config.max_side)
    windows = windows_of(video.length, config.window, config.stride)
    memory = TrackMemory(config.memory, config.max_tracks)
    features = WindowFeatures(model, video, resized, config.chunk, progress)
    for w, frames in enumerate(windows):
        prediction = model.decode(features.move_to(frames), 1, last_only=True)
        scores_QK = prediction.scores_LBQK[-1, 0]  # the flat index below counts classes within a query
        flat_D = scores_QK.flatten().topk(min(config.max_tracks, scores_QK.numel())).indices
        # One query may be selected for several classes; its masks are computed once.
        queries_M = (flat_D // scores_QK.shape[1]).unique()
        if not torch.isfinite(scores_QK).all():
            raise _damaged(video, frames)
        # Frames shared with the previous and with the next window.
        num_prev = windows[w - 1].stop - frames.start if w > 0 else 0
        num_next = frames.stop - windows[w + 1].start if w + 1 < len(windows) else 0
        output = output_frames(windows, w)
        overlaps_prev, overlaps_next, tubes = [], [], [([], []) for _ in queries_M]
        # Logits exist for a few frames at a time, however long the window is.
        for first in range(0, len(frames), config.chunk):
            masks_MTHW = prediction.masks.select(0, queries_M[None], slice(first, first + config.chunk))[0]
            if not torch.isfinite(masks_MTHW).all():
                raise _damaged(video, frames)
            overlaps_prev.append(_frames(masks_MTHW, first, 0, num_prev) > 0)
            overlaps_next.append(_frames(masks_MTHW, first, len(frames) - num_next, len(frames)) > 0)
            masks_MTHW = _frames(masks_MTHW, first, output.start - frames.start, output.stop - frames.start)
            encoded = encode_tubes(masks_MTHW, resized, (video.height, video.width))
            for (segmentations, boxes), (more, boxes_T4) in zip(tubes, encoded, strict=True):
                segmentations += more
                boxes += list(boxes_T4)
            progress.advance(MASKS, masks_MTHW.shape[1], f"{video.name}: masks")
        queries_MC = prediction.embeddings_LBQC[-1, 0, queries_M]
        overlaps = torch.cat(overlaps_prev, 1), torch.cat(overlaps_next, 1)
        associated = memory.associate(w, queries_MC, scores_QK[queries_M], *overlaps)
        for track, (segmentations, boxes) in zip(associated, tubes, strict=True):
            track.fill(output.start)
            track.segmentations += segmentations
            track.boxes += boxes

    if not memory.all:
        return []
    ranking_score_IK = torch.stack([track.ranking_score_K for track in memory.all])
    results = []
    for flat in ranking_score_IK.flatten().topk(min(config.max_tracks, ranking_score_IK.numel())).indices.tolist():
        track, label = memory.all[flat // ranking_score_IK.shape[1]], flat % ranking_score_IK.shape[1]
        track.fill(video.length)
        score = track.mean_K[label].item()
        tube = tuple(track.segmentations), np.array(track.boxes)
        results.append(TrackResult(video.id, categories[label].id, score, *tube))
    return sorted(results, key=lambda result: -result.score)


def _frames(masks_MTHW: Tensor, first: int, start: int, stop: int) -> Tensor:
    """Frames `start` to `stop` of a window, as far as `masks_MTHW`, which begin at frame `first`, contain them."""
    return masks_MTHW[:, max(start - first, 0) : max(stop - first, 0)]


def _damaged(video: Video, frames: range) -> CheckpointError:
    return CheckpointError(
        f"video {video.name}, frames {frames.start} to {frames.stop - 1}: the model predicts NaN or infinity. Its "
        "weights are damaged or too large; use another checkpoint"
    )


class WindowFeatures:
    """Encoded frames of successive windows of a video; every frame is encoded once.

    Args:
        resized: (height, width) of the frames before the padding.
        chunk: frames per forward pass.
        progress: counts the encoded frames.
    """

    def __init__(self, model: VideoModel, video: Video, resized: tuple[int, int], chunk: int, progress: Progress):
        self.model, self.resized, self.chunk = model, resized, chunk
        self.name, self.progress = video.name, progress
        self.stream = stream_frames(video)
        self.window, self.features = range(0), None

    def move_to(self, window: range) -> Any:
        """Frames of the next window, which must begin inside the previous window or directly after it."""
        # The parts are copied into one allocation: concatenating them at the end would hold all features twice.
        whole: dict[str, Tensor] = {}
        filled = 0
        for part in self._parts(window):
            tensors = vars(part)
            whole = whole or {name: some.new_empty((len(window), *some.shape[1:])) for name, some in tensors.items()}
            count = len(next(iter(tensors.values())))
            for name, some in tensors.items():
                whole[name][filled : filled + count] = some
            filled += count
        self.window, self.features = window, type(part)(**whole)
        return self.features

    def _parts(self, window: range) -> Iterator[Any]:
        """Frames shared with the previous window, then the other frames, `chunk` at a time."""
        if window.start < self.window.stop:
            first = window.start - self.window.start
            yield type(self.features)(**{name: some[first:] for name, some in vars(self.features).items()})
        device = next(self.model.parameters()).device
        for first in range(self.window.stop, window.stop, self.chunk):
            count = min(self.chunk, window.stop - first)
            images = resize_frames(torch.stack(list(itertools.islice(self.stream, count))), *self.resized)
            padded = pad_frames(images, *padded_size(*self.resized))
            yield self.model.encode(padded.to(device), torch.tensor([self.resized], device=device).expand(count, 2))
            self.progress.advance(FEATURES, count, f"{self.name}: features of frames {first}-{first + count - 1}")
