"""Weights and settings of the losses and of the matching; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mfvis.errors import require

if TYPE_CHECKING:
    import mfvis_ext


@dataclass(frozen=True)
class BoxConfig:
    """Weights of the box head's losses and matching costs; not used by models without a box head."""

    l1: float = 5.0
    """Weight of the distance of (cx, cy, w, h): L1 in the loss, Euclidean over the tube in the cost."""
    giou: float = 2.0
    """Weight of 1 - generalized IoU in the loss, of the negative generalized IoU in the cost, averaged over frames."""
    absent_as_corner: bool = False
    """In frames without the object, train boxes toward the top left corner, as the original code of SeqFormer does.
    By default these frames are ignored."""

    def __post_init__(self) -> None:
        require(self, {name: (getattr(self, name) >= 0, "0 or more") for name in ("l1", "giou")})


@dataclass(frozen=True)
class PairwiseConfig:
    """Pairwise loss: weight, schedule and selection of neighbors."""

    weight: float = 5.0
    """Weight of -log of the probability that both pixels of a pair have the same label."""
    start: int = 0
    """Delay in steps before the loss starts; without it, training from scratch can collapse to empty masks."""
    warmup: int = 0
    """Steps after `start` over which the weight rises linearly from 0."""
    kernel_size: int = 3
    """Side of the neighborhood; odd."""
    dilation: int = 2
    """Distance between neighbors, in cells of the stride-4 grid."""
    threshold: float = 0.3
    """Minimum color similarity exp(-|difference in LAB| / 2) of a pair."""

    def __post_init__(self) -> None:
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "start": (self.start >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "kernel_size": (self.kernel_size >= 3 and self.kernel_size % 2 == 1, "an odd number, 3 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, rules)


@dataclass(frozen=True)
class TemporalConfig:
    """TK-Loss: weight and search for matches between frames."""

    weight: float = 0.5
    """Weight of the loss, which is summed over pairs of frames. The default is the paper's 0.1 times 5, the weight of
    the mask losses."""
    warmup: int = 200
    """Steps over which the weight rises linearly from 0."""
    tube: Literal["cyclic", "chain", "dense"] = "cyclic"
    """Pairs of frames: cyclic (adjacent frames, and last with first), chain (adjacent frames), or dense (all pairs)."""
    radius: int = 5
    """Search radius along each axis, in steps of `dilation` cells."""
    dilation: int = 1
    """Distance between candidates, in cells of the stride-4 grid."""
    patch_size: int = 3
    """Side of the compared patches; odd."""
    k: int = 5
    """Number of best candidates kept for each pixel."""
    threshold: float = 0.05
    """Minimum similarity exp(-distance / 2) of a match."""
    camera_motion: bool = False
    """Center each search on the position that the camera's motion predicts, instead of on the same position."""

    def __post_init__(self) -> None:
        candidates = (2 * self.radius + 1) ** 2
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "patch_size": (self.patch_size >= 1 and self.patch_size % 2 == 1, "an odd number, 1 or more"),
            "k": (1 <= self.k <= candidates, f"1 to {candidates}, the candidates within radius {self.radius}"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, rules)

    def tk_loss(self) -> mfvis_ext.TKLoss:
        """The loss with these settings; it takes LAB frames at the size of the masks."""
        import mfvis_ext

        return mfvis_ext.TKLoss(
            self.patch_size, self.radius, self.dilation, self.k, self.threshold, self.tube, rgb=False
        )


@dataclass(frozen=True)
class BackgroundPropagationConfig:
    """Propagation of known background from other frames into boxes, and its weight in the loss."""

    weight: float = 1.0
    """Weight of the loss on propagated background and on the ring around the boxes; 0 disables the propagation."""
    smoothing: float = 0.1
    """Share of the box's pixels added to the divisor of the loss. A few propagated pixels, which may be errors, thus
    weigh less."""
    frame_gaps: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 11, 15, 20, 26)
    """Distances in frames to the other frames, in both directions. Distant frames help with slow objects."""
    radius: int = 3
    """Search radius around the position that the camera motion predicts, in grid cells."""
    distance: float = 16.0
    """Largest LAB distance between the 3 x 3 patches of a match."""
    min_frames: int = 2
    """Minimum number of other frames in which a pixel must match background outside the box."""

    def __post_init__(self) -> None:
        rules = {
            "weight": (self.weight >= 0, "0 or more"),
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "frame_gaps": (
                len(self.frame_gaps) > 0 and min(self.frame_gaps) >= 1,
                "one or more numbers of frames, each 1 or more",
            ),
            "radius": (self.radius >= 0, "0 or more"),
            "distance": (self.distance >= 0, "0 or more"),
            "min_frames": (self.min_frames >= 1, "1 or more"),
        }
        require(self, rules)


@dataclass(frozen=True)
class MaskConfig:
    """Mask losses of ``--supervision masks``: weights and point sampling."""

    bce: float = 5.0
    """Weight of the cross-entropy at the points."""
    dice: float = 5.0
    """Weight of 1 - dice at the points."""
    points: int = 12544
    """Sampled points per object and frame; the default is 112 x 112."""
    oversample: float = 3.0
    """Random candidates per sampled point."""
    dense: bool = False
    """Use focal loss and dice over all cells, as SeqFormer, instead of cross-entropy and dice at points."""
    importance: float = 0.75
    """Share of the points sampled where the prediction is least certain."""

    def __post_init__(self) -> None:
        rules = {
            "bce": (self.bce >= 0, "0 or more"),
            "dice": (self.dice >= 0, "0 or more"),
            "points": (self.points >= 1, "1 or more"),
            "oversample": (self.oversample >= 1, "1 or more"),
            "importance": (0 <= self.importance <= 1, "0 to 1"),
        }
        require(self, rules)


@dataclass(frozen=True)
class MatchConfig:
    """Weights of the matching cost."""

    classification: float = 2.0
    """Weight of 1 - probability of the object's class."""
    box: float = 5.0
    """Weight of 1 - dice between the box tube of the predicted mask and the given box tube. Unused with
    ``--supervision masks``."""
    mask_bce: float = 5.0
    """Weight of the cross-entropy at random points. Used only with ``--supervision masks``."""
    mask_dice: float = 5.0
    """Weight of 1 - dice at the same points. Used only with ``--supervision masks``."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """Costs for models with a box head; their masks are then ignored in matching."""
    points: int = 12544
    """Random points per frame, the same in every frame of a clip. Used only with ``--supervision masks``."""

    def __post_init__(self) -> None:
        weights = ("classification", "box", "mask_bce", "mask_dice")
        rules = {name: (getattr(self, name) >= 0, "0 or more") for name in weights}
        require(self, rules | {"points": (self.points >= 1, "1 or more")})


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses."""

    classification: float = 2.0
    """Weight of the classification loss."""
    no_object: float = 0.1
    """Weight of the class "no object" relative to the other classes."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """Losses for models with a box head."""
    projection: float = 5.0
    """Weight of 1 - dice between the projections of mask and box onto x and y."""
    background: float = 0.0
    """Weight of -log(1 - p) at pixels outside the box; not in the paper."""
    pairwise: PairwiseConfig = field(default_factory=PairwiseConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    propagation: BackgroundPropagationConfig = field(
        default_factory=lambda: BackgroundPropagationConfig(weight=0.0, min_frames=1)
    )
    """Loss on background that the other frames of a clip show inside the boxes; not in the paper."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    released_code: bool = False
    """Compute projection, pairwise and temporal losses as the paper's released code does, which differs from the text;
    see `mfvis.losses.released_code`. `temporal.tube` is then ignored, because the code has its own pairs of frames."""

    def __post_init__(self) -> None:
        names = ("classification", "no_object", "projection", "background")
        rules = {name: (getattr(self, name) >= 0, "0 or more") for name in names}
        ignored = self.released_code and (self.propagation.weight > 0 or self.temporal.camera_motion)
        rules["released_code"] = (not ignored, "off with propagation.weight or temporal.camera_motion, which it lacks")
        require(self, rules)
