"""Objects of a CVAT task: its tracks, joined with masks that CVAT stores as tracks of one frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mfvis.data.importers.boxes import Box
from mfvis.data.importers.cvat_shapes import Shape
from mfvis.data.importers.source import ImportedFile

OUTLINES = frozenset({"mask", "polygon"})
MIN_IOU = 0.5
"""Minimum IoU of the box of an outline without a group and the box of the track that it belongs to."""


@dataclass
class CvatObject:
    """An object with its shapes in the frames in which it is visible."""

    id: str
    label: str
    group: str
    """``group_id``; empty if it has none."""
    shapes: dict[int, Shape]

    @property
    def is_outline(self) -> bool:
        """True for a mask or polygon of one frame, which is probably a shape and not a track in CVAT."""
        return len(self.shapes) == 1 and all(shape.kind in OUTLINES for shape in self.shapes.values())


def join_masks(objects: Sequence[CvatObject], source: ImportedFile) -> list[CvatObject]:
    """Objects whose outlines in single frames, masks and polygons, were joined to tracks.

    CVAT has no mask tracks. Outlines of one label and one group are an object, together with the other tracks of that
    group, if no two of them lie in the same frame; its id is that of the group. An outline without a group belongs to
    the track of its label whose box in that frame overlaps most. All others remain objects of one frame.
    """
    groups: dict[tuple[str, str], list[CvatObject]] = defaultdict(list)
    rest = []
    for entry in objects:
        (groups[entry.label, entry.group] if entry.group else rest).append(entry)
    taken = {entry.id for entry in rest}
    joined = []
    for (label, group), members in groups.items():
        frames = [t for member in members for t in member.shapes]
        if len(set(frames)) == len(frames) and any(member.is_outline for member in members):
            id = group if group not in taken else members[0].id
            taken.add(id)
            shapes = {t: shape for member in members for t, shape in member.shapes.items()}
            joined.append(CvatObject(id, label, group, dict(sorted(shapes.items()))))
        else:
            joined += members
    tracks = [entry for entry in rest if not entry.is_outline] + joined
    single = corrected = 0
    for entry in rest:
        if not entry.is_outline:
            continue
        ((t, mask),) = entry.shapes.items()
        track = _nearest(mask, entry.label, t, tracks)
        if track is not None:
            track.shapes[t] = mask
            corrected += 1
        else:
            tracks.append(entry)
            single += 1
    if corrected:
        source.note(f"outlines of single frames became masks of the tracks that they overlap ({corrected})")
    if single > 1:
        source.note(
            f"{single} outlines have no group and overlap no track, so that each is a track of its own; in CVAT, give "
            "the outlines of one object one group"
        )
    return tracks


def _nearest(mask: Shape, label: str, t: int, tracks: Sequence[CvatObject]) -> CvatObject | None:
    """The track of this label whose shape in frame t, which is not an outline, overlaps the mask's box most."""
    candidates = [
        (_iou(mask.box(), track.shapes[t].box()), i)
        for i, track in enumerate(tracks)
        if track.label == label and t in track.shapes and track.shapes[t].kind not in OUTLINES
    ]
    best, i = max(candidates, default=(0.0, -1))
    return tracks[i] if best >= MIN_IOU else None


def _iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)
