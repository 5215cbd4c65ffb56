"""Name, backbone and sizes of a model; free of torch, so that help texts appear at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from mfvis.errors import ConfigError, require

HUB_MODELS = {
    "resnet50": "microsoft/resnet-50",
    "resnet101": "microsoft/resnet-101",
    "swin-t": "microsoft/swin-tiny-patch4-window7-224",
    "swin-s": "microsoft/swin-small-patch4-window7-224",
    "swin-b": "microsoft/swin-base-patch4-window12-384-in22k",
    "swin-l": "microsoft/swin-large-patch4-window12-384-in22k",
    "mobilenet_v2": "google/mobilenet_v2_1.0_224",
}
"""Hub names of the weights that "hub" selects."""
NAMES = ("tiny", *HUB_MODELS)
RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Depths of the stages."""
SWINS = {
    "swin-t": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    "swin-s": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    "swin-b": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 12},
    "swin-l": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window_size": 12},
}
"""Sizes, as `transformers.SwinConfig` names them."""


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone and its pretrained weights."""

    name: str = "resnet50"
    """tiny, mobilenet_v2, resnet50, resnet101, swin-t, swin-s, swin-b, swin-l; or a backbone with strides 4 to 32 from
    the Hugging Face hub (organization/model) or a local folder. Its config.json is also needed for inference."""
    weights: str | None = None
    """Pretrained weights: a file in any format that `mfvis convert` reads, "hub" (download from the Hugging Face hub),
    or None (random)."""
    frozen: bool = False
    """Freeze the backbone; its forward pass then does not record gradients."""
    stride_in_1x1: bool = False
    """ResNets: stride in the first 1x1 of a stage instead of its 3x3, as weights from Caffe require."""

    def __post_init__(self) -> None:
        if self.name not in NAMES and "/" not in self.name:
            close = difflib.get_close_matches(self.name, NAMES, n=1)
            raise ConfigError(
                f"name is {self.name!r}{f', did you mean {close[0]}?' if close else '.'} "
                f"There are {', '.join(NAMES)}, and those of the hub, organization/model"
            )
        if self.weights == "hub" and self.name == "tiny":
            raise ConfigError(
                f"weights: the hub has no weights for {self.name!r}; name a file, or None to start from random numbers"
            )
        if self.stride_in_1x1 and self.name not in RESNETS:
            raise ConfigError(f"stride_in_1x1: for ResNets only, but the backbone is {self.name!r}")


@dataclass(frozen=True)
class ModelConfig:
    """Name and sizes of the model."""

    name: Literal["mask2former", "seqformer"] = "mask2former"
    """mask2former: video Mask2Former. seqformer: SeqFormer, which also predicts boxes; its sizes are those of the
    preset of the same name."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    hidden_dim: int = 256
    """Channels of the encoder, the queries and Mask2Former's mask features."""
    num_heads: int = 8
    """Number of attention heads; must divide `hidden_dim`."""
    encoder_layers: int = 6
    """Number of encoder layers, which attend over strides 8, 16 and 32 (SeqFormer: and 64) of each frame."""
    encoder_ffn_dim: int = 1024
    """Hidden channels of the feed-forward networks in the encoder."""
    decoder_layers: int = 9
    """Number of decoder layers, in which queries attend to the frames. Each layer has its own loss."""
    decoder_ffn_dim: int = 2048
    """Hidden channels of the feed-forward networks in the decoder."""
    num_queries: int = 100
    """Number of object queries; the maximum number of objects per clip."""
    points: int = 4
    """Sampling points per head and level in deformable attention."""
    dropout: float = 0.0
    """Dropout probability in the encoder and the decoder."""
    box_prompts: bool = False
    """Add an encoder that makes queries from given box tubes. Mask2Former only."""

    def __post_init__(self) -> None:
        # Damaged checkpoints can have sizes beyond any memory; these limits are far above real models.
        limits = {"num_heads": (1, 8192), "num_queries": (1, 100_000), "points": (1, 100)}
        limits |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), (1, 100_000))
        # Without a decoder layer, SeqFormer's queries would see nothing.
        limits |= {"encoder_layers": (0, 100), "decoder_layers": (int(self.name == "seqformer"), 100)}
        rules = {name: (low <= getattr(self, name) <= high, f"{low} to {high}") for name, (low, high) in limits.items()}
        even = self.hidden_dim % 4 == 0 and self.hidden_dim % max(self.num_heads, 1) == 0
        expected = f"a multiple of the {self.num_heads} heads, and of 4 (sines and cosines of x and y), up to 8192"
        rules["hidden_dim"] = (even and 1 <= self.hidden_dim <= 8192, expected)
        prompted = self.box_prompts and self.name != "mask2former"
        rules["box_prompts"] = (not prompted, f"False, as model {self.name} makes no queries from boxes")
        rules["dropout"] = (0 <= self.dropout < 1, "0 to below 1")
        require(self, rules)
