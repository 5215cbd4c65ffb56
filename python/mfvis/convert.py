"""``mfvis convert``: converts weights of any known format to the names of mfvis or detectron2, with a strict report."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mfvis.data.datasets import DATASET_NAMES, DATASETS, DatasetSpec
from mfvis.errors import CheckpointError, ConfigError
from mfvis.models import pixel_decoder, seqformer_encoder
from mfvis.models.backbone import Backbone, offline
from mfvis.models.config import NAMES, BackboneConfig, ModelConfig
from mfvis.models.video_model import build_model
from mfvis.text import counted
from mfvis.train import checkpoint
from mfvis.train.config import Config
from mfvis.types import Category
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import (
    STRIDE_KEY,
    compare,
    load_weights,
    read_weights,
    require_finite,
    save_safetensors,
    under_names_of,
)
from mfvis.weights.foreign import ConvertedWeights, to_detectron2
from mfvis.weights.seqformer import to_original
from mfvis.writing import atomic_write, run_lock

_NOT_PRETRAINED = ("prompts.", "hidden_states_norms.")


def run(config: ConvertConfig) -> None:
    """Convert weights; prints the detected format and a report on every tensor.

    Raises:
        CheckpointError: there are no weights, their format is unknown, or they are incomplete. Nothing is written then.
        ConfigError: the number of classes differs from that of the weights.
    """
    checkpoint_path = checkpoint.locate(config.source)
    weights = read_weights(checkpoint_path or config.source)
    require_finite(weights.tensors, config.source)
    print(f"{config.source}: {weights.format}")
    if weights.backbone_only:
        backbone = find_backbone(weights, config.source)
        print(f"only the backbone, {backbone.name}: {counted(len(weights.tensors), 'tensor')}")
        if config.classes is not None:
            raise ConfigError(f"classes is {config.classes}, but {config.source} has no class head")
        _write(config, weights.tensors, weights)
        return
    if checkpoint_path:
        description = checkpoint.describe(checkpoint_path)
        model, classes = description.config.model, len(description.categories)
        weights = replace(weights, stride_in_1x1=model.backbone.stride_in_1x1)
    else:
        model, classes = sizes_of(weights, config.source, config.num_heads)
    if config.to == "seqformer" and model.name != "seqformer":
        raise ConfigError(f"to is seqformer, but {config.source} is a {model.name}; use --to detectron2")
    print(
        f"{model.backbone.name}, {counted(classes, 'class')}, {counted(model.num_queries, 'query')}, "
        f"{model.decoder_layers} decoder layers, width {model.hidden_dim}"
    )
    with torch.device("meta"):
        module = build_model(replace(model, backbone=offline(model.backbone)), classes, pretrained=False)
    tensors = under_names_of(module, weights.tensors)
    report = compare(module, tensors)
    if report.missing or report.reinitialized:
        raise CheckpointError(
            f"{config.source}: not a whole model: {report}. Nothing was written; a training can start "
            "from it: mfvis train --init"
        )
    print(report)
    tensors = {name: tensors[name] for name in report.loaded}
    if config.classes is None:
        _write(config, tensors, weights)
    else:
        _write_run(config, model, tensors, classes)


def _write(config: ConvertConfig, tensors: Mapping[str, Tensor], weights: ConvertedWeights) -> None:
    without = weights.ignored
    if config.to != "mfvis" and weights.model == "seqformer":
        tensors = to_original(tensors, vnext=config.to == "detectron2")
    elif config.to == "detectron2":
        tensors, unmapped = to_detectron2(tensors)
        without += unmapped
    if without:
        more = ", ..." if len(without) > 5 else ""
        print(f"{counted(len(without), 'tensor')} left out ({', '.join(without[:5])}{more})")
    if config.out.suffix == ".safetensors":
        strides = {} if weights.stride_in_1x1 is None else {STRIDE_KEY: str(weights.stride_in_1x1)}
        save_safetensors(config.out, tensors, strides)
    else:
        for name, value in tensors.items():  # one by one, or a view would be stored with its whole base
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        content = {"model": tensors, "__author__": "mfvis"}
        if config.out.suffix == ".pth":
            checkpoint.save_tensors(config.out, content)
        else:
            with atomic_write(config.out) as temporary:
                # Tensors, because arrays of numpy 2 cannot be read with numpy 1, which detectron2 is used with.
                temporary.write_bytes(pickle.dumps(content, protocol=4))
    if weights.stride_in_1x1:
        print(
            "it strides in the first 1x1 of a stage: set model.backbone.stride_in_1x1, or RESNETS.STRIDE_IN_1X1 in "
            "detectron2, which must now give it RGB divided by the standard deviation"
        )
    print(f"{counted(len(tensors), 'tensor')} under {config.to}'s names: {config.out}")


def _write_run(config: ConvertConfig, model: ModelConfig, tensors: Mapping[str, Tensor], classes: int) -> None:
    categories = _categories(config.classes)
    if len(categories) != classes:
        raise ConfigError(f"classes is {config.classes}, which has {len(categories)}; the weights have {classes}")
    module = build_model(replace(model, backbone=offline(model.backbone)), classes, pretrained=False)
    load_weights(module, tensors, config.source)
    data = f"{config.classes}:{config.classes}" if config.classes in DATASETS else config.classes
    description = checkpoint.CheckpointInfo(0, Config(data=(data,), model=model), categories)
    with run_lock(config.out, ("checkpoints",)):
        if checkpoint.locate(config.out):
            raise ConfigError(f"{config.out} holds a training already; choose another --out")
        saved = checkpoint.save(config.out / "checkpoints", f"{0:06}", description, module)
        checkpoint.update_last_link(saved, keep=1)
    print(f"a run with the classes {', '.join(c.name for c in categories[:5])}, ...: {config.out}")


def _categories(classes: str) -> tuple[Category, ...]:
    if classes in DATASETS:
        return DATASETS[classes].categories
    if not classes.endswith(".json"):
        raise ConfigError(f"classes is {classes!r}; expected a JSON file of a data set or one of {DATASET_NAMES}")
    return DatasetSpec(Path(classes)).load().categories


def find_backbone(weights: ConvertedWeights, source: str) -> BackboneConfig:
    """Backbone of ours that matches these tensors in names and shapes. CheckpointError if none does."""
    nearest, best = "", -1
    for name in NAMES:
        stride = bool(weights.stride_in_1x1) and name.startswith("resnet")
        config = BackboneConfig(name, stride_in_1x1=stride)
        with torch.device("meta"):
            net = Backbone(config, pretrained=False).net
        report = compare(net, under_names_of(net, weights.backbone), reinitialized=_NOT_PRETRAINED)
        if not (report.missing or report.unexpected or any("[" in name for name in report.reinitialized)):
            return config
        if len(report.loaded) > best:
            nearest, best = f"nearest is {name}: {report}", len(report.loaded)
    raise CheckpointError(f"{source}: a backbone that is none of {', '.join(NAMES)}; {nearest}")


def sizes_of(weights: ConvertedWeights, source: str, heads: int) -> tuple[ModelConfig, int]:
    """Sizes and number of classes of a whole model, derived from the shapes of its tensors.

    Raises:
        CheckpointError: tensors that determine the sizes are missing, or the backbone is unknown.
    """
    tensors = weights.tensors

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f"{source}: {weights.format} without {name}; a whole {weights.model} was expected")
        return tensors[name].shape

    def layers(part: str) -> int:
        indices = [int(name.split(".")[2]) for name in tensors if name.startswith(f"{part}.layers.")]
        return max(indices, default=-1) + 1

    if weights.model == "seqformer":
        queries, dim = shape("decoder.query_embedding.weight")
        dim, encoder, levels, feed_forward = dim // 2, "encoder", seqformer_encoder.LEVELS, "feed_forward."
        decoder_ffn, classes = "box_feed_forward.fc1", shape("decoder.class_heads.0.weight")[0]
    else:
        queries, dim = shape("decoder.query_features.weight")
        encoder, levels, feed_forward = "pixel_decoder", pixel_decoder.LEVELS, ""
        decoder_ffn, classes = "fc1", shape("decoder.class_head.weight")[0] - 1
    offsets = shape(f"{encoder}.layers.0.attention.sampling_offsets.weight")[0]
    if offsets % (heads * levels * 2):
        raise CheckpointError(f"{source}: {offsets} sampling offsets are not those of {heads} heads; give --num-heads")
    config = ModelConfig(
        name=weights.model or "mask2former",
        backbone=find_backbone(weights, source),
        hidden_dim=dim,
        num_heads=heads,
        encoder_layers=layers(encoder),
        encoder_ffn_dim=shape(f"{encoder}.layers.0.{feed_forward}fc1.weight")[0],
        decoder_layers=layers("decoder"),
        decoder_ffn_dim=shape(f"decoder.layers.0.{decoder_ffn}.weight")[0],
        num_queries=queries,
        points=offsets // (heads * levels * 2),
        box_prompts=any(name.startswith("prompts.") for name in tensors),
    )
    return config, classes
