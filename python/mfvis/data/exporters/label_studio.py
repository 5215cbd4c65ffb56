"""Writer of Label Studio tasks with brush masks, one task per frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfvis.data.exporters.source import Export, Rle
from mfvis.data.jsonfile import write_json
from mfvis.data.rle import decode_mask, encode_mask, uncompress

RUN_BITS = (4, 8, 12, 16)
"""Sizes in bits of the lengths of runs; each run names one of them."""


def write_label_studio(export: Export, path: Path) -> None:
    """Label Studio: a task with an annotation per frame; every mask is a region of type ``brushlabels``.

    Label Studio's video regions are rectangles, so that its videos cannot have masks: frames are images here, and the
    track is in the region's ``meta``. The labeling configuration needs ``<Image name="image" value="$image"/>`` and
    ``<BrushLabels name="tag" toName="image">``. Images are expected in local storage, below its root.
    """
    tasks = []
    for video in export.videos:
        for t, name in enumerate(video.file_names):
            regions = [
                _region(f"{track.id}-{t}", rle, track.category.name, track.id)
                for track in video.tracks
                if (rle := track.rles[t]) is not None
            ]
            data = {"image": f"/data/local-files/?d={name}", "video": video.name, "frame": t}
            tasks.append({"data": data, "annotations": [{"result": regions}]})
    write_json(path, tasks)


def _region(id: str, rle: Rle, category: str, track_id: int) -> dict[str, Any]:
    height, width = rle["size"]
    return {
        "id": id,
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(brush_rle(rle)), "brushlabels": [category]},
        "meta": {"text": [f"track {track_id}"]},
    }


def brush_rle(rle: Rle) -> bytes:
    """The mask in Label Studio's encoding: runs of the bytes of an RGBA image, row by row, 255 inside the mask.

    Bits: 32 of the number of bytes, 5 of the word size - 1, 4 x 4 of `RUN_BITS` - 1; then for each run a 1, 2 of the
    index of its size in `RUN_BITS`, its length - 1, and 8 of its byte.
    """
    mask_HW = decode_mask(rle, *rle["size"])
    runs = uncompress(encode_mask(mask_HW.T)["counts"]) or []  # COCO's runs go column by column
    bits = [f"{4 * mask_HW.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for i, run in enumerate(runs):
        value = f"{255 * (i % 2):08b}"
        length = 4 * run
        while length > 0:
            part = min(length, 1 << RUN_BITS[-1])
            index = next(index for index, size in enumerate(RUN_BITS) if part <= 1 << size)
            bits.append(f"1{index:02b}{part - 1:0{RUN_BITS[index]}b}{value}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")
