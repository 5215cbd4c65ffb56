"""``mfvis label --dry-run``: the time and the disk space that a run will take, estimated from its boxes."""

from __future__ import annotations

from mfvis.data.augment import fitted_size
from mfvis.data.ytvis import load_dataset
from mfvis.label.config import LabelConfig

FEATURE_SECONDS = 0.9e-6
"""Seconds per pixel of a frame that the backbone sees (times zoom squared), on two CPU cores."""
STEP_SECONDS = 1.5e-7
"""Seconds per pixel of a training clip and step, on two CPU cores."""
REFINE_SECONDS = 7e-8
"""Seconds per pixel of a video and mask, on two CPU cores."""
STATE_BYTES = 2500
"""Bytes of saved logits per box."""
MASK_BYTES = 700
"""Bytes of a mask in a JSON file."""
OVERLAY_BYTES = 0.08
"""Bytes of an overlay per pixel and frame."""
THUMBNAIL_BYTES = 20_000


def plan(config: LabelConfig) -> list[str]:
    """Summary lines of a run: its size, its time on two CPU cores, and the disk space of its results."""
    videos = load_dataset(config.data, config.frames).videos
    boxes = [sum(int(track.present_T.sum()) for track in video.tracks) for video in videos]
    passes = 2 if config.shared_steps and len(videos) > 1 and config.checkpoint is None else 1
    models = config.num_models if config.checkpoint is None else 1
    features = steps = refine = pictures = 0.0
    windows = 0
    for video, count in zip(videos, boxes, strict=True):
        height, width = fitted_size(video.height, video.width, config.short_side, config.max_side)
        parts = -(-video.length // config.window) if count else 0
        windows += parts
        features += passes * video.length * height * width * config.zoom**2 * FEATURE_SECONDS * bool(count)
        steps += parts * models * config.optim.steps * config.clip * height * width * STEP_SECONDS
        refine += passes * count * video.height * video.width * REFINE_SECONDS
        pictures += video.length * video.height * video.width * OVERLAY_BYTES
    state = sum(boxes) * (STATE_BYTES if passes > 1 else 0)
    masks = sum(boxes) * MASK_BYTES * (passes + 1) + sum(len(video.tracks) for video in videos) * THUMBNAIL_BYTES
    overlays = pictures if config.overlays else 0
    return [
        f"videos {len(videos)}, frames {sum(video.length for video in videos)}, boxes {sum(boxes)}",
        f"windows {windows} of {config.window} frames, each with {models} models x {config.optim.steps} steps; "
        f"passes {passes}",
        f"time about {_duration(features + steps + refine)} on two CPU cores = {_duration(features)} features + "
        f"{_duration(steps)} training + {_duration(refine)} refinement",
        f"disk about {(state + masks + overlays) / 2**20:.0f} MiB = {overlays / 2**20:.0f} overlays + "
        f"{masks / 2**20:.0f} masks and thumbnails + {state / 2**20:.0f} state",
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
