"""Types passed between the stages of the pipeline.

Names of tensors and arrays end in their axes:
    B clip   N object   T frame   Q query   L decoder layer   C channel   K class   H, W height, width   4 x1 y1 x2 y2
Boxes are float32 ``(x1, y1, x2, y2)`` in pixels, half-open; ``x2 <= x1`` or ``y2 <= y1`` means absent.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import and is not needed to read data sets and flags
    import torch
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def present(boxes: Array) -> Array:
    """bool ``[...]``: True for those of the boxes ``[..., 4]`` that are present."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


@dataclass(frozen=True)
class Category:
    """Class of the data set: its id in the JSON file and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class Track:
    """One object of a video: its class and its boxes per frame."""

    id: int
    category_id: int
    boxes_T4: np.ndarray
    """float32 ``[T, 4]``; a row of zeros where the object is absent."""
    segmentations: tuple[Any, ...] | None = None
    """Undecoded mask of each frame as in the JSON (polygons, either RLE, or None); None: no masks."""
    areas: tuple[float | None, ...] | None = None
    iscrowd: bool | None = False
    """True for crowds; None: not in the file, which means False."""
    occlusion: tuple[str | None, ...] | None = None
    """Occlusion level of each frame in OVIS's terms; None: not in the file."""

    @property
    def present_T(self) -> np.ndarray:
        """bool ``[T]``: True in frames in which the object has a box."""
        return present(self.boxes_T4)


@dataclass(frozen=True)
class Video:
    """A video and its tracks. Frames stay where they are until `mfvis.data.video.read_frames` reads them."""

    id: int
    name: str
    width: int
    height: int
    length: int
    frames: tuple[Path, ...] | Path | np.ndarray
    """Image files in order, or one video file, or RGB uint8 ``[T, H, W, 3]`` in memory."""
    tracks: tuple[Track, ...] = ()
    fps: float | None = None


@dataclass(frozen=True)
class VideoDataset:
    """A data set in memory: the content of the JSON, without frames."""

    path: Path
    categories: tuple[Category, ...]
    """Classes in ascending order of their ids; the index is the model's contiguous label."""
    videos: tuple[Video, ...]
    notes: tuple[str, ...] = ()
    """Messages about records that were ignored or changed on reading."""
    of_images: bool = False
    """True if the videos are the images of a COCO file, which have their own evaluation."""

    def label_of(self, category_id: int) -> int:
        """The contiguous label, 0 to K - 1, of a category id."""
        return next(label for label, category in enumerate(self.categories) if category.id == category_id)


@dataclass(frozen=True)
class Clip:
    """T frames of one video at the model's input size, with the objects that have a box in at least one of them."""

    frames_TCHW: Tensor
    """uint8 RGB."""
    boxes_NT4: Tensor
    labels_N: Tensor
    """int64, contiguous."""
    masks_NTHW: Tensor | None
    """bool; None unless masks were requested (``--supervision masks``, evaluation)."""
    video_id: int
    frame_indices: tuple[int, ...]
    track_ids: tuple[int, ...]


class ClipOrigin(NamedTuple):
    """Origin of a clip of a batch."""

    video_id: int
    frame_indices: tuple[int, ...]
    track_ids: tuple[int, ...]
    """Ids of its objects, in their order."""


