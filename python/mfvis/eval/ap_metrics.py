"""AP metrics of predicted tracks: the twelve of YouTube-VIS and COCO, the eighteen of OVIS."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class Rules:
    """Rules in which the reference program of images differs from that of videos."""

    small: float
    """Largest area of a small object, in pixels."""
    large: float
    """Smallest area of a large object, in pixels. Medium objects lie between the two."""
    crowd_uses_ioa: bool
    """True to overlap a prediction with a crowd by the fraction of it inside the crowd, False to use IoU."""

    def areas(self, name: str) -> tuple[float, float]:
        """Smallest and largest area of a `Range.area`."""
        small, large = self.small, self.large
        return {"all": (0.0, 1e10), "small": (0.0, small), "medium": (small, large), "large": (large, 1e10)}[name]


YOUTUBE_VIS = Rules(128.0**2, 256.0**2, crowd_uses_ioa=False)
COCO = Rules(32.0**2, 96.0**2, crowd_uses_ioa=True)


@dataclass(frozen=True)
class Range:
    """Range of mean area and occlusion of the annotations that count, both ends included."""

    area: str = "all"
    occlusion: str = "all"

    @property
    def occlusions(self) -> tuple[float, float]:
        return {"all": (0.0, 1.0), "light": (0.0, 0.25), "medium": (0.25, 0.5), "heavy": (0.5, 1.0)}[self.occlusion]


@dataclass(frozen=True)
class MetricSpec:
    """Definition of one metric: the mean of precisions or final recalls over a slice of the results."""

    name: str
    field: str
    kind: str
    """"Precision" or "Recall"."""
    iou: int | None = None
    """Index of the single IoU threshold. None: all ten."""
    range: Range = Range()
    max_detections: int = 100
    """Number of highest-scoring tracks of each video and class that count."""


_SIZES = {"s": "small", "m": "medium", "l": "large"}
_OCCLUDED = {"so": "light", "mo": "medium", "ho": "heavy"}
METRICS = (
    MetricSpec("AP", "ap", "Precision"),
    MetricSpec("AP50", "ap50", "Precision", iou=0),
    MetricSpec("AP75", "ap75", "Precision", iou=5),
    *(MetricSpec(f"AP{s}", f"ap_{size}", "Precision", range=Range(area=size)) for s, size in _SIZES.items()),
    *(MetricSpec(f"AP{s}", f"ap_{o}_occlusion", "Precision", range=Range(occlusion=o)) for s, o in _OCCLUDED.items()),
    *(MetricSpec(f"AR{n}", f"ar{n}", "Recall", max_detections=n) for n in MAX_DETECTIONS),
    *(MetricSpec(f"AR{s}", f"ar_{size}", "Recall", range=Range(area=size)) for s, size in _SIZES.items()),
    *(MetricSpec(f"AR{s}", f"ar_{o}_occlusion", "Recall", range=Range(occlusion=o)) for s, o in _OCCLUDED.items()),
)
"""Metrics in the order of the reference programs: the twelve of YouTube-VIS are among the eighteen of OVIS."""


@dataclass(frozen=True)
class ApMetrics:
    """AP and AR in 0..1; -1 if the slice has no annotations; None if occlusion was not evaluated."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_light_occlusion: float | None
    ap_medium_occlusion: float | None
    ap_heavy_occlusion: float | None
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    ar_light_occlusion: float | None
    ar_medium_occlusion: float | None
    ar_heavy_occlusion: float | None

    def as_dict(self) -> dict[str, float]:
        """Twelve or eighteen metrics by their common names ("AP", "APs", "APso", ...)."""
        values = {metric.name: getattr(self, metric.field) for metric in METRICS}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class ClassMetrics(ApMetrics):
    """Metrics of one class."""

    name: str
    used: bool = True
    """True if the class has annotations or results. Otherwise all metrics are -1."""


@dataclass(frozen=True)
class Metrics(ApMetrics):
    """Metrics of a data set: means over the classes that have annotations in the slice."""

    classes: tuple[ClassMetrics, ...]
    """Classes in ascending order of their category ids."""
    notes: tuple[str, ...] = ()
    """Notes on data with which the reference program would have stopped."""
