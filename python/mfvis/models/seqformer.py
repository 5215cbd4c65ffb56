"""SeqFormer (Wu et al., ECCV 2022): box queries attend to each frame, instance queries aggregate their features.

The box branch is a Deformable DETR with iterative box refinement, applied to each frame independently. Instance queries
do not attend to the frames themselves. They average the features sampled by the box queries of all frames, with weights
from a softmax over the frames. A video of any length can therefore be decoded exactly with its frames in chunks.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfvis.models.backbone import Backbone
from mfvis.models.config import ModelConfig
from mfvis.models.decoder import Attention
from mfvis.models.deformable_attention import DeformableAttention
from mfvis.models.dynamic_masks import DynamicMasks, MaskFeatures, mask_channels, num_parameters
from mfvis.models.seqformer_encoder import LEVELS, EncodedFrames, Encoder, FeedForward
from mfvis.types import BoxPrompts, Prediction


@dataclass(frozen=True)
class FrameQueries:
    """Inputs of the instance branch from N frames: 1.9 MB per frame at the default size."""

    sampled_NLQC: Tensor
    """Features sampled by the box queries, projected for the instance queries, after each decoder layer."""
    time_NLQ: Tensor
    """Logits of the frame weights, per query."""
    boxes_NLQ4: Tensor
    """Predicted (cx, cy, w, h), 0..1 over the frame without padding."""
    references_NLQ2: Tensor
    """Box centers at the input of each layer, in the same units; the origin of the mask coordinates."""
    mask_features_NCHW: Tensor
    sizes_N2: Tensor
    """int64 (height, width) of the frames without padding."""


class DecoderLayer(nn.Module):
    """Decoder layer of both branches."""

    def __init__(self, dim: int, heads: int, points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.instance_attention = Attention(dim, heads, dropout)
        self.instance_attention_norm = nn.LayerNorm(dim)
        self.instance_sampling_norm = nn.LayerNorm(dim)
        self.instance_feed_forward = FeedForward(dim, ffn_dim, dropout)
        self.box_attention = Attention(dim, heads, dropout)
        self.box_attention_norm = nn.LayerNorm(dim)
        self.box_sampling_norm = nn.LayerNorm(dim)
        self.box_feed_forward = FeedForward(dim, ffn_dim, dropout)
        self.sampling = DeformableAttention(dim, heads, LEVELS, points)
        """Sampling from the frames for the box queries; its output projection serves the instance queries."""
        self.box_output_proj = nn.Linear(dim, dim)
        self.time_weight = nn.Linear(dim, 1)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.box_output_proj, self.time_weight):
            nn.init.xavier_uniform_(linear.weight)
        for attention in (self.instance_attention, self.box_attention):
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
                # Published with queries, keys and values in one tensor of three times the outputs.
                gain = 1.0 if projection is attention.out_proj else 2**-0.5
                nn.init.xavier_uniform_(projection.weight, gain)
                nn.init.zeros_(projection.bias)

    def boxes(
        self, box_NQC: Tensor, positions_QC: Tensor, encoded: EncodedFrames, reference_NQ4: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Box queries after this layer, the features sampled for the instance queries, and the frames' logits."""
        placed = box_NQC + positions_QC
        box = self.box_attention_norm(box_NQC + self.dropout(self.box_attention(placed, placed, box_NQC)))
        valid_NL = encoded.valid_NL2 if reference_NQ4.shape[-1] == 2 else encoded.valid_NL2.repeat(1, 1, 2)
        sampled = self.sampling.sample(
            box + positions_QC,
            encoded.tokens_NSC,
            reference_NQ4[:, :, None] * valid_NL[:, None],
            encoded.levels,
            encoded.padding_NS,
        )
        box = self.box_sampling_norm(box + self.dropout(self.box_output_proj(sampled)))
        box = self.box_feed_forward(box)
        return box, self.sampling.output_proj(sampled), self.time_weight(box)[..., 0]

    def instances(self, instance_BQC: Tensor, positions_QC: Tensor, sampled_BTQC: Tensor, time_BTQ: Tensor) -> Tensor:
        """Instance queries after this layer."""
        placed = instance_BQC + positions_QC
        attended = self.instance_attention(placed, placed, instance_BQC)
        x = self.instance_attention_norm(instance_BQC + self.dropout(attended))
        summed = (time_BTQ.softmax(1)[..., None] * sampled_BTQC).sum(1)
        return self.instance_feed_forward(self.instance_sampling_norm(x + self.dropout(summed)))


