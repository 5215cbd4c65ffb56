"""Flags of ``mfvis eval``. The module does not import torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mfvis.data.datasets import DATASET_NAMES


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate results: AP of YouTube-VIS, OVIS or COCO, tracking metrics of BDD100K, mean J of `mfvis label`."""

    results: Annotated[Path, tyro.conf.Positional]
    """Results: a results.json of YouTube-VIS, OVIS or COCO, a Scalabel JSON or folder of bitmasks of BDD100K, or a
    YouTube-VIS data set with generated masks."""
    data: Annotated[
        str,
        tyro.conf.arg(
            help="True masks: a JSON in the layout of YouTube-VIS, OVIS or COCO, or a named data set, NAME:FOLDER or "
            "NAME:JSON (default split: valid; others: @split=train). For BDD100K also the path of its Scalabel JSON or "
            f"folder of bitmasks. Names: {DATASET_NAMES}."
        ),
    ]
    out: Path | None = None
    """JSON file to write the metrics to. Default: none is written."""
