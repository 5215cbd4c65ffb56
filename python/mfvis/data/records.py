"""Readers of single fields of annotation and result files. Problems are collected, repairs are counted.

Users cannot fix published files. A reader therefore reports a problem only if it cannot continue, or if the result
would probably be wrong. Everything else becomes a note.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mfvis.data.jsonfile import LARGEST, MAX_PIXELS, as_integer, is_finite, kind_of
from mfvis.data.rle import decode_mask, mask_box
from mfvis.errors import DataError, Problem
from mfvis.text import counted, name_fault, shortened
from mfvis.types import Category, Video

ROUNDING = 1.0
"""Pixels by which a box may exceed its image (inclusive corners, rounding) and be clipped without a note."""
MAX_SHARE_OUTSIDE = 1 / 3
"""If more than this fraction of a file's boxes exceeds the image, its sizes or its box format are wrong."""
MAX_ID_BITS = 128
"""Bits of the largest id, which is that of a UUID; ids become file names."""
ABSENT = (0.0, 0.0, 0.0, 0.0)


@dataclass
class RecordReader:
    """Reader of the records of one JSON file, which collects their problems."""

    file: str
    boxes_from_masks: bool = False
    lenient: bool = False
    """True for published data sets: repair everything that can be repaired, however often it occurs."""
    problems: list[Problem] = field(default_factory=list)
    noted: Counter[str] = field(default_factory=Counter)
    boxes_read: int = 0
    outside: list[Problem] = field(default_factory=list)
    """Boxes that exceed their image; `finish` decides whether they are problems."""
    extents: dict[str, float] = field(default_factory=dict)
    """Largest coordinate of the boxes of each video, or of all images in COCO's layout."""

    def report(self, record: str, problem: str, remedy: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(self.file, record, problem, remedy))

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or changed, for `notes`."""
        self.noted[what] += count

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of note."""
        return tuple(f"{self.file}: {what} ({count})" for what, count in self.noted.items())

    def finish(self) -> None:
        """Report problems that only all boxes together show. Call it once, after the last record."""
        if self.outside and not self.lenient and len(self.outside) > MAX_SHARE_OUTSIDE * self.boxes_read:
            self.problems += self.outside
        elif self.outside:
            self.note("boxes that reached outside their image, clipped to it", len(self.outside))
        for record, extent in self.extents.items():
            if extent <= 1:
                problem = "no box is as large as a pixel: are these shares of the image?"
                self.report(record, problem, "Multiply by its size")

    def entries(self, root: dict[str, Any], name: str, needed: bool) -> Iterator[tuple[str, Any]]:
        """Each entry of a top-level list, with its index as the name of the record."""
        entries = root.get(name)
        if entries is None:
            if needed:
                remedy = f"Add the list {name!r}; mfvis data import makes a JSON of other box tracks"
                self.report("top level", f"has no {name!r}", remedy)
            return
        if not isinstance(entries, list):
            self.report(
                "top level", f"{name!r} is {kind_of(entries)}, expected a list", f"Make {name!r} a list of objects"
            )
            return
        for index, entry in enumerate(entries):
            yield f"{name}[{index}]", entry

    def fields(self, record: str, entry: Any, names: Sequence[str]) -> dict[str, int] | None:
        """Required integer fields of a record. None, with a report, if one is missing or not an integer."""
        if not isinstance(entry, dict):
            self.report(record, f"is {kind_of(entry)}, expected an object", "Write an object with its keys")
            return None
        values = {name: as_integer(entry.get(name)) for name in names}
        for name in names:
            if name not in entry:
                self.report(record, f"has no {name!r}", "Add it")
            elif values[name] is None:
                self.report(record, f"{name} is {shortened(entry[name])}, expected an integer", "Write an integer")
            elif values[name].bit_length() > MAX_ID_BITS:
                self.report(record, f"{name} is {shortened(entry[name])}", "Write an integer of at most 38 digits")
                values[name] = None
            elif isinstance(entry[name], str):
                self.note("ids and sizes that are texts, read as the numbers that they say")
        return None if None in values.values() else values

    def unique(self, id: int, seen: Collection[int], record: str, noun: str) -> bool:
        """True if an id is new. Duplicates are reported."""
        if id in seen:
            self.report(record, f"{noun} id {id} is a duplicate", "Give each one an id of its own")
        return id not in seen

    def sized(self, record: str, fields: dict[str, int]) -> bool:
        """True if width and height are plausible for an image. Others are reported."""
        faulty = [name for name in ("width", "height") if not 0 < fields[name] <= LARGEST]
        for name in faulty:
            self.report(record, f"{name} is {shortened(fields[name])}", "Write the size of the images")
        too_many = not faulty and fields["width"] * fields["height"] > MAX_PIXELS
        if too_many:
            problem = f"an image of {fields['width']} x {fields['height']} pixels is more than can be worked with"
            self.report(record, problem, f"Write the true size, or give images of at most {MAX_PIXELS} pixels")
        return not faulty and not too_many

    def categories(self, root: dict[str, Any]) -> dict[int, Category]:
        """Categories of a file by id."""
        categories: dict[int, Category] = {}
        for record, entry in self.entries(root, "categories", needed=bool(root.get("annotations"))):
            fields = self.fields(record, entry, ("id",))
            if fields is None or not self.unique(fields["id"], categories, record, "category"):
                continue
            name = entry.get("name")
            if name is None or name == "":
                self.note("categories without a name, called by their ids")
                name = fields["id"]
            elif not isinstance(name, str | int | float) or isinstance(name, bool):
                self.report(record, f"name is {shortened(name)}, expected a text", "Name the category")
            elif fault := name_fault(str(name)):
                self.report(record, f"name {shortened(name)} {fault}", "Give it a shorter, plain name")
            name = str(name)
            categories[fields["id"]] = Category(fields["id"], name)
        return categories

    def declared(self, root: dict[str, Any], name: str) -> dict[int, None] | None:
        """Ids in a top-level list, including those of broken records. None if one of them cannot be read.

        References to a broken record are not reported, since its own problem already is.
        """
        entries = root.get(name)
        ids = [
            as_integer(entry.get("id")) if isinstance(entry, dict) else None
            for entry in (entries if isinstance(entries, list) else (None,))
        ]
        return None if None in ids else dict.fromkeys(ids)

    def known(
        self,
        record: str,
        fields: dict[str, int],
        videos: Collection[int] | None,
        categories: Collection[int] | None,
        owner: Literal["video", "image"] = "video",
    ) -> bool:
        """True if the video (or image) and the category of a record exist. Missing ones are reported. None: all
        exist."""
        id = fields[f"{owner}_id"]
        known_video = videos is None or id in videos
        known_category = categories is None or fields["category_id"] in categories
        if not known_video and self.lenient:
            self.note(f"annotations of {owner}s that are not in the file, left out")
        elif not known_video:
            self.report(record, f"{owner} {id} is unknown", f"Add it to '{owner}s', or correct {owner}_id")
        if not known_category:
            known_ids = ", ".join(str(category) for category in list(categories)[:10]) or "none"
            self.report(
                record,
                f"category {fields['category_id']} is unknown, known are {known_ids}",
                "Add it to 'categories', or correct category_id",
            )
        return known_video and known_category

    def crowd(self, record: str, entry: dict[str, Any]) -> bool | None:
        """True if an annotation is a crowd. None if the file does not say."""
        value = entry.get("iscrowd")
        if value not in (None, 0, 1):
            self.report(record, f"iscrowd is {shortened(value)}, expected 0 or 1", "Write 0 or 1")
            return False
        return None if value is None else bool(value)

    def note_id(self, id: int) -> None:
        """Note an annotation of id 0, which evaluation cannot count as matched."""
        if id == 0:
            self.note("annotations of id 0: number them from 1, as the field's programs never count id 0 as matched")

    def per_frame(self, record: str, name: str, entry: dict[str, Any], length: int) -> list[Any] | None:
        """A list with an entry for each frame. None if it is missing, or, with a report, if it has another form."""
        values = entry.get(name)
        if values is None:
            return None
        if not isinstance(values, list):
            self.report(record, f"{name} is {kind_of(values)}, expected a list", "Write one entry or null per frame")
            return None
        if len(values) != length:
            self.report(
                record,
                f"{name} has {counted(len(values), 'entry')}, the video {counted(length, 'frame')}",
                "Write one entry or null per frame",
            )
            return None
        return values

    def boxes(
        self, record: str, entry: dict[str, Any], video: Video, segmentations: Sequence[Any] | None
    ) -> np.ndarray:
        """Boxes of the ``bboxes`` of an annotation or result, float32 ``[T, 4]`` xyxy; zeros without a valid box."""
        boxes: list[Any] = []
        if entry.get("bboxes") is not None:
            group = f"video {video.id}"
            for t, box in enumerate(self.per_frame(record, "bboxes", entry, video.length) or ()):
                boxes.append(ABSENT if box is None else self.box(f"{record}, frame {t}", box, video, group))
        elif segmentations is None:
            self.report(record, "has no bboxes", "Write [x, y, width, height] or null per frame")
        elif not self.boxes_from_masks:
            self.report(
                record, "has masks but no bboxes", "Write bboxes, or take the boxes of the masks: FILE@boxes=masks"
            )
        else:
            boxes = [
                self.box_of_mask(f"{record}, frame {t}", segmentation, video)
                for t, segmentation in enumerate(segmentations)
            ]
        # The declared length cannot be used for zeros, since it may be arbitrarily large.
        return np.array(boxes or [ABSENT] * len(segmentations or ()), np.float32).reshape(-1, 4)

    def box_of_mask(self, record: str, segmentation: Any, video: Video) -> np.ndarray:
        """Box of a mask, float32 ``[4]``; zeros if the mask is empty or, with a report, damaged."""
        if segmentation is None:
            return np.zeros(4, np.float32)
        try:
            return mask_box(decode_mask(segmentation, video.height, video.width, file=self.file, record=record))
        except DataError as error:
            self.problems += error.problems
            return np.zeros(4, np.float32)

    def box(self, record: str, box: Any, video: Video, group: str) -> tuple[float, float, float, float]:
        """``(x1, y1, x2, y2)`` of ``[x, y, width, height]``, clipped to the image; zeros if the object is absent.

        `group` names the boxes that `finish` judges together.
        """
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            self._odd_box(record, box)
            return ABSENT
        x, y, w, h = box
        if w <= 0 or h <= 0:
            if min(w, h) < 0 and not self.lenient:
                remedy = "Write [x, y, width, height] in pixels, or null where the object is absent"
                self.report(record, f"the box {shortened(box)} has a negative size", remedy)
            else:
                self.note("boxes without size, taken as absent")
            return ABSENT
        x2, y2, width, height = x + w, y + h, video.width, video.height
        self.boxes_read += 1
        if self.extents.get(group, 0.0) < max(x2, y2):
            self.extents[group] = max(x2, y2)
        within = (
            -ROUNDING <= x < width and x2 <= width + ROUNDING and -ROUNDING <= y < height and y2 <= height + ROUNDING
        )
        if not within or x2 <= 0 or y2 <= 0:
            problem = f"the box {shortened(box)} reaches outside the image, {width} x {height}"
            remedy = "Clip it to the image (boxes are [x, y, width, height])"
            self.outside.append(Problem(self.file, record, problem, remedy))
        x, y, x2, y2 = max(x, 0), max(y, 0), min(x2, width), min(y2, height)
        return (x, y, x2, y2) if x2 > x and y2 > y else ABSENT

    def _odd_box(self, record: str, box: Any) -> None:
        """Note or report a value that is not a box."""
        if box == []:
            return
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            self.report(record, f"the box is {shortened(box)}", "Write [x, y, width, height] in pixels, or null")
        elif all(isinstance(v, float) and math.isnan(v) for v in box):
            self.note("boxes of NaN, taken as absent")
        else:
            self.report(
                record, f"the box {shortened(box)} is not finite", "Write numbers, or null where the object is absent"
            )
