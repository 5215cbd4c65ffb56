"""Training files of a study: parts of a YouTube-VIS file, and files with masks that were made from boxes or predicted.

A file is the content of its JSON. Nothing here changes its argument.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mfvis.data.rle import encode_mask
from mfvis.eval.mean_j import filled_box


def known_masks(data: Path) -> Path:
    """The training videos with their true masks."""
    apart = data / "train_masks.json"
    return apart if apart.exists() else data / "train.json"


def of_videos(root: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """The videos of these ids and their annotations."""
    videos = [video for video in root["videos"] if video["id"] in kept]
    annotations = [annotation for annotation in root["annotations"] if annotation["video_id"] in kept]
    return root | {"videos": videos, "annotations": annotations}


def of_domains(root: dict[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    """The videos of these domains; all of them if none is named."""
    chosen = {video["id"] for video in root["videos"] if not domains or video.get("domain") in domains}
    if not chosen:
        raise ValueError(f"no video of the domains {', '.join(domains)}")
    return of_videos(root, chosen)


def annotated_part(root: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """A random share of the videos, at least one; the same for boxes and masks."""
    ids = sorted(video["id"] for video in root["videos"])
    return of_videos(root, set(random.Random(seed).sample(ids, max(1, round(share * len(ids))))))


def without_masks(root: dict[str, Any]) -> dict[str, Any]:
    """The same boxes, and no masks."""
    left_out = ("segmentations", "areas")
    annotations = [{k: v for k, v in entry.items() if k not in left_out} for entry in root["annotations"]]
    return root | {"annotations": annotations}


def with_filled_boxes(root: dict[str, Any]) -> dict[str, Any]:
    """The filled boxes as masks."""
    sizes = {video["id"]: (video["height"], video["width"]) for video in root["videos"]}

    def filled(annotation: dict[str, Any]) -> list[dict[str, Any] | None]:
        return [
            encode_mask(filled_box(np.array([x, y, x + w, y + h]), *sizes[annotation["video_id"]])) if w else None
            for x, y, w, h in (box or (0, 0, 0, 0) for box in annotation["bboxes"])
        ]

    annotations = [annotation | {"segmentations": filled(annotation)} for annotation in root["annotations"]]
    return root | {"annotations": annotations}


def with_predicted_videos(
    annotated: dict[str, Any], root: dict[str, Any], results: Sequence[dict[str, Any]], min_score: float
) -> dict[str, Any]:
    """The annotated videos, and each other video of `root` that has a predicted track with this score or more.

    The masks and boxes of these tracks become the annotations of such a video. A video without one is left out, as it
    would be learned from as a video without objects.

    Args:
        annotated: a part of `root`.
        results: content of a results.json for the videos of `root`.

    Raises:
        ValueError: no predicted track has the score.
    """
    known = {video["id"] for video in annotated["videos"]}
    others = {video["id"] for video in root["videos"]} - known
    kept = [result for result in results if result["video_id"] in others and result["score"] >= min_score]
    kept = [result for result in kept if any(result["bboxes"])]
    if not kept:
        best = max((result["score"] for result in results if result["video_id"] in others), default=0.0)
        message = f"no predicted track has a score of {min_score:g}, the best has {best:.3f}"
        raise ValueError(f"{message}; lower the score of self_training")
    first = 1 + max(annotation["id"] for annotation in root["annotations"])
    predicted = [
        {
            "id": id,
            "video_id": result["video_id"],
            "category_id": result["category_id"],
            "iscrowd": 0,
            "bboxes": result["bboxes"],
            "segmentations": [
                mask if box else None for mask, box in zip(result["segmentations"], result["bboxes"], strict=True)
            ],
        }
        for id, result in enumerate(kept, first)
    ]
    both = of_videos(root, known | {result["video_id"] for result in kept})
    return both | {"annotations": [*annotated["annotations"], *predicted]}
