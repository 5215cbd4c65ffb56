"""Objects of a CVAT task: its tracks, joined with masks that CVAT stores as tracks of one frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mfvis.data.importers.boxes import Box
from mfvis.data.importers.cvat_shapes import Shape
from mfvis.data.importers.source import ImportedFile

MIN_IOU = 0.5
"""Minimum IoU of the box of a mask without a group and the box of the track that it belongs to."""


@dataclass
class CvatObject:
    """An object with its shapes in the frames in which it is visible."""

    id: str
    label: str
    group: str
    """``group_id``; empty if it has none."""
    shapes: dict[int, Shape]

    @property
    def is_mask(self) -> bool:
        """True for a mask of one frame, which is a shape and not a track in CVAT."""
        return len(self.shapes) == 1 and all(shape.kind == "mask" for shape in self.shapes.values())


def join_masks(objects: Sequence[CvatObject], source: ImportedFile) -> list[CvatObject]:
    """Objects whose masks in single frames were joined to tracks.

    CVAT has no mask tracks. Masks of one label and one group are an object, together with the other tracks of that
    group, if no two of them lie in the same frame; its id is that of the group. A mask without a group belongs to the
    track of its label whose box in that frame overlaps most. All others remain objects of one frame.
    """
    groups: dict[tuple[str, str], list[CvatObject]] = defaultdict(list)
    rest = []
    for entry in objects:
        (groups[entry.label, entry.group] if entry.group else rest).append(entry)
    taken = {entry.id for entry in rest}
    joined = []
    for (label, group), members in groups.items():
        frames = [t for member in members for t in member.shapes]
        if len(set(frames)) == len(frames) and any(member.is_mask for member in members):
            id = group if group not in taken else members[0].id
            taken.add(id)
            shapes = {t: shape for member in members for t, shape in member.shapes.items()}
            joined.append(CvatObject(id, label, group, dict(sorted(shapes.items()))))
        else:
            joined += members
    tracks = [entry for entry in rest if not entry.is_mask] + joined
    single = 0
    for entry in rest:
        if not entry.is_mask:
            continue
        ((t, mask),) = entry.shapes.items()
        track = _nearest(mask, entry.label, t, tracks)
        if track is not None:
            track.shapes[t] = mask
        else:
            tracks.append(entry)
            single += 1
    if single > 1:
        source.note(
            f"{single} masks have no group and overlap no track, so that each is a track of its own; in CVAT, give the "
            "masks of one object one group"
        )
    return tracks


def _nearest(mask: Shape, label: str, t: int, tracks: Sequence[CvatObject]) -> CvatObject | None:
    """The track of this label whose shape in frame t, which is not a mask, overlaps the mask's box most."""
    candidates = [
        (_iou(mask.box(), track.shapes[t].box()), i)
        for i, track in enumerate(tracks)
        if track.label == label and t in track.shapes and track.shapes[t].kind != "mask"
    ]
    best, i = max(candidates, default=(0.0, -1))
    return tracks[i] if best >= MIN_IOU else None


def _iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)
