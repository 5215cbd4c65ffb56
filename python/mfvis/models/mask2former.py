"""Video Mask2Former: backbone, pixel decoder and masked-attention decoder in one model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mfvis.grid import STRIDE
from mfvis.models.backbone import Backbone
from mfvis.models.config import ModelConfig
from mfvis.models.decoder import MaskedAttentionDecoder
from mfvis.models.pixel_decoder import PixelDecoder, PixelFeatures
from mfvis.models.prompts import BoxPromptEncoder
from mfvis.types import BoxPrompts, Prediction


class VideoMask2Former(nn.Module):
    """Predicts classes and mask tubes of all queries from the frames of clips.

    Args:
        config: Sizes.
        num_classes: K, without "no object".
        pretrained: Read the backbone's weights named in the configuration. Pass False if a checkpoint with all weights
            is loaded afterwards, so that the file is not required.
    """

    def __init__(self, config: ModelConfig, num_classes: int, pretrained: bool = True):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        dim, heads = config.hidden_dim, config.num_heads
        self.backbone = Backbone(config.backbone, pretrained)
        self.pixel_decoder = PixelDecoder(
            self.backbone.channels,
            dim,
            heads,
            config.encoder_layers,
            config.points,
            config.encoder_ffn_dim,
            config.dropout,
        )
        self.decoder = MaskedAttentionDecoder(
            dim, heads, config.decoder_layers, config.decoder_ffn_dim, config.num_queries, num_classes, config.dropout
        )
        self.prompts = BoxPromptEncoder(dim) if config.box_prompts else None
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        frames_BTCHW: Tensor,
        sizes_B2: Tensor | None = None,
        prompts: BoxPrompts | None = None,
        last_only: bool = False,
    ) -> Prediction:
        """Predict classes and mask tubes of every query.

        Args:
            frames_BTCHW: RGB ``[B, T, 3, H, W]``, uint8 or floating point in 0..255, H and W multiples of 32.
            sizes_B2: Not used: this model knows padding by its color.
            prompts: Box tubes, each of which becomes a query, instead of the learned queries.
            last_only: Return only the last decoder layer (L = 1), which is sufficient for inference.

        Returns:
            Logits ``[L, B, Q, K + 1]`` and, on demand, mask logits ``[T, H / 4, W / 4]`` of each query, with
            L = decoder layers + 1: the first prediction is from the queries before any layer.

        Raises:
            ValueError: a shape is wrong, or prompts are given to a model without box prompts.
        """
        batch, frames = self._checked(frames_BTCHW, prompts)
        return self.decode(self.encode(frames_BTCHW.flatten(0, 1)), batch, prompts, last_only)

    def encode(
        self, frames_NCHW: Tensor, sizes_N2: Tensor | None = None, features: tuple[Tensor, ...] | None = None
    ) -> PixelFeatures:
        """Compute the features of N frames independently, so that a long video can be encoded in chunks.

        Args:
            frames_NCHW: RGB, uint8 or floating point in 0..255.
            sizes_N2: Not used, as in `forward`.
            features: The backbone's output for these frames, if it is known.
        """
        return self.pixel_decoder(features or self.backbone(frames_NCHW))

    def decode(
        self, frames: PixelFeatures, batch: int, prompts: BoxPrompts | None = None, last_only: bool = False
    ) -> Prediction:
        """Predict from the concatenated features of ``batch`` clips of T frames, as `forward` does."""
        if prompts is None:
            queries = self.decoder.learned_queries(batch)
        else:
            height, width = (STRIDE * side for side in frames.mask_NCHW.shape[-2:])
            queries = self.prompts(prompts, frames, height, width)
        return self.decoder(frames, queries, last_only)

    def _checked(self, frames_BTCHW: Tensor, prompts: BoxPrompts | None) -> tuple[int, int]:
        shape = tuple(frames_BTCHW.shape)
        if len(shape) != 5 or shape[2] != 3:
            raise ValueError(f"frames_BTCHW: shape {shape} given, [B, T, 3, H, W] expected")
        batch, frames, _, height, width = shape
        if height % 32 or width % 32 or not height or not width:
            raise ValueError(
                f"frames_BTCHW: {height}x{width} pixels given, multiples of 32 expected. Pad at the right and bottom"
            )
        if prompts is not None:
            if self.prompts is None:
                raise ValueError("prompts: this model was built without them. Set model.box_prompts and train it so")
            box_shape = tuple(prompts.boxes_BQT4.shape)
            is_per_frame = len(box_shape) == 4 and (box_shape[0], *box_shape[2:]) == (batch, frames, 4)
            if not is_per_frame or box_shape[:2] != prompts.valid_BQ.shape:
                raise ValueError(
                    f"prompts: boxes {box_shape} and valid {tuple(prompts.valid_BQ.shape)} given, "
                    f"[{batch}, Q, {frames}, 4] and [{batch}, Q] expected"
                )
        return batch, frames
