"""Weights and settings of the losses and of the matching; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mfvis.errors import require

if TYPE_CHECKING:
    import mfvis_ext


@dataclass(frozen=True)
class BoxConfig:
    """Weights of the box head, in the loss and in the matching cost; 0 for a model without one."""

    l1: float = 0.0
    """On the distance of (cx, cy, w, h): absolute in the loss, Euclidean over the tube in the cost."""
    giou: float = 0.0
    """On 1 - generalized IoU in the loss, on minus the generalized IoU in the cost, averaged over the frames."""
    absent_as_corner: bool = False
    """Train the boxes of frames without the object towards the top left corner, as the original code of SeqFormer does.
    By default these frames do not count."""

    def __post_init__(self) -> None:
        require(self, {name: (getattr(self, name) >= 0, "0 or more") for name in ("l1", "giou")})


@dataclass(frozen=True)
class PairwiseConfig:
    """Which neighbors count; the defaults are BoxInst's and the paper's."""

    weight: float = 5.0
    """On -log of the probability that the two of a pair have one label."""
    start: int = 0
    """Delay in steps before the loss starts; without it, training from scratch can collapse to empty masks."""
    warmup: int = 0
    """Steps after these in which the weight rises."""
    kernel_size: int = 3
    """Side of the neighborhood, odd."""
    dilation: int = 2
    """Cells of the stride-4 grid between neighbors."""
    threshold: float = 0.3
    """Least color similarity exp(-|difference in LAB| / 2) of a pair that counts."""

    def __post_init__(self) -> None:
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "start": (self.start >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "kernel_size": (self.kernel_size >= 3 and self.kernel_size % 2 == 1, "an odd number, 3 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, wanted)


@dataclass(frozen=True)
class TemporalConfig:
    """Search for matches between frames; the defaults are the paper's."""

    weight: float = 0.5
    """5, the weight of the mask losses, times the 0.1 of the paper; the term is summed over the pairs of frames."""
    warmup: int = 200
    """Steps in which the weight rises from 0."""
    tube: Literal["cyclic", "chain", "dense"] = "cyclic"
    """Pairs of frames: neighbors and last with first, neighbors only, or each with each."""
    radius: int = 5
    """Candidates lie up to this many steps away in both directions."""
    dilation: int = 1
    """Cells of the stride-4 grid in such a step."""
    patch_size: int = 3
    """Side of the compared patches, odd."""
    k: int = 5
    """Nearest candidates kept for each pixel."""
    threshold: float = 0.05
    """Least similarity exp(-distance / 2) of a match that counts."""

    def __post_init__(self) -> None:
        candidates = (2 * self.radius + 1) ** 2
        wanted = {
            "weight": (self.weight >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "radius": (self.radius >= 0, "0 or more"),
            "dilation": (self.dilation >= 1, "1 or more"),
            "patch_size": (self.patch_size >= 1 and self.patch_size % 2 == 1, "an odd number, 1 or more"),
            "k": (1 <= self.k <= candidates, f"1 to {candidates}, the candidates within radius {self.radius}"),
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
        }
        require(self, wanted)

    def tk_loss(self) -> mfvis_ext.TKLoss:
        """The loss with these settings, on frames in LAB of the size of the masks."""
        import mfvis_ext

        return mfvis_ext.TKLoss(
            self.patch_size, self.radius, self.dilation, self.k, self.threshold, self.tube, rgb=False
        )


@dataclass(frozen=True)
class MaskConfig:
    """Weights and points; used with ``--supervision masks`` only. The defaults are Mask2Former's."""

    bce: float = 5.0
    """On the cross-entropy at the points."""
    dice: float = 5.0
    """On 1 - dice at the points."""
    points: int = 12544
    """Points per object and frame; the default is 112 x 112."""
    oversample: float = 3.0
    """Candidates for each uncertain point."""
    dense: bool = False
    """Focal loss and dice over all cells, as SeqFormer, instead of cross-entropy and dice at points."""
    importance: float = 0.75
    """Share of the points put where the prediction is least certain."""

    def __post_init__(self) -> None:
        wanted = {
            "bce": (self.bce >= 0, "0 or more"),
            "dice": (self.dice >= 0, "0 or more"),
            "points": (self.points >= 1, "1 or more"),
            "oversample": (self.oversample >= 1, "1 or more"),
            "importance": (0 <= self.importance <= 1, "0 to 1"),
        }
        require(self, wanted)


@dataclass(frozen=True)
class MatchConfig:
    """Weights of the matching cost."""

    classification: float = 2.0
    """On 1 - probability of the object's class."""
    box: float = 5.0
    """On 1 - dice between the box tube of the predicted mask and the given one. Unused with ``--supervision masks``."""
    mask_bce: float = 5.0
    """On the cross-entropy at random points. Used with ``--supervision masks`` only."""
    mask_dice: float = 5.0
    """On 1 - dice at the same points. Used with ``--supervision masks`` only."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """For models with a box head, whose masks are then not looked at."""
    points: int = 12544
    """Random points per frame, the same ones in every frame of a clip. Used with ``--supervision masks`` only."""

    def __post_init__(self) -> None:
        weights = ("classification", "box", "mask_bce", "mask_dice")
        wanted = {name: (getattr(self, name) >= 0, "0 or more") for name in weights}
        require(self, wanted | {"points": (self.points >= 1, "1 or more")})


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; the defaults are the paper's."""

    classification: float = 2.0
    """On the cross-entropy of the classes."""
    no_object: float = 0.1
    """Weight of the class "no object" among the others."""
    boxes: BoxConfig = field(default_factory=BoxConfig)
    """For models with a box head."""
    projection: float = 5.0
    """On 1 - dice between the projections of mask and box, onto x and onto y."""
    background: float = 0.0
    """On -log(1 - p) of the pixels outside the box; not in the paper."""
    pairwise: PairwiseConfig = field(default_factory=PairwiseConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    released_code: bool = False
    """Compute projection, pairwise and temporal losses as the paper's released code does, which differs from its text;
    see `mfvis.losses.released_code`. `temporal.tube` is then unused: the code has its own pairs of frames."""

    def __post_init__(self) -> None:
        names = ("classification", "no_object", "projection", "background")
        require(self, {name: (getattr(self, name) >= 0, "0 or more") for name in names})
