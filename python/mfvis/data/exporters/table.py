"""Table of the export formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mfvis.data.exporters.cvat import write_cvat
from mfvis.data.exporters.images import write_davis, write_mots
from mfvis.data.exporters.json_formats import write_coco, write_youtube_vis
from mfvis.data.exporters.label_studio import write_label_studio
from mfvis.data.exporters.source import Export
from mfvis.data.exporters.texts import write_motchallenge, write_mots_text, write_yolo


@dataclass(frozen=True)
class Exporter:
    """A format that masks and boxes are written in."""

    name: str
    summary: str
    """Content, for the help text."""
    suffixes: tuple[str, ...]
    """Possible suffixes of the output; "" for a folder."""
    write: Callable[[Export, Path], None]
    """Function that writes the file, or the files of the folder. Each file is written atomically."""
    images: str = "images"
    """Folder of the images, ``VIDEO/FRAME``, in the output's folder; with ``{video}`` that of a video's frames."""
    needs_masks: bool = False
    """True if boxes without masks cannot be written."""
    mask_encodings: bool = False
    """True if the format has several encodings of masks, for `masks` to choose from."""
    marks: bool = False
    """True if the format has clicks and scribbles."""


EXPORTERS = (
    Exporter("coco", "COCO JSON with track_id, an image per frame", (".json",), write_coco, mask_encodings=True),
    Exporter("youtube-vis", "YouTube-VIS JSON", (".json",), write_youtube_vis, mask_encodings=True, marks=True),
    Exporter("cvat", "CVAT for video 1.1, an XML per video", (".xml", ""), write_cvat, mask_encodings=True, marks=True),
    Exporter("yolo", "YOLO segmentation with data.yaml", ("",), write_yolo, "images/train", needs_masks=True),
    Exporter("davis", "DAVIS palette PNG", ("",), write_davis, "JPEGImages", needs_masks=True),
    Exporter("mots", "MOTS PNG with 16 bits", ("",), write_mots, "{video}/images", needs_masks=True),
    Exporter("mots-text", "MOTS text", ("",), write_mots_text, "{video}/img1", needs_masks=True),
    Exporter("motchallenge", "MOTChallenge text, boxes only", ("",), write_motchallenge, "{video}/img1"),
    Exporter("label-studio", "Label Studio, brush masks of images", (".json",), write_label_studio, needs_masks=True),
)
"""Formats in the order of the help text."""
EXPORT_FORMATS = tuple(exporter.name for exporter in EXPORTERS)
FORMATS_HELP = "; ".join(f"{exporter.name}: {exporter.summary}" for exporter in EXPORTERS)
