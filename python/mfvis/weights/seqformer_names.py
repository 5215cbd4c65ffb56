"""Names of SeqFormer's tensors in the original repository, wjf5203/SeqFormer.

VNext adds another prefix ``detr.``. Its norms are numbered: 1 belongs to cross-attention, 2 to self-attention, 3 to the
feed-forward network.
"""

from __future__ import annotations

from mfvis.weights.names import DETECTRON2_RESNET, ORIGINAL_SWIN, TORCHVISION_RESNET, NameTable

_ENCODER = "detr.transformer.encoder.layers.{i}"
_DECODER = "detr.transformer.decoder.layers.{i}"


def _branch(ours: str, ending: str) -> tuple[tuple[str, str], ...]:
    """Names of one branch of the decoder: instance queries, or box queries, whose names end in ``_box``."""
    layer = "decoder.layers.{i}." + ours
    return (
        (f"{layer}_attention.{{qkv}}_proj.{{leaf}}", f"{_DECODER}.self_attn{ending}.in_proj_{{leaf}}"),
        (f"{layer}_attention.out_proj.{{leaf}}", f"{_DECODER}.self_attn{ending}.out_proj.{{leaf}}"),
        (f"{layer}_attention_norm.{{leaf}}", f"{_DECODER}.norm2{ending}.{{leaf}}"),
        (f"{layer}_sampling_norm.{{leaf}}", f"{_DECODER}.norm1{ending}.{{leaf}}"),
        (f"{layer}_feed_forward.norm.{{leaf}}", f"{_DECODER}.norm3{ending}.{{leaf}}"),
        (f"{layer}_feed_forward.fc{{n}}.{{leaf}}", f"{_DECODER}.linear{{n}}{ending}.{{leaf}}"),
    )


