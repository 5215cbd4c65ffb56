"""The names of other programs, written down once more from their sources, made from those of transformers."""

import pickle
from collections import OrderedDict

import torch
from foreign_models import CLASSES
from mfvis.weights.files import save_safetensors
from transformers import Mask2FormerForUniversalSegmentation


def original_swin_names(state: dict) -> dict:
    """Tensors under the names of microsoft/Swin-Transformer, with the output norms of Mask2Former's backbone."""
    named = {}
    for name, value in state.items():
        parts = name.split(".")
        if name.startswith("swin.layernorm"):
            continue
        if name.startswith("hidden_states_norms"):
            named[f"norm{int(parts[1][-1]) - 1}.{parts[2]}"] = value
        elif "embeddings" in name:
            named[f"patch_embed.{'proj' if 'projection' in name else 'norm'}.{parts[-1]}"] = value
        elif "downsample" in name:
            named[f"layers.{parts[3]}.{'.'.join(parts[4:])}"] = value
        else:
            block, inner = f"layers.{parts[3]}.blocks.{parts[5]}", ".".join(parts[6:])
            if inner.startswith("attention.q_proj"):
                both = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                named[f"{block}.attn.qkv.{parts[-1]}"] = torch.cat(both)
            elif not inner.startswith(("attention.k_proj", "attention.v_proj")):
                inner = inner.replace("attention.o_proj", "attn.proj").replace("layernorm_before", "norm1")
                inner = inner.replace("layernorm_after", "norm2").replace("attention.relative_position_bias.", "attn.")
                named[f"{block}.{inner}"] = value
    return named


def resnet_names(state: dict, program: str) -> dict:
    """Tensors under the names of `program`, "torchvision" or "detectron2"."""
    named = {}
    for name, value in state.items():
        parts, leaf = name.split("."), name.split(".")[-1]
        norm = "normalization" in name
        if program == "torchvision":
            if parts[0] == "embedder":
                new = f"bn1.{leaf}" if norm else "conv1.weight"
            else:
                new = f"layer{int(parts[2]) + 1}.{parts[4]}."
                if parts[5] == "shortcut":
                    new += f"downsample.{int(norm)}.{leaf}"
                else:
                    new += f"{'bn' if norm else 'conv'}{int(parts[6]) + 1}.{leaf}"
        elif leaf == "num_batches_tracked":
            continue
        else:
            if parts[0] == "embedder":
                new = "stem.conv1"
            else:
                conv = "shortcut" if parts[5] == "shortcut" else f"conv{int(parts[6]) + 1}"
                new = f"res{int(parts[2]) + 2}.{parts[4]}.{conv}"
            new += f".norm.{leaf}" if norm else f".{leaf}"
        named[new] = value
    return named


def detectron2_names(theirs: Mask2FormerForUniversalSegmentation) -> dict:
    """Tensors of a Mask2Former of transformers under the names of detectron2."""
    state, named = theirs.state_dict(), {}
    head, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    encoder = {k.removeprefix("model.pixel_level_module.encoder."): v for k, v in state.items() if ".encoder." in k}
    encoder = {k: v for k, v in encoder.items() if not k.startswith("model.")}
    swin = any("swin" in name for name in encoder)
    backbone = original_swin_names(encoder) if swin else resnet_names(encoder, "detectron2")
    named |= {f"backbone.{name}": value for name, value in backbone.items()}
    for name, value in state.items():
        leaf = name.split(".")[-1]
        if name.startswith("model.pixel_level_module.decoder."):
            inner = name.removeprefix("model.pixel_level_module.decoder.")
            for old, new in (
                ("input_projections", "input_proj"), ("level_embed", "transformer.level_embed"),
                ("encoder.layers", "transformer.encoder.layers"), ("self_attn_layer_norm", "norm1"),
                ("final_layer_norm", "norm2"), ("fc1", "linear1"), ("fc2", "linear2"),
                ("mask_projection", "mask_features"), ("adapter_1.0", "adapter_1"), ("adapter_1.1", "adapter_1.norm"),
                ("layer_1.0", "layer_1"), ("layer_1.1", "layer_1.norm"),
            ):  # fmt: skip
                inner = inner.replace(old, new)
            named[head + inner] = value
        elif name.startswith("model.transformer_module.decoder.layers."):
            i, inner = name.split(".")[4], ".".join(name.split(".")[5:])
            cross, own = f"transformer_cross_attention_layers.{i}", f"transformer_self_attention_layers.{i}"
            ffn = f"transformer_ffn_layers.{i}"
            if inner.startswith("self_attn.q_proj"):
                qkv = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                named[f"{predictor}{own}.self_attn.in_proj_{leaf}"] = torch.cat(qkv)
            elif not inner.startswith(("self_attn.k_proj", "self_attn.v_proj")):
                new = {
                    "self_attn.out_proj": f"{own}.self_attn.out_proj", "self_attn_layer_norm": f"{own}.norm",
                    "cross_attn.out_proj": f"{cross}.multihead_attn.out_proj", "cross_attn_layer_norm": f"{cross}.norm",
                    "fc1": f"{ffn}.linear1", "fc2": f"{ffn}.linear2", "final_layer_norm": f"{ffn}.norm",
                }.get(inner.removesuffix(f".{leaf}"))  # fmt: skip
                named[f"{predictor}{new}.{leaf}" if new else f"{predictor}{cross}.multihead_attn.{leaf}"] = value
    query = "model.transformer_module."
    for old, new in (
        (query + "queries_features", "query_feat"), (query + "queries_embedder", "query_embed"),
        (query + "level_embed", "level_embed"), (query + "decoder.layernorm", "decoder_norm"),
        ("class_predictor", "class_embed"),
        *((f"{query}decoder.mask_predictor.mask_embedder.{n}.0", f"mask_embed.layers.{n}") for n in range(3)),
    ):  # fmt: skip
        named |= {predictor + new + k.removeprefix(old): v for k, v in state.items() if k.startswith(old + ".")}
    return named | {"criterion.empty_weight": torch.ones(CLASSES + 1)}


def names_of_transformers_4(state: dict) -> dict:
    """As the checkpoints of the hub have them."""
    changes = (
        ("encoder.swin.", "encoder."), (".q_proj", ".self.query"), (".k_proj", ".self.key"),
        (".v_proj", ".self.value"), ("attention.relative_position_bias.", "attention.self."),
        ("attention.o_proj", "attention.output.dense"), (".mlp.fc1", ".intermediate.dense"),
        (".mlp.fc2", ".output.dense"),
    )  # fmt: skip
    old = {}
    for name, value in state.items():
        if "pixel_level_module.encoder" in name:
            if "swin.layernorm" in name:
                continue
            for new, before in changes:
                name = name.replace(new, before)
        old[name] = value
    return old | {f"{n.rpartition('.')[0]}.relative_position_index": torch.zeros(3) for n in old if "bias_table" in n}


def arrays(state: dict) -> dict:
    return {name: value.detach().numpy() for name, value in state.items()}


def write(path, kind: str, state: dict) -> None:
    state = OrderedDict((name, value.detach().clone()) for name, value in state.items())
    if kind == "training.pth":
        torch.save({"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "iteration": 9}, path)
    elif kind == "legacy.pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "arrays.pkl":
        path.write_bytes(pickle.dumps({"model": arrays(state), "__author__": "someone"}, protocol=2))
    elif kind == "tensors.pkl":
        path.write_bytes(pickle.dumps({"model": state, "__author__": "third_party", "matching_heuristics": True}))
    elif kind == "distributed.pth":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        save_safetensors(path, state)
