"""State of a labeling run: the hashes of its inputs, and the saved results of each pass over the videos."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfvis.data.jsonfile import read_json, write_json
from mfvis.errors import ConfigError
from mfvis.labeling.config import LabelConfig
from mfvis.labeling.corrections import Corrections
from mfvis.labeling.quality import score_of
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
        return (None, reason) if content is None else (_results(video, content), "")

    def write(self, video: Video, results: Sequence[TrackResult]) -> None:
        """Save the results of a video."""
        content = [
            {
                "id": result.track_id,
                "masks": list(result.segmentations),
                "quality": list(result.quality),
                "given": sorted(result.given),
            }
            for result in results
        ]
        write_part(self._path(video), self.inputs[video.id], content)

    def _path(self, video: Video) -> Path:
        return self.folder / f"{video.id}.json"


def _results(video: Video, content: list[dict[str, Any]]) -> list[TrackResult]:
    return [
        replace(result_of(video, n, tuple(track["masks"]), tuple(track["quality"])), given=frozenset(track["given"]))
        for n, track in enumerate(content)
    ]


def outdated_results(folder: Path, video: Video) -> list[TrackResult] | None:
    """Saved results of a video, whatever their inputs were; None unless they are of the same tracks and length."""
    content, _ = read_part(folder / f"{video.id}.json", {})
    if content is None or [track["id"] for track in content] != [track.id for track in video.tracks]:
        return None
    return _results(video, content) if all(len(track["masks"]) == video.length for track in content) else None


def result_of(
    video: Video, n: int, segmentations: tuple[dict | None, ...], quality: tuple[float | None, ...]
) -> TrackResult:
    """Result of the video's n-th track with these masks."""
    track = video.tracks[n]
    return TrackResult(
        video.id, track.category_id, score_of(quality), segmentations, track.boxes_T4, track.id, quality=quality
    )


def selected_tracks(names: Sequence[str], videos: Sequence[Video]) -> dict[int, Collection[int]]:
    """Indices of the tracks to label, by the id of the video: all of them, or those that ``--only`` names.

    Raises:
        ConfigError: a name is not that of a video, or of a track of it.
    """
    if not names:
        return {video.id: range(len(video.tracks)) for video in videos}
    selected: dict[int, set[int]] = {}
    unknown = []
    for name in names:
        matches = [
            (video, n)
            for video in videos
            for n, track in enumerate(video.tracks)
            if name in (video.name, str(video.id), f"{video.name}/{track.id}", f"{video.id}/{track.id}")
        ]
        for video, n in matches:
            selected.setdefault(video.id, set()).add(n)
        unknown += [] if matches else [name]
    if unknown:
        known = ", ".join(video.name for video in videos[:5])
        raise ConfigError(
            f"only is {', '.join(unknown)}, expected VIDEO or VIDEO/TRACK: names or ids of videos with boxes, such as "
            f"{known}, and ids of their tracks"
        )
    return selected


def hashes_of(video: Video, corrections: Corrections | None) -> Inputs:
    """Hashes of the boxes and corrections of each track, and of the list of tracks."""
    corrections, frames = corrections or Corrections(), range(video.length)
    hashes = {"tracks": hash_of([video.width, video.height, video.length, [t.id for t in video.tracks]])}
    for n, track in enumerate(video.tracks):
        hashes[f"boxes of track {track.id}"] = hash_of([track.category_id, track.boxes_T4.tolist()])[:16]
        hashes[f"corrections of track {track.id}"] = hash_of(corrections.of(n, frames))[:16]
    return hashes


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
    for name in (
        "data",
        "out",
        "frames",
        "device",
        "overlays",
        "shard",
        "only",
        "given_masks",
    ):  # contents matter, not locations
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
