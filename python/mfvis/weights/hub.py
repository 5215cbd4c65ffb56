"""Backbones of the Hugging Face hub, built by transformers: any with four maps at strides 4, 8, 16 and 32."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers import AutoBackbone, AutoConfig
from transformers.image_processing_base import ImageProcessingMixin

from mfvis.errors import ConfigError
from mfvis.text import printable, shortened
from mfvis.weights.foreign import IMAGENET_MEAN, IMAGENET_STD

DOWNLOAD = "run `hf download {name} {files}`"
"""Download command that messages recommend; it comes with huggingface_hub."""


def is_reachable() -> bool:
    """True if the hub's host name resolves. If it does not, each request would be retried for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():  # proxies resolve host names themselves
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443))
    except OSError:
        return False


def local_folder(name: str) -> str:
    """Local folder of the model: `name` itself, or its folder in the hub's cache.

    Raises:
        ConfigError: there is no such folder.
    """
    if Path(name).is_dir():
        return name
    try:
        file = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        file = None
    if not isinstance(file, str):
        raise ConfigError(
            f"model.backbone.name: {shortened(name)} is a model of the Hugging Face hub that is not on this machine, "
            "and a file does not make mfvis contact the hub. If you trust the model, "
            + DOWNLOAD.format(name=printable(name)[:100], files="config.json preprocessor_config.json")
        )
    return str(Path(file).parent)


def backbone(name: str, pretrained: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """The last four stages of a hub model or local folder, and its pixel mean and standard deviation in 0..255.

    Without `pretrained` the weights are random, but its config.json is still required.

    Raises:
        ConfigError: the model does not exist, transformers has no backbone for it, or its strides differ.
    """
    try:
        options = {"local_files_only": Path(name).is_dir() or not is_reachable()}
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
        stages = list(getattr(config, "stage_names", ()))[-4:]
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, out_features=stages, **options)
        net = AutoBackbone.from_config(config, trust_remote_code=False)
        if pretrained:  # by its class, as AutoBackbone's own method does not accept folders
            net = type(net).from_pretrained(name, out_features=stages, **options)
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
        processing, _ = ImageProcessingMixin.get_image_processor_dict(name, **options)
    except (OSError, ValueError):  # it has no preprocessor_config.json
        processing = {}
    scale = 1 / processing.get("rescale_factor", 1 / 255)
    mean = tuple(scale * x for x in processing.get("image_mean", ())) or IMAGENET_MEAN
    return net, mean, tuple(scale * x for x in processing.get("image_std", ())) or IMAGENET_STD
