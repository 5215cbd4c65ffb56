"""Plan of a labeling run: the work of each window and of the whole run, and the time and disk space that it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from mfvis.data.augment import fitted_size
from mfvis.data.ytvis import load_dataset
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.cross_video import select_examples
from mfvis.progress import duration
from mfvis.types import Video

CHECK_SECONDS = 4e-9
"""Seconds per pixel of a frame that is checked before the run, on two CPU cores."""
FEATURE_SECONDS = 0.9e-6
"""Seconds per pixel of a frame that the backbone sees (times zoom squared), on two CPU cores."""
STEP_SECONDS = 1.5e-7
"""Seconds per pixel of a training clip and step, on two CPU cores."""
REFINE_SECONDS = 7e-8
"""Seconds per pixel of a video and mask, on two CPU cores."""
DRAW_SECONDS = 8e-8
"""Seconds per pixel of an overlay, on two CPU cores."""
NETWORK_STEP_SECONDS = 0.15
"""Seconds per step of the cross-video network, on two CPU cores."""
STATE_BYTES = 2500
"""Bytes of saved logits per box."""
MASK_BYTES = 700
"""Bytes of a mask in a JSON file."""
OVERLAY_BYTES = 0.08
"""Bytes of an overlay per pixel and frame."""
THUMBNAIL_BYTES = 20_000
CHECK, FEATURES, TRAINING, REFINEMENT, NETWORK, DRAWING = (
    "check of the frames",
    "features",
    "training",
    "refinement",
    "cross-video network",
    "overlays",
)
"""Kinds of work of a run."""


def windows_of_tracks(video: Video, length: int, most: int | None) -> Iterator[tuple[range, list[int]]]:
    """Windows of the video with the tracks that have a box in them, in groups of at most `most` tracks."""
    for first in range(0, video.length, length):
        window = range(first, min(first + length, video.length))
        present = [n for n, track in enumerate(video.tracks) if track.present_T[window.start : window.stop].any()]
        size = most or max(1, len(present))
        for group in range(0, len(present), size):
            yield window, present[group : group + size]


def feature_seconds(config: LabelConfig, video: Video, frames: int) -> float:
    """Estimated seconds of the backbone's features of some frames of a video, on two CPU cores."""
    height, width = fitted_size(video.height, video.width, config.short_side, config.max_side)
    zoom = config.zoom if config.checkpoint is None else 1
    return frames * height * width * zoom**2 * FEATURE_SECONDS


def window_work(config: LabelConfig, video: Video, window: range, group: Collection[int]) -> Counter[str]:
    """Estimated seconds of each kind of work on the tracks of a group in a window, on two CPU cores."""
    height, width = fitted_size(video.height, video.width, config.short_side, config.max_side)
    boxes = sum(int(video.tracks[n].present_T[window.start : window.stop].sum()) for n in group)
    models = config.num_models if config.checkpoint is None else 1
    return Counter(
        {
            FEATURES: feature_seconds(config, video, len(window)),
            TRAINING: models * config.optim.steps * config.clip * height * width * STEP_SECONDS,
            REFINEMENT: boxes * video.height * video.width * REFINE_SECONDS,
        }
    )


def video_work(config: LabelConfig, video: Video, most: int | None = None) -> Counter[str]:
    """Estimated seconds of each kind of work on a video. most: see `windows_of_tracks`."""
    parts = (window_work(config, video, *part) for part in windows_of_tracks(video, config.window, most))
    return sum(parts, Counter())


def second_pass_work(config: LabelConfig, videos: Sequence[Video]) -> Counter[str]:
    """Estimated seconds of each kind of work of the second pass over these videos, which trains nothing."""
    work = sum((video_work(config, video) for video in videos), Counter())
    del work[TRAINING]
    return work


def network_work(config: LabelConfig, videos: Sequence[Video]) -> Counter[str]:
    """Estimated seconds of each kind of work of the training of the cross-video network on these videos."""
    frames = map(len, select_examples(videos))
    features = sum(feature_seconds(config, *example) for example in zip(videos, frames, strict=True))
    return Counter({FEATURES: features, NETWORK: config.shared_steps * NETWORK_STEP_SECONDS})


def check_work(videos: Sequence[Video]) -> Counter[str]:
    """Estimated seconds of the check of the frames of these videos."""
    return Counter({CHECK: sum(video.length * video.height * video.width for video in videos) * CHECK_SECONDS})


def drawing_work(videos: Sequence[Video], overlays: object) -> Counter[str]:
    """Estimated seconds of the overlays of these videos; none if `overlays` is false."""
    seconds = sum(video.length * video.height * video.width for video in videos) * DRAW_SECONDS
    return Counter({DRAWING: seconds if overlays else 0.0})


def plan(config: LabelConfig) -> list[str]:
    """Summary lines of a run: its size, its time on two CPU cores, and the disk space of its results."""
    videos = load_dataset(config.data, config.frames).videos
    boxes = [sum(int(track.present_T.sum()) for track in video.tracks) for video in videos]
    shares = bool(config.shared_steps and len(videos) > 1 and config.checkpoint is None)
    models = config.num_models if config.checkpoint is None else 1
    windows = sum(len({w.start for w, _ in windows_of_tracks(video, config.window, None)}) for video in videos)
    work = sum((video_work(config, video) for video in videos), Counter())
    if shares:
        work += second_pass_work(config, videos) + network_work(config, videos)
    work += drawing_work(videos, config.overlays)
    state = sum(boxes) * (STATE_BYTES if shares else 0)
    masks = sum(boxes) * MASK_BYTES * (2 + shares) + sum(len(video.tracks) for video in videos) * THUMBNAIL_BYTES
    overlays = sum(video.length * video.height * video.width * OVERLAY_BYTES for video in videos) * config.overlays
    return [
        f"videos {len(videos)}, frames {sum(video.length for video in videos)}, boxes {sum(boxes)}",
        f"windows {windows} of {config.window} frames, each with {models} models x {config.optim.steps} steps; "
        f"passes {1 + shares}",
        f"time about {duration(work.total())} on two CPU cores = "
        + " + ".join(f"{duration(seconds)} {kind}" for kind, seconds in work.items()),
        f"disk about {(state + masks + overlays) / 2**20:.0f} MiB = {overlays / 2**20:.0f} overlays + "
        f"{masks / 2**20:.0f} masks and thumbnails + {state / 2**20:.0f} state",
    ]
