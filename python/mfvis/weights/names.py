"""Weight-name tables for other frameworks: Mask2Former of detectron2 (and MaskFreeVIS) and of transformers, and
published backbones. Each table is used in both directions.

A table holds pairs of patterns (ours, theirs). A single letter in braces matches a number, and ``{s+2}`` a number with
an offset. A word in braces matches a word. ``{qkv}`` matches q, k or v; if only our pattern has it, theirs is all three
in one tensor. Sources: the modules of facebookresearch/Mask2Former, SysCV/MaskFreeVIS, detectron2 (ResNet and
the names that its c2_model_loading undoes), microsoft/Swin-Transformer, torchvision and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mfvis.errors import CheckpointError

_FIELD = re.compile(r"\{(\w+)(?:\+(\d))?\}")


class _Pattern:
    """Pattern on one side of a pair."""

    def __init__(self, text: str):
        self.fields = {name: int(start or 0) for name, start in _FIELD.findall(text)}
        self.text = _FIELD.sub(r"{\1}", text)
        escaped = _FIELD.sub(lambda field: f"<{field[1]}>", text)
        expression = re.escape(escaped)
        for name in self.fields:
            kind = "[qkv]" if name == "qkv" else r"\d+" if len(name) == 1 else r"\w+"
            expression = expression.replace(f"<{name}>", f"(?P<{name}>{kind})", 1)
        self.expression = re.compile(expression)

    def read(self, name: str) -> dict[str, str | int] | None:
        match = self.expression.fullmatch(name)
        if not match:
            return None
        return {k: int(v) - self.fields[k] if len(k) == 1 else v for k, v in match.groupdict().items()}

    def write(self, values: Mapping[str, str | int]) -> str:
        return self.text.format(**{k: v + self.fields.get(k, 0) if len(k) == 1 else v for k, v in values.items()})


@dataclass(frozen=True)
class NameTable:
    """Pairs of names (ours, theirs)."""

    pairs: tuple[tuple[str, str], ...]

    def __add__(self, other: NameTable) -> NameTable:
        return NameTable(self.pairs + other.pairs)

    def within(self, ours: str, theirs: str) -> NameTable:
        """The same table with prefixes added."""
        return NameTable(tuple((ours + a, theirs + b) for a, b in self.pairs))

    @cached_property
    def _patterns(self) -> list[tuple[_Pattern, _Pattern]]:
        return [(_Pattern(ours), _Pattern(theirs)) for ours, theirs in self.pairs]

    def from_foreign(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Convert tensors to our names; also returns the names that the table does not contain."""
        converted, unknown = {}, []
        for name, value in state.items():
            for ours, theirs in self._patterns:
                fields = theirs.read(name)
                if fields is None:
                    continue
                if "qkv" in ours.fields and "qkv" not in theirs.fields:
                    if not value.dim() or value.shape[0] % 3:
                        raise CheckpointError(
                            f"{name}: shape {list(value.shape)}; queries, keys and values in one tensor were expected"
                        )
                    for letter, part in zip("qkv", value.chunk(3), strict=True):
                        converted[ours.write({**fields, "qkv": letter})] = part
                else:
                    converted[ours.write(fields)] = value
                break
            else:
                unknown.append(name)
        return converted, unknown

    def to_theirs(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Convert tensors to their names; also returns the names that the table does not contain."""
        converted: dict[str, Tensor] = {}
        together: dict[str, dict[str, Tensor]] = {}
        unknown = []
        for name, value in state.items():
            for ours, theirs in self._patterns:
                fields = ours.read(name)
                if fields is None:
                    continue
                if "qkv" in ours.fields and "qkv" not in theirs.fields:
                    together.setdefault(theirs.write(fields), {})[fields["qkv"]] = value
                else:
                    converted[theirs.write(fields)] = value
                break
            else:
                unknown.append(name)
        for name, parts in together.items():
            if len(parts) < 3:
                raise CheckpointError(f"{name}: made of q, k and v, of which only {', '.join(parts)} is there")
            converted[name] = torch.cat([parts[letter] for letter in "qkv"])
        return converted, unknown


# Backbones. Our names are those of transformers' backbones.

_STEM, _BLOCK = "embedder.embedder", "encoder.stages.{s}.layers.{b}"

TORCHVISION_RESNET = NameTable((
    (f"{_STEM}.convolution.weight", "conv1.weight"),
    (f"{_STEM}.normalization.{{leaf}}", "bn1.{leaf}"),
    (f"{_BLOCK}.layer.{{c}}.convolution.weight", "layer{s+1}.{b}.conv{c+1}.weight"),
    (f"{_BLOCK}.layer.{{c}}.normalization.{{leaf}}", "layer{s+1}.{b}.bn{c+1}.{leaf}"),
    (f"{_BLOCK}.shortcut.convolution.weight", "layer{s+1}.{b}.downsample.0.weight"),
    (f"{_BLOCK}.shortcut.normalization.{{leaf}}", "layer{s+1}.{b}.downsample.1.{leaf}"),
))  # fmt: skip

DETECTRON2_RESNET = NameTable((
    (f"{_STEM}.convolution.weight", "stem.conv1.weight"),
    (f"{_STEM}.normalization.{{leaf}}", "stem.conv1.norm.{leaf}"),
    (f"{_BLOCK}.layer.{{c}}.convolution.weight", "res{s+2}.{b}.conv{c+1}.weight"),
    (f"{_BLOCK}.layer.{{c}}.normalization.{{leaf}}", "res{s+2}.{b}.conv{c+1}.norm.{leaf}"),
    (f"{_BLOCK}.shortcut.convolution.weight", "res{s+2}.{b}.shortcut.weight"),
    (f"{_BLOCK}.shortcut.normalization.{{leaf}}", "res{s+2}.{b}.shortcut.norm.{leaf}"),
))  # fmt: skip

# Caffe2 folded the statistics of its batch norms into a scale (s) and a bias (b).
CAFFE_RESNET = NameTable(
    tuple(
        (f"{ours}.{ending}", f"{theirs}_{theirs_ending}")
        for ours, theirs in (
            (_STEM, "res_conv1"),
            (f"{_BLOCK}.shortcut", "res{s+2}_{b}_branch1"),
            *((f"{_BLOCK}.layer.{c}", f"res{{s+2}}_{{b}}_branch2{letter}") for c, letter in enumerate("abc")),
        )
        for ending, theirs_ending in (
            ("convolution.weight", "w"), ("normalization.weight", "bn_s"), ("normalization.bias", "bn_b"),
        )
    )
) + NameTable(((f"{_STEM}.convolution.weight", "conv1_w"),))  # fmt: skip

_BIAS = "relative_position_bias.relative_position_bias_table"
_LAYER = "swin.encoder.layers.{s}.blocks.{b}"

ORIGINAL_SWIN = NameTable((
    ("swin.embeddings.patch_embeddings.projection.{leaf}", "patch_embed.proj.{leaf}"),
    ("swin.embeddings.norm.{leaf}", "patch_embed.norm.{leaf}"),
    (f"{_LAYER}.layernorm_before.{{leaf}}", "layers.{s}.blocks.{b}.norm1.{leaf}"),
    (f"{_LAYER}.attention.{{qkv}}_proj.{{leaf}}", "layers.{s}.blocks.{b}.attn.qkv.{leaf}"),
    (f"{_LAYER}.attention.o_proj.{{leaf}}", "layers.{s}.blocks.{b}.attn.proj.{leaf}"),
    (f"{_LAYER}.attention.{_BIAS}", "layers.{s}.blocks.{b}.attn.relative_position_bias_table"),
    (f"{_LAYER}.layernorm_after.{{leaf}}", "layers.{s}.blocks.{b}.norm2.{leaf}"),
    (f"{_LAYER}.mlp.{{part}}.{{leaf}}", "layers.{s}.blocks.{b}.mlp.{part}.{leaf}"),
    ("swin.encoder.layers.{s}.downsample.{part}.{leaf}", "layers.{s}.downsample.{part}.{leaf}"),
    ("hidden_states_norms.stage{s+1}.{leaf}", "norm{s}.{leaf}"),
))  # fmt: skip

_SWIN_OF_TRANSFORMERS_4 = (
    (r"^(backbone\.net\.)?(embeddings\.(?:patch_embeddings\.projection|norm))\.", r"\1swin.\2."),
    (r"^(backbone\.net\.)?(encoder\.layers\.\d+\.(?:blocks|downsample))\.", r"\1swin.\2."),
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (r"\.attention\.self\.relative_position_bias_table$", f".attention.{_BIAS}"),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def canonical(name: str) -> str:
    """Common name of a Swin tensor, independent of the version of transformers."""
    for pattern, replacement in _SWIN_OF_TRANSFORMERS_4:
        name = re.sub(pattern, replacement, name)
    return name


# The whole model.

_PIXELS, _PREDICTOR = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
_ENCODER = f"{_PIXELS}.transformer.encoder.layers.{{i}}"
_CROSS = f"{_PREDICTOR}.transformer_cross_attention_layers.{{i}}"
_SELF = f"{_PREDICTOR}.transformer_self_attention_layers.{{i}}"
_FFN = f"{_PREDICTOR}.transformer_ffn_layers.{{i}}"

DETECTRON2 = (
    DETECTRON2_RESNET.within("backbone.net.", "backbone.")
    + ORIGINAL_SWIN.within("backbone.net.", "backbone.")
    + NameTable((
        ("pixel_decoder.input_projections.{i}.{j}.{leaf}", f"{_PIXELS}.input_proj.{{i}}.{{j}}.{{leaf}}"),
        ("pixel_decoder.level_embedding.weight", f"{_PIXELS}.transformer.level_embed"),
        ("pixel_decoder.layers.{i}.attention.{part}.{leaf}", f"{_ENCODER}.self_attn.{{part}}.{{leaf}}"),
        ("pixel_decoder.layers.{i}.attention_norm.{leaf}", f"{_ENCODER}.norm1.{{leaf}}"),
        ("pixel_decoder.layers.{i}.fc1.{leaf}", f"{_ENCODER}.linear1.{{leaf}}"),
        ("pixel_decoder.layers.{i}.fc2.{leaf}", f"{_ENCODER}.linear2.{{leaf}}"),
        ("pixel_decoder.layers.{i}.final_norm.{leaf}", f"{_ENCODER}.norm2.{{leaf}}"),
        ("pixel_decoder.lateral.0.{leaf}", f"{_PIXELS}.adapter_1.{{leaf}}"),
        ("pixel_decoder.lateral.1.{leaf}", f"{_PIXELS}.adapter_1.norm.{{leaf}}"),
        ("pixel_decoder.output.0.{leaf}", f"{_PIXELS}.layer_1.{{leaf}}"),
        ("pixel_decoder.output.1.{leaf}", f"{_PIXELS}.layer_1.norm.{{leaf}}"),
        ("pixel_decoder.mask_projection.{leaf}", f"{_PIXELS}.mask_features.{{leaf}}"),
        ("decoder.query_features.weight", f"{_PREDICTOR}.query_feat.weight"),
        ("decoder.query_positions.weight", f"{_PREDICTOR}.query_embed.weight"),
        ("decoder.level_embedding.weight", f"{_PREDICTOR}.level_embed.weight"),
        ("decoder.layers.{i}.cross_attention.{qkv}_proj.{leaf}", f"{_CROSS}.multihead_attn.in_proj_{{leaf}}"),
        ("decoder.layers.{i}.cross_attention.out_proj.{leaf}", f"{_CROSS}.multihead_attn.out_proj.{{leaf}}"),
        ("decoder.layers.{i}.cross_norm.{leaf}", f"{_CROSS}.norm.{{leaf}}"),
        ("decoder.layers.{i}.self_attention.{qkv}_proj.{leaf}", f"{_SELF}.self_attn.in_proj_{{leaf}}"),
        ("decoder.layers.{i}.self_attention.out_proj.{leaf}", f"{_SELF}.self_attn.out_proj.{{leaf}}"),
        ("decoder.layers.{i}.self_norm.{leaf}", f"{_SELF}.norm.{{leaf}}"),
        ("decoder.layers.{i}.fc1.{leaf}", f"{_FFN}.linear1.{{leaf}}"),
        ("decoder.layers.{i}.fc2.{leaf}", f"{_FFN}.linear2.{{leaf}}"),
        ("decoder.layers.{i}.final_norm.{leaf}", f"{_FFN}.norm.{{leaf}}"),
        ("decoder.norm.{leaf}", f"{_PREDICTOR}.decoder_norm.{{leaf}}"),
        ("decoder.mask_embedder.0.{leaf}", f"{_PREDICTOR}.mask_embed.layers.0.{{leaf}}"),
        ("decoder.mask_embedder.2.{leaf}", f"{_PREDICTOR}.mask_embed.layers.1.{{leaf}}"),
        ("decoder.mask_embedder.4.{leaf}", f"{_PREDICTOR}.mask_embed.layers.2.{{leaf}}"),
        ("decoder.class_head.{leaf}", f"{_PREDICTOR}.class_embed.{{leaf}}"),
    ))
)  # fmt: skip

_LEVEL, _QUERIES = "model.pixel_level_module.decoder", "model.transformer_module"
_DECODER = f"{_QUERIES}.decoder.layers.{{i}}"

TRANSFORMERS = NameTable((
    ("pixel_decoder.input_projections.{i}.{j}.{leaf}", f"{_LEVEL}.input_projections.{{i}}.{{j}}.{{leaf}}"),
    ("pixel_decoder.level_embedding.weight", f"{_LEVEL}.level_embed"),
    ("pixel_decoder.layers.{i}.attention.{part}.{leaf}", f"{_LEVEL}.encoder.layers.{{i}}.self_attn.{{part}}.{{leaf}}"),
    ("pixel_decoder.layers.{i}.attention_norm.{leaf}", f"{_LEVEL}.encoder.layers.{{i}}.self_attn_layer_norm.{{leaf}}"),
    ("pixel_decoder.layers.{i}.final_norm.{leaf}", f"{_LEVEL}.encoder.layers.{{i}}.final_layer_norm.{{leaf}}"),
    ("pixel_decoder.layers.{i}.{part}.{leaf}", f"{_LEVEL}.encoder.layers.{{i}}.{{part}}.{{leaf}}"),
    ("pixel_decoder.lateral.{i}.{leaf}", f"{_LEVEL}.adapter_1.{{i}}.{{leaf}}"),
    ("pixel_decoder.output.{i}.{leaf}", f"{_LEVEL}.layer_1.{{i}}.{{leaf}}"),
    ("pixel_decoder.mask_projection.{leaf}", f"{_LEVEL}.mask_projection.{{leaf}}"),
    ("decoder.query_features.weight", f"{_QUERIES}.queries_features.weight"),
    ("decoder.query_positions.weight", f"{_QUERIES}.queries_embedder.weight"),
    ("decoder.level_embedding.weight", f"{_QUERIES}.level_embed.weight"),
    ("decoder.layers.{i}.cross_attention.{qkv}_proj.{leaf}", f"{_DECODER}.cross_attn.in_proj_{{leaf}}"),
    ("decoder.layers.{i}.cross_attention.out_proj.{leaf}", f"{_DECODER}.cross_attn.out_proj.{{leaf}}"),
    ("decoder.layers.{i}.cross_norm.{leaf}", f"{_DECODER}.cross_attn_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.self_attention.{part}.{leaf}", f"{_DECODER}.self_attn.{{part}}.{{leaf}}"),
    ("decoder.layers.{i}.self_norm.{leaf}", f"{_DECODER}.self_attn_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.final_norm.{leaf}", f"{_DECODER}.final_layer_norm.{{leaf}}"),
    ("decoder.layers.{i}.{part}.{leaf}", f"{_DECODER}.{{part}}.{{leaf}}"),
    ("decoder.norm.{leaf}", f"{_QUERIES}.decoder.layernorm.{{leaf}}"),
    ("decoder.mask_embedder.0.{leaf}", f"{_QUERIES}.decoder.mask_predictor.mask_embedder.0.0.{{leaf}}"),
    ("decoder.mask_embedder.2.{leaf}", f"{_QUERIES}.decoder.mask_predictor.mask_embedder.1.0.{{leaf}}"),
    ("decoder.mask_embedder.4.{leaf}", f"{_QUERIES}.decoder.mask_predictor.mask_embedder.2.0.{{leaf}}"),
    ("decoder.class_head.{leaf}", "class_predictor.{leaf}"),
))  # fmt: skip
