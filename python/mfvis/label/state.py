"""State of a labeling run: the hashes of its inputs, and the saved results of each pass over the videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfvis.data.jsonfile import read_json, write_json
from mfvis.errors import ConfigError
from mfvis.label.config import LabelConfig
from mfvis.parsing import changed_keys, to_plain
from mfvis.predict.saved_results import Inputs, hash_of, read_part, write_part
from mfvis.types import TrackResult, Video


class SavedPass:
    """Saved results of one pass over the videos: a file for each video, with the hashes of its inputs.

    Args:
        folder: Folder of the files.
        inputs: Hashes of the inputs of each video, by its id.
    """

    def __init__(self, folder: Path, inputs: Mapping[int, Inputs]):
        self.folder, self.inputs = folder, inputs

    def read(self, video: Video) -> tuple[list[TrackResult] | None, str]:
        """Saved results of a video, and ""; or None and the reason, which is "" if there are none."""
        content, reason = read_part(self._path(video), self.inputs[video.id])
        if content is None:
            return None, reason
        return [result_of(video, n, tuple(masks)) for n, masks in enumerate(content)], ""

    def write(self, video: Video, results: list[TrackResult]) -> None:
        """Save the results of a video."""
        write_part(self._path(video), self.inputs[video.id], [list(result.segmentations) for result in results])

    def _path(self, video: Video) -> Path:
        return self.folder / f"{video.id}.json"


def result_of(video: Video, n: int, segmentations: tuple[dict | None, ...]) -> TrackResult:
    """Result of the video's n-th track with these masks."""
    track = video.tracks[n]
    return TrackResult(video.id, track.category_id, 1.0, segmentations, track.boxes_T4, track.id)


def hash_of_boxes(video: Video) -> str:
    """Hash of the size of a video and of its tracks."""
    tracks = [[track.id, track.category_id, track.boxes_T4.tolist()] for track in video.tracks]
    return hash_of([video.width, video.height, video.length, tracks])


def saved_results(folder: Path, video: Video, known: Inputs) -> tuple[Inputs, list[TrackResult] | None]:
    """Results that another process saved for a video, with the hashes of their inputs.

    None unless these contain the hashes `known`. The other process has checked the hash of the frames.
    """
    content = read_json(folder / f"{video.id}.json", []) if (folder / f"{video.id}.json").exists() else None
    made_from = content.get("made_from") if isinstance(content, dict) else None
    inputs = {**known, "frames": made_from.get("frames") if isinstance(made_from, dict) else None}
    return inputs, SavedPass(folder, {video.id: inputs}).read(video)[0]


def same_settings(config: LabelConfig, weights: str, path: Path) -> dict[str, Any]:
    """Settings that determine the masks, saved at `path`.

    weights: hash of the initial weights.

    Raises:
        ConfigError: `path` holds other settings, and labels made with them exist.
    """
    settings = to_plain(config)
    settings["checkpoint"] = config.checkpoint is not None
    settings["backbone"]["weights"] = weights
    for name in ("data", "out", "frames", "device", "overlays", "shard"):  # contents matter, not locations
        del settings[name]
    before = read_json(path, [])
    if before == settings:
        return settings
    # This also replaces settings left by a run that failed before it had labeled anything.
    labeled = [part for part in path.parent.rglob("*") if part != path and part.is_file()]
    results = [part for part in labeled if part.suffix == ".json"]
    of_these = any(read_part(part, {"settings": hash_of(settings)})[0] is not None for part in results)
    if labeled and isinstance(before, dict) and not of_these:
        lines = "\n".join(f"  {line}" for line in changed_keys(before, settings))
        raise ConfigError(
            f"{config.out} holds labels made with other settings:\n{lines}\n"
            f"Choose another --out, or delete {path.parent} to label again"
        )
    if labeled:
        print(f"{path} is damaged; what was labeled before is used where it was made with these settings")
    write_json(path, settings)
    return settings
