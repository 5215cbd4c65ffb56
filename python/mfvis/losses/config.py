"""Weights and settings of the losses and of the matching; free of torch, so that help texts appear at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mfvis.errors import require
from mfvis.losses.pairwise import PairwiseConfig
from mfvis.losses.position_prior import PositionPriorConfig
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.losses.temporal import TemporalConfig

if TYPE_CHECKING:
    from torch import Tensor

    from mfvis.losses.inputs import MaskLossInputs


class MaskLoss(Protocol):
    """A loss of the matched masks with its settings."""

    def weight_at(self, step: int) -> float:
        """Weight after this many steps; 0: the loss is not computed."""

    def term(self, inputs: MaskLossInputs) -> Tensor:
        """The loss, summed over the decoder layers."""


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
    prior: PositionPriorConfig = field(default_factory=PositionPriorConfig)
    """Loss that keeps the masks of an untrained model from becoming hollow; not in the paper."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    released_code: bool = False
    """Compute projection, pairwise and temporal losses as the paper's released code does, which differs from the text;
    see `mfvis.losses.released_code`. `temporal.tube` is then ignored, because the code has its own pairs of frames."""

    def __post_init__(self) -> None:
        names = ("classification", "no_object", "projection", "background")
        rules = {name: (getattr(self, name) >= 0, "0 or more") for name in names}
        lacking = self.propagation.weight > 0 or self.temporal.camera_motion or self.temporal.start > 0
        remedy = "off with propagation.weight, temporal.camera_motion or temporal.start, which it lacks"
        rules["released_code"] = (not (self.released_code and lacking), remedy)
        require(self, rules)

    def mask_losses(self) -> dict[str, MaskLoss]:
        """The losses of the matched masks that have settings of their own, by name."""
        return {
            "pairwise": self.pairwise,
            "temporal": self.temporal,
            "propagation": self.propagation,
            "prior": self.prior,
        }
