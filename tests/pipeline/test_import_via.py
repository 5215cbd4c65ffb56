"""The VGG Image Annotator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from import_helpers import imported, notes_of, problems_of, tracks_of, write


def via(*regions: tuple[int, dict[str, Any], dict[str, Any]], as_objects: bool = False) -> dict[str, Any]:
    """The six images in disorder; regions are (frame, shape, attributes)."""
    images = {}
    for t in (5, 0, 1, 4, 2, 3):
        members = [{"shape_attributes": s, "region_attributes": a} for frame, s, a in regions if frame == t]
        entries = {str(i): member for i, member in enumerate(members)} if as_objects else members
        images[f"{t + 1:06d}.jpg123"] = {"filename": f"{t + 1:06d}.jpg", "size": 123, "regions": entries}
    return images


def rect(x: int, **more: Any) -> dict[str, Any]:
    return {"name": "rect", "x": x, "y": 2, "width": 8, "height": 9} | more


REGIONS = [
    (0, rect(1), {"Track ID": "3", "class": "dog"}),
    (5, {"name": "polygon", "all_points_x": [2, 10, 6], "all_points_y": [2, 5, 11]}, {"Track ID": 3, "class": "dog"}),
    (1, {"name": "circle", "cx": 20, "cy": 30, "r": 5}, {"Track ID": "4", "class": {"cat": True, "dog": False}}),
    (2, {"name": "ellipse", "cx": 20, "cy": 30, "rx": 9, "ry": 5, "theta": 0}, {"Track ID": "4", "class": "cat"}),
    (3, {"name": "point", "cx": 20, "cy": 30}, {"Track ID": "4", "class": "cat"}),
    (4, rect(1), {"Track ID": "", "class": "dog"}),
]


@pytest.mark.parametrize("form", ["project", "annotations", "VIA 1"])
def test_regions_with_tracks(tmp_path: Path, six_images: Path, form: str) -> None:
    images = via(*REGIONS, as_objects=form == "VIA 1")
    file = write(tmp_path / "a.json", {"_via_img_metadata": images} if form == "project" else images)
    assert tracks_of(imported(file, six_images)) == [
        ("dog", [[1, 2, 8, 9], None, None, None, None, [2, 2, 8, 9]]),
        ("cat", [None, [15, 25, 10, 10], [11, 25, 18, 10], None, None, None]),
    ]
    notes = notes_of(file, six_images)
    assert "1 region of type point was left out" in notes and "1 region without a track was left out" in notes


def test_regions_without_tracks_or_classes(tmp_path: Path, six_images: Path) -> None:
    file = write(tmp_path / "a.json", via((0, rect(1), {"class": "dog"})))
    problems = problems_of(file, six_images)
    assert "is VIA, of images without tracks. Give the regions an attribute track_id" in problems
    write(file, via((0, rect(1), {"id": 1}), (1, rect(1, width=None), {"id": 1})))
    problems = problems_of(file, six_images)
    assert "has no class" in problems and "000002.jpg, regions[0]: shape_attributes are" in problems
    write(file, via((0, rect(1), {"id": 1})))
    assert tracks_of(imported(file, six_images, categories=["dog"]))[0][0] == "dog"
