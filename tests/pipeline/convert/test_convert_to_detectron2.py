"""Our models in detectron2's names: they are complete, come back bit for bit, and run there."""

import pickle

import pytest
import torch
from foreign_models import SWIN, ours, shaken
from mfvis.convert import run
from mfvis.errors import CheckpointError
from mfvis.models import backbone as backbones
from mfvis.models.config import BackboneConfig, ModelConfig
from mfvis.models.mask2former import VideoMask2Former
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import read_weights, save_safetensors
from mfvis.weights.foreign import to_detectron2
from torch import nn

# The parameters of the modules in facebookresearch/Mask2Former and detectron2, for one layer and block of each kind.
BOTH = ("weight", "bias")
HEAD = [
    *(f"sem_seg_head.pixel_decoder.input_proj.{level}.{n}.{x}" for level in range(3) for n in (0, 1) for x in BOTH),
    "sem_seg_head.pixel_decoder.transformer.level_embed",
    *(
        f"sem_seg_head.pixel_decoder.transformer.encoder.layers.0.{module}.{x}"
        for module in (
            "self_attn.sampling_offsets", "self_attn.attention_weights", "self_attn.value_proj",
            "self_attn.output_proj", "norm1", "linear1", "linear2", "norm2",
        )
        for x in BOTH
    ),
    *(f"sem_seg_head.pixel_decoder.mask_features.{x}" for x in BOTH),
    *(
        f"sem_seg_head.pixel_decoder.{conv}.{x}"
        for conv in ("adapter_1", "layer_1") for x in ("weight", "norm.weight", "norm.bias")
    ),
    *(
        f"sem_seg_head.predictor.{module}.{x}"
        for module in (
            "transformer_self_attention_layers.0.self_attn.out_proj", "transformer_self_attention_layers.0.norm",
            "transformer_cross_attention_layers.0.multihead_attn.out_proj", "transformer_cross_attention_layers.0.norm",
            "transformer_ffn_layers.0.linear1", "transformer_ffn_layers.0.linear2", "transformer_ffn_layers.0.norm",
            "decoder_norm", "class_embed", "mask_embed.layers.0", "mask_embed.layers.1", "mask_embed.layers.2",
        )
        for x in BOTH
    ),
    *(f"sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_{x}" for x in BOTH),
    *(f"sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_{x}" for x in BOTH),
    *(f"sem_seg_head.predictor.{module}.weight" for module in ("query_feat", "query_embed", "level_embed")),
]  # fmt: skip
NORM = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
RESNET = [
    *(f"backbone.stem.conv1.{x}" for x in ("weight", *NORM)),
    *(
        f"backbone.res{stage}.0.{conv}.{x}"
        for stage in (2, 3, 4, 5) for conv in ("shortcut", "conv1", "conv2", "conv3") for x in ("weight", *NORM)
    ),
]  # fmt: skip
SWIN_NAMES = [
    *(f"backbone.patch_embed.{module}.{x}" for module in ("proj", "norm") for x in BOTH),
    *(f"backbone.layers.{s}.blocks.0.attn.relative_position_bias_table" for s in range(4)),
    *(
        f"backbone.layers.{s}.blocks.0.{module}.{x}"
        for s in range(4) for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for x in BOTH
    ),
    *(f"backbone.layers.{s}.downsample.reduction.weight" for s in range(3)),
    *(f"backbone.layers.{s}.downsample.norm.{x}" for s in range(3) for x in BOTH),
    *(f"backbone.norm{s}.{x}" for s in range(4) for x in BOTH),
]  # fmt: skip


@pytest.mark.parametrize(("name", "backbone"), [("resnet50", RESNET), ("swin-t", SWIN_NAMES)])
def test_the_names_are_those_of_the_published_modules(name, backbone, monkeypatch):
    monkeypatch.setitem(backbones.SWINS, "swin-t", SWIN | {"depths": (1, 1, 1, 1)})
    monkeypatch.setitem(backbones.RESNETS, "resnet50", (1, 1, 1, 1))
    model = VideoMask2Former(
        ModelConfig(backbone=BackboneConfig(name), hidden_dim=32, encoder_layers=1, decoder_layers=1), 4
    )
    named, unmapped = to_detectron2(model.state_dict())
    assert sorted(named) == sorted(HEAD + backbone)
    assert not unmapped


@pytest.mark.parametrize(
    ("name", "ending"), [("swin-t", ".pkl"), ("swin-t", ".pth"), ("swin-t", ".safetensors"), ("resnet50", ".pkl")]
)
def test_there_and_back_bit_for_bit(name, ending, tmp_path, capsys):
    torch.manual_seed(2)
    model = shaken(ours(name))
    save_safetensors(tmp_path / "ours.safetensors", model.state_dict())
    run(ConvertConfig(str(tmp_path / "ours.safetensors"), tmp_path / f"theirs{ending}", to="detectron2", num_heads=4))
    run(ConvertConfig(str(tmp_path / f"theirs{ending}"), tmp_path / "back.safetensors", num_heads=4))
    assert f"{name}, 5 classes, 6 queries, 3 decoder layers, width 32" in capsys.readouterr().out
    back = read_weights(tmp_path / "back.safetensors").tensors
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert set(back) == set(expected)
    assert all(torch.equal(back[k], expected[k]) for k in expected)


class _Versioned(nn.Module):
    """As Mask2Former's head: a file that says no version is taken for an old one and renamed."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.version = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_detectron2_sees_the_version_it_needs(ending, tmp_path):
    save_safetensors(tmp_path / "ours.safetensors", ours("resnet50").state_dict())
    file = tmp_path / f"theirs{ending}"
    run(ConvertConfig(str(tmp_path / "ours.safetensors"), file, to="detectron2", num_heads=4))
    content = pickle.loads(file.read_bytes()) if ending == ".pkl" else torch.load(file, weights_only=True)
    assert content["__author__"] == "mfvis"  # so detectron2 does not guess names
    head = _Versioned(predictor=_Versioned())
    _Versioned(sem_seg_head=head, backbone=(norm := _Versioned())).load_state_dict(content["model"], strict=False)
    assert (head.version, head.predictor.version) == (2, 2)
    assert norm.version is None, "a frozen batch norm of a named version would take eps from the variances"


def test_what_detectron2_cannot_hold_is_said(tmp_path, capsys):
    prompted = ModelConfig(
        backbone=BackboneConfig("resnet50"), hidden_dim=32, encoder_layers=1, decoder_layers=1, box_prompts=True
    )
    save_safetensors(tmp_path / "prompted.safetensors", VideoMask2Former(prompted, 2).state_dict())
    run(ConvertConfig(str(tmp_path / "prompted.safetensors"), tmp_path / "out.pkl", to="detectron2"))
    assert "5 tensors left out (prompts.embedding.weight" in capsys.readouterr().out
    tiny = VideoMask2Former(
        ModelConfig(backbone=BackboneConfig("tiny"), hidden_dim=32, encoder_layers=1, decoder_layers=1), 2
    )
    save_safetensors(tmp_path / "tiny.safetensors", tiny.state_dict())
    with pytest.raises(CheckpointError, match="no place for .* tensors .*ResNet or Swin"):
        run(ConvertConfig(str(tmp_path / "tiny.safetensors"), tmp_path / "tiny.pkl", to="detectron2"))
    assert not (tmp_path / "tiny.pkl").exists()