def _mlp(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """Names of three linear layers; ours are in a sequence with the activations."""
    return tuple((f"{ours}.{2 * n}.{{leaf}}", f"{theirs}.layers.{n}.{{leaf}}") for n in range(3))


_TRANSFORMER = NameTable((
    ("encoder.input_projections.{i}.{j}.{leaf}", "detr.input_proj.{i}.{j}.{leaf}"),
    ("encoder.level_embedding", "detr.transformer.level_embed"),
    ("encoder.layers.{i}.attention.{part}.{leaf}", f"{_ENCODER}.self_attn.{{part}}.{{leaf}}"),
    ("encoder.layers.{i}.attention_norm.{leaf}", f"{_ENCODER}.norm1.{{leaf}}"),
    ("encoder.layers.{i}.feed_forward.norm.{leaf}", f"{_ENCODER}.norm2.{{leaf}}"),
    ("encoder.layers.{i}.feed_forward.fc{n}.{leaf}", f"{_ENCODER}.linear{{n}}.{{leaf}}"),
    ("decoder.query_embedding.weight", "detr.query_embed.weight"),
    ("decoder.reference_points.{leaf}", "detr.transformer.reference_points.{leaf}"),
    ("decoder.layers.{i}.box_output_proj.{leaf}", f"{_DECODER}.cross_attn.output_proj_box.{{leaf}}"),
    ("decoder.layers.{i}.sampling.{part}.{leaf}", f"{_DECODER}.cross_attn.{{part}}.{{leaf}}"),
    ("decoder.layers.{i}.time_weight.{leaf}", f"{_DECODER}.time_attention_weights.{{leaf}}"),
    *_branch("instance", ""),
    *_branch("box", "_box"),
    ("decoder.class_heads.{i}.{leaf}", "detr.class_embed.{i}.{leaf}"),
    *_mlp("decoder.box_heads.{i}", "detr.bbox_embed.{i}"),
    *_mlp("decoder.controller", "controller"),
    ("decoder.mask_features.levels.0.{leaf}", "mask_head.lay3.{leaf}"),
    ("decoder.mask_features.levels.1.{leaf}", "mask_head.lay4.{leaf}"),
    ("decoder.mask_features.levels.2.{leaf}", "mask_head.dcn.{leaf}"),
    ("decoder.mask_features.squeeze.{leaf}", "mask_head.lay1.{leaf}"),
    ("decoder.mask_features.output.{leaf}", "mask_head.lay2.{leaf}"),
))  # fmt: skip
_BACKBONE = "backbone.net."
ORIGINAL = (
    _TRANSFORMER
    + TORCHVISION_RESNET.within(_BACKBONE, "detr.backbone.0.body.")
    + ORIGINAL_SWIN.within(_BACKBONE, "detr.backbone.0.body.")
)
"""wjf5203/SeqFormer."""
VNEXT = (
    _TRANSFORMER
    + DETECTRON2_RESNET.within(_BACKBONE, "detr.backbone.0.backbone.")
    + ORIGINAL_SWIN.within(_BACKBONE, "detr.backbone.0.backbone.")
)
"""wjf5203/VNext, without the ``detr.`` before every name."""
SEQFORMER = ORIGINAL + VNEXT
"""Both."""
_DETECTOR_ENCODER, _DETECTOR = "model.encoder.layers.{i}", "model.decoder.layers.{i}"
DEFORMABLE_DETR = NameTable((
    ("encoder.input_projections.{i}.{j}.{leaf}", "model.input_proj.{i}.{j}.{leaf}"),
    ("encoder.level_embedding", "model.level_embed"),
    ("encoder.layers.{i}.attention.{part}.{leaf}", f"{_DETECTOR_ENCODER}.self_attn.{{part}}.{{leaf}}"),
    ("encoder.layers.{i}.attention_norm.{leaf}", f"{_DETECTOR_ENCODER}.self_attn_layer_norm.{{leaf}}"),
    ("encoder.layers.{i}.feed_forward.norm.{leaf}", f"{_DETECTOR_ENCODER}.final_layer_norm.{{leaf}}"),
    ("encoder.layers.{i}.feed_forward.{part}.{leaf}", f"{_DETECTOR_ENCODER}.mlp.{{part}}.{{leaf}}"),
    ("decoder.query_embedding.weight", "model.query_position_embeddings.weight"),
    ("decoder.reference_points.{leaf}", "model.reference_points.{leaf}"),
    ("decoder.layers.{i}.box_attention.out_proj.{leaf}", f"{_DETECTOR}.self_attn.o_proj.{{leaf}}"),
    ("decoder.layers.{i}.box_attention.{part}.{leaf}", f"{_DETECTOR}.self_attn.{{part}}.{{leaf}}"),
    ("decoder.layers.{i}.box_attention_norm.{leaf}", f"{_DETECTOR}.self_attn_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.box_output_proj.{leaf}", f"{_DETECTOR}.encoder_attn.output_proj.{{leaf}}"),
    ("decoder.layers.{i}.sampling.{part}.{leaf}", f"{_DETECTOR}.encoder_attn.{{part}}.{{leaf}}"),
    ("decoder.layers.{i}.box_sampling_norm.{leaf}", f"{_DETECTOR}.encoder_attn_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.box_feed_forward.norm.{leaf}", f"{_DETECTOR}.final_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.box_feed_forward.{part}.{leaf}", f"{_DETECTOR}.mlp.{{part}}.{{leaf}}"),
    ("decoder.class_heads.{i}.{leaf}", "class_embed.{i}.{leaf}"),
    *_mlp("decoder.box_heads.{i}", "bbox_embed.{i}"),
))  # fmt: skip
"""transformers' Deformable DETR, whose decoder is the box branch; without the backbone."""
UNUSED = r"detr\.transformer\.encoder\.layers\.\d+\.self_attn\.output_proj_box\..*"
"""Tensors of published files that the model does not use."""
ALIAS = "detr.transformer.decoder.bbox_embed."
"""Duplicates of ``detr.bbox_embed.*`` in published files."""
