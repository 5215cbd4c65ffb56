"""Backbones: four feature maps at strides 4, 8, 16 and 32. Each backbone applies its own input normalization."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoBackbone, ResNetConfig, SwinConfig

from mfvis.errors import CheckpointError
from mfvis.models.config import HUB_MODELS, NAMES, RESNETS, SWINS, BackboneConfig
from mfvis.weights import hub
from mfvis.weights.files import LoadReport, load_weights, read_weights, require_finite
from mfvis.weights.foreign import IMAGENET_MEAN, IMAGENET_STD, ConvertedWeights

_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def offline(config: BackboneConfig) -> BackboneConfig:
    """Replace a hub name in the configuration by the model's folder in the local cache.

    Used for names in files of unknown origin: building the backbone then does not contact a server.

    Raises:
        ConfigError: the model is not in the cache.
    """
    return config if config.name in NAMES else replace(config, name=hub.local_folder(config.name))


class Backbone(nn.Module):
    """Backbone named in the configuration.

    Batch norms of pretrained backbones are frozen (statistics and affine parameters), as is usual: a batch contains few
    clips, whose frames are similar.

    Args:
        config: Name and weights.
        pretrained: Read ``config.weights``. Not needed if a checkpoint is loaded afterwards.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool = True):
        super().__init__()
        self.config = config
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if config.name in ("tiny", "mobilenet_v2"):
            self.net = TinyNet() if config.name == "tiny" else MobileNetV2()
            mean = std = (127.5,) * 3
        elif config.name in NAMES:
            if config.name in RESNETS:
                depths, first = RESNETS[config.name], config.stride_in_1x1
                architecture = ResNetConfig(depths=depths, downsample_in_bottleneck=first, out_features=_STAGES)
            else:
                architecture = SwinConfig(**SWINS[config.name], drop_path_rate=0.3, out_features=_STAGES)
            self.net = AutoBackbone.from_config(architecture)
            if hasattr(self.net, "swin"):
                self.net.swin.layernorm = nn.Identity()  # belongs to a classifier; would never get a gradient
        else:
            self.net, mean, std = hub.backbone(config.name, pretrained and config.weights == "hub")
            if pretrained and config.weights == "hub":
                require_finite(self.net.state_dict(), f"backbone {config.name}")
        self.channels = tuple(self.net.channels)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        if pretrained and config.weights is not None and (config.weights != "hub" or config.name in NAMES):
            source = HUB_MODELS[config.name] if config.weights == "hub" else config.weights
            self.load(_read(source), f"backbone weights {source}")
        if config.frozen:
            self.net.requires_grad_(False)
        for norm in self._frozen_norms():
            norm.requires_grad_(False)
        self.train()  # new modules are in training mode without a call of train(), which freezes the norms

    def load(self, weights: ConvertedWeights, source: str) -> LoadReport:
        """Load the backbone's part of the weights. Swin's output norms may be absent, as pretrained weights lack them.

        Raises:
            CheckpointError: the weights belong to another backbone. This one is then unchanged.
        """
        self.check_stride(weights, source)
        return load_weights(self.net, weights.backbone, source, reinitialized=("hidden_states_norms.",))

    def check_stride(self, weights: ConvertedWeights, source: str) -> None:
        """Raise CheckpointError if the weights' ResNet strides elsewhere, which names and shapes do not show."""
        if weights.stride_in_1x1 not in (None, self.config.stride_in_1x1):
            raise CheckpointError(
                f"{source}: {weights.format} {'strides' if weights.stride_in_1x1 else 'does not stride'} in the first "
                f"1x1 of a stage; set model.backbone.stride_in_1x1 to {weights.stride_in_1x1}"
            )

    def _frozen_norms(self) -> list[nn.Module]:
        if self.config.weights is None and not self.config.frozen:
            return []
        return [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.config.frozen:
            self.net.eval()
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def forward(self, frames_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps ``[N, channels[i], H / s, W / s]`` at the strides s = 4, 8, 16, 32.

        Args:
            frames_NCHW: RGB ``[N, 3, H, W]``, uint8 or floating point in 0..255; H and W multiples of 32.
        """
        pixels = ((frames_NCHW - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            features = self.net(pixels)
            return features if isinstance(features, tuple) else features.feature_maps


def _read(source: str) -> ConvertedWeights:
    try:
        return read_weights(source)
    except CheckpointError as error:
        raise CheckpointError(
            f"backbone weights {error}\nName a file with --backbone.weights FILE (mfvis train: "
            "--model.backbone.weights FILE). With a backbone that is trained, None starts from random numbers"
        ) from error


class _ConvNorm(nn.Module):
    """Convolution, batch norm and optional ReLU6, with TensorFlow's padding for even sizes: at stride 2 only at the
    right and bottom."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(after, eps=0.001, momentum=0.003)
        self.active = active

    def forward(self, features: Tensor) -> Tensor:
        conv, norm = self.convolution, self.normalization
        if conv.stride == (2, 2):
            features = F.pad(features, (0, 1, 0, 1))
        if norm.training:
            features = norm(conv(features))
        else:
            # Frozen statistics are folded into the weights, which are a thousand times smaller than the features.
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
            features = F.conv2d(features, weight, bias, conv.stride, conv.padding, groups=conv.groups)
        return F.relu6(features, inplace=True) if self.active else features


class _InvertedResidual(nn.Module):
    """Inverted residual: 1x1 to six times the channels, depthwise 3x3, and 1x1 back."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.residual = stride == 1 and before == after
        self.expand_1x1 = _ConvNorm(before, 6 * before, 1)
        self.conv_3x3 = _ConvNorm(6 * before, 6 * before, 3, stride, groups=6 * before)
        self.reduce_1x1 = _ConvNorm(6 * before, after, 1, active=False)

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.reduce_1x1(self.conv_3x3(self.expand_1x1(features)))
        return features + reduced if self.residual else reduced


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018) up to stride 32, with the names and outputs of
    ``transformers.MobileNetV2Model(MobileNetV2Config(tf_padding=True))``.

    That model copies the features for padding before each convolution, even 1x1, and makes another pass over them for
    each batch norm. This one does neither, which saves a third of the backbone's backward pass in training.
    """

    channels = (24, 32, 96, 320)
    _widths = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
    _strides = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
    _taps = (1, 4, 11, 15)

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Sequential(
            OrderedDict(
                first_conv=_ConvNorm(3, 32, 3, stride=2),
                conv_3x3=_ConvNorm(32, 32, 3, groups=32),
                reduce_1x1=_ConvNorm(32, self._widths[0], 1, active=False),
            )
        )
        self.layer = nn.ModuleList(
            _InvertedResidual(before, after, stride)
            for before, after, stride in zip(self._widths, self._widths[1:], self._strides, strict=False)
        )

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, ...]:
        features = self.conv_stem(pixels_NCHW)
        taps = []
        for index, layer in enumerate(self.layer):
            features = layer(features)
            if index in self._taps:
                taps.append(features)
        return tuple(taps)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 8, channels)


class _Residual(nn.Module):
    """Residual of a depthwise 3x3 and a 1x1 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            _norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


class TinyNet(nn.Module):
    """Backbone of about ten thousand parameters for tests and the demo, trained from scratch.

    It has full convolutions up to stride 4, which determines the masks' edges, and separable ones after that. It uses
    group norm, because batch statistics of a few frames are unreliable.
    """

    channels = (16, 24, 32, 48)

    def __init__(self) -> None:
        super().__init__()
        first = self.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            _norm(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, first, 3, stride=2, padding=1, bias=False),
            _norm(first),
            nn.ReLU(inplace=True),
            _Residual(first),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False),
                nn.Conv2d(before, after, 1, bias=False),
                _norm(after),
                nn.ReLU(inplace=True),
                _Residual(after),
            )
            for before, after in zip(self.channels, self.channels[1:], strict=False)
        )

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, ...]:
        features = [self.stem(pixels_NCHW)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return tuple(features)
