"""Flags of ``mfvis eval``; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.data.datasets import DATASET_NAMES


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate results: AP of YouTube-VIS, OVIS or COCO, BDD100K's segmentation tracking, mean J of `mfvis label`."""

    results: Annotated[Path, tyro.conf.Positional]
    """A results.json of YouTube-VIS, OVIS or COCO; BDD100K's Scalabel JSON or folder of bitmasks; or a YouTube-VIS
    data set whose tracks were given masks."""
    data: Annotated[
        str,
        tyro.conf.arg(
            help="The true masks: a JSON in the layout of YouTube-VIS, OVIS or COCO, or a data set by its name, "
            "NAME:FOLDER or NAME:JSON (its split valid; others: @split=train); for BDD100K also its Scalabel JSON, or "
            f"folder of bitmasks, itself. Names: {DATASET_NAMES}."
        ),
    ]
    out: Path | None = None
    """Where to write the numbers as JSON."""