class SeqFormerDecoder(nn.Module):
    """Decodes encoded frames to classes, boxes and (on demand) masks of all queries after every layer."""

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        points: int,
        ffn_dim: int,
        queries: int,
        num_classes: int,
        dropout: float,
    ):
        super().__init__()
        self.query_embedding = nn.Embedding(queries, 2 * dim)
        """Learned position and content of each query, concatenated."""
        self.reference_points = nn.Linear(dim, 2)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, points, ffn_dim, dropout) for _ in range(layers))
        class_head, box_head = nn.Linear(dim, num_classes), mlp(dim, dim, 4)
        self.class_heads = nn.ModuleList(copy.deepcopy(class_head) for _ in range(layers))
        self.box_heads = nn.ModuleList(copy.deepcopy(box_head) for _ in range(layers))
        self.controller = mlp(dim, dim, num_parameters(mask_channels(dim)))
        self.mask_features = MaskFeatures(dim)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        for head in self.class_heads:
            nn.init.constant_(head.bias, -math.log(99))  # a probability of 0.01 for every class
        for index, head in enumerate(self.box_heads):
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
            if index == 0:
                nn.init.constant_(head[-1].bias[2:], -2.0)
        for linear in self.controller:
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

    def frame_queries(self, encoded: EncodedFrames, sizes_N2: Tensor) -> FrameQueries:
        """Run the box branch on N frames independently."""
        count = len(encoded.tokens_NSC)
        positions_QC, content_QC = self.query_embedding.weight.chunk(2, 1)
        box = content_QC.expand(count, -1, -1)
        reference = self.reference_points(positions_QC).float().sigmoid().expand(count, -1, -1)
        sampled, times, boxes, references = [], [], [], []
        for layer, box_head in zip(self.layers, self.box_heads, strict=True):
            references.append(reference[..., :2])
            box, sampled_NQC, time_NQ = layer.boxes(box, positions_QC, encoded, reference)
            boxes.append(refine(box_head(box), reference))
            sampled.append(sampled_NQC)
            times.append(time_NQ)
            reference = boxes[-1].detach()
        maps = encoded.tokens_NSC.split(encoded.levels.lengths, 1)[:3]
        maps = [x.transpose(1, 2).unflatten(2, shape) for x, shape in zip(maps, encoded.levels.shapes[:3], strict=True)]
        return FrameQueries(
            torch.stack(sampled, 1),
            torch.stack(times, 1),
            torch.stack(boxes, 1),
            torch.stack(references, 1),
            self.mask_features(tuple(maps)),
            sizes_N2,
        )

    def forward(self, frames: FrameQueries, batch: int, last_only: bool = False) -> Prediction:
        """Run the instance branch on ``batch`` clips, whose frames are concatenated."""
        clips = (batch, -1)
        positions_QC, content_QC = self.query_embedding.weight.chunk(2, 1)
        instance = content_QC.expand(batch, -1, -1)
        sampled_BTLQC = frames.sampled_NLQC.unflatten(0, clips)
        time_BTLQ = frames.time_NLQ.unflatten(0, clips)
        instances = []
        for index, layer in enumerate(self.layers):
            instance = layer.instances(instance, positions_QC, sampled_BTLQC[:, :, index], time_BTLQ[:, :, index])
            instances.append(instance)
        kept = slice(len(self.layers) - 1, None) if last_only else slice(None)
        instance_LBQC = torch.stack(instances[kept])
        logits = torch.stack([head(x) for head, x in zip(self.class_heads[kept], instance_LBQC, strict=True)])
        boxes_LBTQ4 = frames.boxes_NLQ4.unflatten(0, clips).permute(2, 0, 1, 3, 4)[kept]
        width_height = frames.sizes_N2.flip(1).to(frames.references_NLQ2.dtype)
        centers_NLQ2 = inverse_sigmoid(frames.references_NLQ2).sigmoid() * width_height[:, None, None]
        masks = DynamicMasks(
            self.controller(instance_LBQC),
            centers_NLQ2.unflatten(0, clips).permute(2, 0, 1, 3, 4)[kept],
            frames.mask_features_NCHW.unflatten(0, clips).unbind(),
        )
        return Prediction(logits, masks, instance_LBQC, no_object=False, boxes_LBTQ4=boxes_LBTQ4)


def mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Three linear layers with ReLU between them."""
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logits of probabilities, which are clipped to 1e-5 from 0 and 1."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


def refine(delta_NQ4: Tensor, reference_NQ4: Tensor) -> Tensor:
    """Boxes, in float32, from offsets to their references, which are points (without a size) or boxes."""
    logits = inverse_sigmoid(reference_NQ4)
    return (delta_NQ4.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


class SeqFormer(nn.Module):
    """Predicts classes, boxes and mask tubes of all queries from the frames of clips.

    Args:
        config: Sizes.
        num_classes: K.
        pretrained: Read the backbone's weights named in the configuration.
    """

    def __init__(self, config: ModelConfig, num_classes: int, pretrained: bool = True):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        dim, heads, points, dropout = config.hidden_dim, config.num_heads, config.points, config.dropout
        self.backbone = Backbone(config.backbone, pretrained)
        output_norms = dict(self.backbone.named_modules()).get("net.hidden_states_norms", {})
        if "stage1" in output_norms:  # of a Swin's map at stride 4, which is not used: it would never get a gradient
            output_norms["stage1"] = nn.Identity()
        self.encoder = Encoder(
            self.backbone.channels[1:], dim, heads, config.encoder_layers, points, config.encoder_ffn_dim, dropout
        )
        self.decoder = SeqFormerDecoder(
            dim,
            heads,
            config.decoder_layers,
            points,
            config.decoder_ffn_dim,
            config.num_queries,
            num_classes,
            dropout,
        )
        self.prompts = None
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        frames_BTCHW: Tensor,
        sizes_B2: Tensor | None = None,
        prompts: BoxPrompts | None = None,
        last_only: bool = False,
    ) -> Prediction:
        """Predict classes, boxes and mask tubes of every query.

        Args:
            frames_BTCHW: RGB ``[B, T, 3, H, W]``, uint8 or floating point in 0..255.
            sizes_B2: int64 (height, width) of each clip before padding; None: not padded.
            prompts: Must be None: this model makes no queries from boxes.
            last_only: Return only the last decoder layer (L = 1).

        Returns:
            Logits ``[L, B, Q, K]`` of independent classes, boxes and, on demand, mask logits
            ``[T, 2 * ceil(H / 8), 2 * ceil(W / 8)]`` of each query; L = decoder layers.

        Raises:
            ValueError: a wrong shape, or prompts.
        """
        if frames_BTCHW.dim() != 5 or frames_BTCHW.shape[2] != 3:
            raise ValueError(f"frames_BTCHW: shape {tuple(frames_BTCHW.shape)} given, [B, T, 3, H, W] expected")
        batch, frames = frames_BTCHW.shape[:2]
        if sizes_B2 is not None and sizes_B2.shape != (batch, 2):
            raise ValueError(f"sizes_B2: shape {tuple(sizes_B2.shape)} given, [{batch}, 2] expected")
        sizes_N2 = None if sizes_B2 is None else sizes_B2.repeat_interleave(frames, 0)
        return self.decode(self.encode(frames_BTCHW.flatten(0, 1), sizes_N2), batch, prompts, last_only)

    def encode(
        self, frames_NCHW: Tensor, sizes_N2: Tensor | None = None, features: tuple[Tensor, ...] | None = None
    ) -> FrameQueries:
        """Run the parts that process each frame independently, so that a long video can be encoded in chunks.

        Args:
            frames_NCHW: RGB, uint8 or floating point in 0..255.
            sizes_N2: int64 (height, width) before padding; None: not padded.
            features: The backbone's output for these frames, if it is known.
        """
        count, _, height, width = frames_NCHW.shape
        if sizes_N2 is None:
            # Filled on the device, as a copy to it would synchronize.
            sides = [torch.full((count,), side, device=frames_NCHW.device) for side in (height, width)]
            sizes_N2 = torch.stack(sides, 1)
        rows = torch.arange(height, device=frames_NCHW.device) >= sizes_N2[:, :1]
        columns = torch.arange(width, device=frames_NCHW.device) >= sizes_N2[:, 1:]
        maps = features or self.backbone(frames_NCHW)
        return self.decoder.frame_queries(self.encoder(maps[1:], rows[:, :, None] | columns[:, None]), sizes_N2)

    def decode(
        self, frames: FrameQueries, batch: int, prompts: BoxPrompts | None = None, last_only: bool = False
    ) -> Prediction:
        """Predict from ``batch`` clips, whose frames are concatenated, as `forward` does."""
        if prompts is not None:
            raise ValueError("prompts: SeqFormer makes no queries from boxes; use a Mask2Former with model.box_prompts")
        return self.decoder(frames, batch, last_only)
