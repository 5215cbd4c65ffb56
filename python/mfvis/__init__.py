"""Masks from boxes: video instance segmentation trained without a single mask.

The functions below are the Python interface; `mfvis.api` documents them. They are imported on first use, so that
``import mfvis`` needs neither torch nor the operators.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfvis.api import evaluate as evaluate
    from mfvis.api import export as export
    from mfvis.api import export_model as export_model
    from mfvis.api import label as label
    from mfvis.api import load_dataset as load_dataset
    from mfvis.api import load_model as load_model
    from mfvis.api import predict_video as predict_video

    __version__: str

__all__ = [
    "__version__",
    "evaluate",
    "export",
    "export_model",
    "label",
    "load_dataset",
    "load_model",
    "predict_video",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("mfvis-ext")
        except metadata.PackageNotFoundError:
            return "0+unknown"
    if name in __all__:
        return getattr(importlib.import_module("mfvis.api"), name)
    raise AttributeError(f"module 'mfvis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