@dataclass(frozen=True)
class Batch:
    """B clips of equal T, padded at the right and bottom to one size, with their objects in one list, clip by clip."""

    frames_BTCHW: Tensor
    """uint8 RGB, padded with the mean color to a multiple of 32."""
    boxes_NT4: Tensor
    labels_N: Tensor
    video_index_N: Tensor
    """int64: index of each object's clip, 0..B-1."""
    masks_NTHW: Tensor | None
    sizes_B2: Tensor
    """int64 ``(height, width)`` of each clip before padding."""
    clips: tuple[ClipOrigin, ...]

    @property
    def objects_of_clips(self) -> list[slice]:
        """Range of the objects of each clip; known on the host, which avoids a synchronization with the GPU."""
        ends = list(itertools.accumulate(len(origin.track_ids) for origin in self.clips))
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self._tensors()})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for asynchronous copies to a GPU. torch's data loader calls this."""
        return replace(self, **{name: value.pin_memory() for name, value in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in vars(self).items() if name != "clips" and value is not None]


class MaskSource(Protocol):
    """Mask logits of a prediction, computed on demand, because most queries do not match an object."""

    def select(self, clip: int, query_LM: Tensor, frames: slice = slice(None)) -> Tensor:
        """Mask logits ``[L, M, T, H / 4, W / 4]`` of M queries of one clip, selected separately per decoder layer.

        frames: the T frames of the clip to compute; all of them by default.
        """
        ...

    def all_queries(self, layer: int, clip: int) -> Tensor:
        """Mask logits ``[Q, T, H / 4, W / 4]`` of all queries of one clip at one decoder layer."""
        ...


@dataclass(frozen=True)
class DenseMasks:
    """`MaskSource` of masks that are already computed."""

    logits_LBQTHW: Tensor

    def select(self, clip: int, query_LM: Tensor, frames: slice = slice(None)) -> Tensor:
        import torch

        # One selection per layer, because the gradient of an index with several tensors is summed element by element.
        layers = zip(self.logits_LBQTHW.unbind(), query_LM.unbind(), strict=True)
        return torch.stack([layer[clip, :, frames].index_select(0, query_M) for layer, query_M in layers])

    def all_queries(self, layer: int, clip: int) -> Tensor:
        return self.logits_LBQTHW[layer, clip]


@dataclass(frozen=True)
class Prediction:
    """Classes and mask tubes of all queries after each decoder layer, the last layer last."""

    logits_LBQK: Tensor
    """Class logits: K + 1 of a softmax whose last class is "no object", or K of independent sigmoids."""
    masks: MaskSource
    """Mask logits on the stride-4 grid of the padded frames, on demand."""
    embeddings_LBQC: Tensor | None = None
    """Decoded queries, used to associate objects across windows of a video."""
    no_object: bool = True
    """True if the last logit is that of "no object"."""
    boxes_LBTQ4: Tensor | None = None
    """(cx, cy, w, h), 0..1 over the frames without padding, where the model predicts boxes."""

    @property
    def scores_LBQK(self) -> Tensor:
        """float32 probabilities of the K classes."""
        logits_LBQK = self.logits_LBQK.float()
        return logits_LBQK.softmax(-1)[..., :-1] if self.no_object else logits_LBQK.sigmoid()


@dataclass(frozen=True)
class BoxPrompts:
    """Given box tubes, Q for each clip of a batch; the model makes one query from each."""

    boxes_BQT4: Tensor
    """float32 pixels of the padded frames."""
    valid_BQ: Tensor
    """bool; False for padding in clips with fewer than Q tubes."""


@dataclass(frozen=True)
class Match:
    """Assignment of queries to objects, per decoder layer."""

    query_LN: Tensor
    """int64: index of the query, within the object's clip, assigned to object n at layer l."""


@dataclass(frozen=True)
class TrackResult:
    """One predicted (or labeled) track of a video at the video's own size."""

    video_id: int
    category_id: int
    score: float
    segmentations: tuple[dict[str, Any] | None, ...]
    """Compressed COCO RLE ``{"size": [h, w], "counts": str}`` of each frame, or None if the mask is empty."""
    boxes_T4: np.ndarray
    """float32 ``[T, 4]``: boxes of the masks; zeros for empty masks."""
    track_id: int | None = None
    """The id of the given track in label mode."""
    given: frozenset[int] = frozenset()
    """Frames whose masks a person has given, in label mode."""
    quality: tuple[float | None, ...] = ()
    """Expected J of each frame's mask in label mode, None without a mask; empty if unknown."""
