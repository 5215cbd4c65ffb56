"""The backbone and the sizes of a model; free of torch, so that help texts appear at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

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
"""The weights that "hub" stands for."""
NAMES = ("tiny", *HUB_MODELS)
RESNETS = ("resnet50", "resnet101")


@dataclass(frozen=True)
class BackboneConfig:
    """Which backbone, and where its pretrained weights come from."""

    name: str = "resnet50"
    """tiny, mobilenet_v2, resnet50, resnet101, swin-t, swin-s, swin-b, swin-l; or a backbone of the Hugging Face hub
    with strides 4 to 32, organization/model, or a folder that holds one: config.json is needed wherever it is used."""
    weights: str | None = None
    """A file of any format that `mfvis convert` reads, "hub" (downloads from the Hugging Face hub), or None: random."""
    frozen: bool = False
    """Keep the backbone as it is; its forward pass then records no gradient."""
    stride_in_1x1: bool = False
    """ResNets: stride in the first 1x1 of a stage, not in its 3x3. So do the weights that come from Caffe."""

    def __post_init__(self) -> None:
        if self.name not in NAMES and "/" not in self.name:
            close = difflib.get_close_matches(self.name, NAMES, n=1)
            raise ConfigError(
                f"name is {self.name!r}{f', did you mean {close[0]}?' if close else '.'} "
                f"There are {', '.join(NAMES)}, and those of the hub, organization/model"
            )
        if self.weights == "hub" and self.name == "tiny":
            raise ConfigError(f"weights: the hub has no weights for {self.name!r}; leave them out")
        if self.stride_in_1x1 and self.name not in RESNETS:
            raise ConfigError(f"stride_in_1x1: of ResNets alone, but the backbone is {self.name!r}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; the defaults are Mask2Former's with a ResNet-50."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    hidden_dim: int = 256
    """Channels of the pixel decoder, the queries and the mask features."""
    num_heads: int = 8
    """Attention heads, which share these channels."""
    encoder_layers: int = 6
    """Layers of the pixel decoder, which attend over strides 8, 16 and 32 of each frame."""
    encoder_ffn_dim: int = 1024
    """Channels inside the feed-forward network of a pixel decoder's layer."""
    decoder_layers: int = 9
    """Layers in which the queries attend to all frames, at strides 32, 16 and 8 in turns; each has its own loss."""
    decoder_ffn_dim: int = 2048
    """Channels inside the feed-forward network of a decoder layer."""
    num_queries: int = 100
    """Most objects that one clip can have."""
    points: int = 4
    """Sampling points per head and level in the pixel decoder's deformable attention."""
    dropout: float = 0.0
    """Share of the activations that training sets to 0 in pixel decoder and decoder."""
    box_prompts: bool = False
    """Also learn to make queries from given box tubes."""

    def __post_init__(self) -> None:
        # Damaged checkpoints ask for sizes that no machine can hold; nothing near these limits was ever trained.
        limits = {"num_heads": (1, 8192), "num_queries": (1, 100_000), "points": (1, 100)}
        limits |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), (1, 100_000))
        limits |= dict.fromkeys(("encoder_layers", "decoder_layers"), (0, 100))
        wanted = {
            name: (low <= getattr(self, name) <= high, f"{low} to {high}") for name, (low, high) in limits.items()
        }
        even = self.hidden_dim % 4 == 0 and self.hidden_dim % max(self.num_heads, 1) == 0
        expected = f"a multiple of the {self.num_heads} heads, and of 4 (sines and cosines of x and y), up to 8192"
        wanted["hidden_dim"] = (even and 1 <= self.hidden_dim <= 8192, expected)
        wanted["dropout"] = (0 <= self.dropout < 1, "0 to below 1")
        require(self, wanted)
