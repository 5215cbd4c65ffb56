"""Saved results of single videos, from which an interrupted run resumes.

Each file contains hashes of its inputs: settings, weights, boxes, frames. It is used only if these are the same, so
results of other inputs are never mixed in, even if files were moved or edited in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfvis.data.jsonfile import read_json, write_json
from mfvis.errors import CheckpointError, VideoError
from mfvis.text import counted
from mfvis.train.checkpoint import read_tensors, save_tensors
from mfvis.types import Video

Inputs = Mapping[str, str | None]
"""Hashes of the inputs of a result, by name; None if unknown."""


def hash_of(value: Any) -> str:
    """Hash of a JSON-serializable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_of_frames(video: Video) -> str | None:
    """Hash of the contents of a video's files; None if one cannot be read."""
    digest = hashlib.sha256()
    files = (video.frames,) if isinstance(video.frames, Path) else video.frames
    try:
        for path in files:
            if not path.is_file():
                return None
            digest.update(str(path.stat().st_size).encode() + b" ")
            with path.open("rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def hash_all_frames(videos: Sequence[Video]) -> list[str | None]:
    """`hash_of_frames` of each video, on all CPU cores."""
    print(f"reading {counted(sum(video.length for video in videos), 'frame')}", flush=True)
    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(hash_of_frames, videos))


def hash_of_weights(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def require_unchanged(video: Video, frames: str | None) -> None:
    """Raise VideoError unless the video's files still have this hash."""
    if hash_of_frames(video) != frames:
        raise VideoError(
            f"video {video.name}: its frames changed while they were worked on. Start again when they are complete"
        )


def differences(before: Inputs, now: Inputs) -> list[str]:
    """Names of the inputs that differ. Unknown inputs count as equal."""
    return [name for name in now if None not in (now[name], before.get(name, "")) and before.get(name, "") != now[name]]


def write_part(path: Path, inputs: Inputs, content: Any) -> None:
    """Save the result of a video, which must be JSON-serializable."""
    write_json(path, {"made_from": dict(inputs), "crc32": _checksum(content), "content": content})


def read_part(path: Path, inputs: Inputs) -> tuple[Any | None, str]:
    """Result that `write_part` saved, and ""; or None and the reason, which is "" if the file does not exist."""
    if not path.exists():
        return None, ""
    part = read_json(path, [])
    if not isinstance(part, dict) or not isinstance(part.get("made_from"), dict) or "content" not in part:
        return None, f"{path} is damaged"
    if part.get("crc32") != _checksum(part["content"]):
        return None, f"{path} is damaged"
    changed = differences(part["made_from"], inputs)
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (None, f"its {' and '.join(changed[:3])}{more} changed") if changed else (part["content"], "")


def write_tensors_of(path: Path, inputs: Inputs, tensors: dict[str, Tensor]) -> None:
    """Save tensors by name, such as mask logits."""
    save_tensors(path, {"made_from": dict(inputs), "tensors": tensors})


def saved_inputs_of(path: Path) -> Inputs | None:
    """Inputs of the tensors that `write_tensors_of` saved; None without a valid file."""
    try:
        made_from = read_tensors(path).get("made_from")
    except CheckpointError:
        return None
    return made_from if isinstance(made_from, dict) else None


def read_tensors_of(path: Path, inputs: Inputs) -> dict[str, Tensor] | None:
    """Tensors that `write_tensors_of` saved; None if the file is absent, damaged, or made from other inputs."""
    if not path.exists():
        return None
    try:
        content = read_tensors(path)
    except CheckpointError:
        print(f"{path} is damaged; it is made again", flush=True)
        return None
    made_from, tensors = content.get("made_from"), content.get("tensors")
    valid = isinstance(made_from, dict) and isinstance(tensors, dict)
    return tensors if valid and not differences(made_from, inputs) else None


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content).encode())
