"""Backbones of the Hugging Face hub, as transformers builds them: any with four maps at strides 4, 8, 16 and 32."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig
from transformers.image_processing_base import ImageProcessingMixin

from mfvis.errors import ConfigError
from mfvis.models.foreign import IMAGENET_MEAN, IMAGENET_STD


def backbone(name: str, pretrained: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """The last four stages of a model of the hub or of a folder, and its pixels' mean and standard deviation in 0..255.

    Without `pretrained` the weights are random, but its config.json must be at hand all the same.

    Raises:
        ConfigError: there is none of this name, transformers has no backbone of its kind, or its strides are others.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        stages = list(getattr(config, "stage_names", ()))[-4:]
        net = AutoBackbone.from_config(AutoConfig.from_pretrained(name, out_features=stages))
        if pretrained:  # by its class, as AutoBackbone's own method takes no folders
            net = type(net).from_pretrained(name, out_features=stages)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.backbone.name: {name} cannot be had as a backbone ({reason}). Name a model of the hub that "
            "transformers' AutoBackbone knows, or a folder with its config.json"
        ) from error
    with torch.no_grad():
        maps = net.eval()(torch.zeros(1, 3, 64, 64)).feature_maps
    strides = [64 // x.shape[-1] for x in maps]
    if strides != [4, 8, 16, 32]:
        raise ConfigError(f"model.backbone.name: {name} gives maps at strides {strides}; 4, 8, 16 and 32 are needed")
    try:
        processing, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):  # it has no preprocessor_config.json
        processing = {}
    scale = 1 / processing.get("rescale_factor", 1 / 255)
    mean = tuple(scale * x for x in processing.get("image_mean", ())) or IMAGENET_MEAN
    return net, mean, tuple(scale * x for x in processing.get("image_std", ())) or IMAGENET_STD
