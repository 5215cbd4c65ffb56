"""The models that every command knows: one protocol, and one table from names to classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from mfvis.models.backbone import Backbone
from mfvis.models.config import ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.models.seqformer import SeqFormer
from mfvis.types import BoxPrompts, Prediction


class VideoModel(Protocol):
    """A `torch.nn.Module` that encodes frames, each by itself, and decodes clips of them; ``forward`` does both.

    Encoded frames are a dataclass of tensors whose first axis is the frame, so that they can be joined and sliced.
    """

    config: ModelConfig
    num_classes: int
    backbone: Backbone
    prompts: nn.Module | None
    """Makes queries from given boxes; None: the model takes no boxes."""

    def __call__(
        self,
        frames_BTCHW: Tensor,
        sizes_B2: Tensor | None = None,
        prompts: BoxPrompts | None = None,
        last_only: bool = False,
    ) -> Prediction:
        """Predict from frames of any number type in 0..255; `sizes_B2` is (height, width) before the padding."""
        ...

    def encode(
        self, frames_NCHW: Tensor, sizes_N2: Tensor | None = None, features: tuple[Tensor, ...] | None = None
    ) -> Any:
        """Encode N frames. `features` are the backbone's output for them, where it is known."""
        ...

    def decode(self, frames: Any, batch: int, prompts: BoxPrompts | None = None, last_only: bool = False) -> Prediction:
        """Predict from `batch` clips whose encoded frames lie one clip after the other."""
        ...


MODELS: dict[str, Callable[[ModelConfig, int, bool], VideoModel]] = {
    "mask2former": VideoMask2Former,
    "seqformer": SeqFormer,
}
"""Model classes by the names of `ModelConfig.name`, made from sizes, number of classes, and `pretrained`."""


def build_model(config: ModelConfig, num_classes: int, pretrained: bool = True) -> VideoModel:
    """The model that the configuration names.

    Args:
        config: Name and sizes.
        num_classes: K, without "no object".
        pretrained: Read the backbone's weights named in the configuration. Pass False where a checkpoint with all
            weights is loaded afterwards, so that the file need not be there.
    """
    return MODELS[config.name](config, num_classes, pretrained)
