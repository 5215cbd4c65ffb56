"""Weights files: round trips, honest reports, nothing executed, nothing half written."""

import pickle

import pytest
import torch
from mfvis.errors import CheckpointError
from mfvis.models.weights import load_weights, read_state_dict, save_safetensors
from torch import nn


def net(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_files_round_trip(tmp_path, wrapper):
    state = net().state_dict()
    save_safetensors(tmp_path / "deep" / "a.safetensors", state)
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "a.pth")
    for path in (tmp_path / "deep" / "a.safetensors", tmp_path / "a.pth"):
        torch.testing.assert_close(read_state_dict(path), dict(state))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_views_and_shared_tensors_are_stored_whole(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    save_safetensors(tmp_path / "a.safetensors", {"a": base.T, "b": base})
    torch.testing.assert_close(read_state_dict(tmp_path / "a.safetensors"), {"a": base.T.contiguous(), "b": base})


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.safetensors"
    save_safetensors(file, {"a": torch.ones(2)})
    with pytest.raises(TypeError):
        save_safetensors(file, {"a": torch.zeros(2)}, metadata={"step": 3})
    assert read_state_dict(file)["a"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


class _Attack:
    def __reduce__(self):
        return (exec, ("raise AssertionError('code of a weights file was run')",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "no such weights file"),
        ("a.safetensors", b"rubbish", "not a readable safetensors file"),
        ("a.pth", b"rubbish", "not a file of plain tensors"),
        ("a.pth", b"", "not a file of plain tensors"),
        ("a.pth", pickle.dumps({"a": _Attack()}, protocol=2), "not a file of plain tensors"),
        ("a.pth", _Attack(), "not a file of plain tensors"),
        ("a.pth", {"epoch": 3}, "holds no tensors by name"),
        ("a.pth", [1, 2], "holds no tensors by name"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert name in str(caught.value)


def test_the_report_names_everything():
    model, state = net(), net().state_dict()
    state["0.weight"] = torch.zeros(7, 2)
    state["other"] = state.pop("2.bias")
    del state["1.num_batches_tracked"]
    report = load_weights(model, state, "file", least=0.5)
    assert report.missing == ("2.bias",)
    assert report.unexpected == ("other",)
    assert report.reinitialised == ("0.weight [7, 2] for [3, 2]",)
    assert torch.equal(model[2].weight, state["2.weight"])
    assert "1 missing (2.bias)" in str(report)


@pytest.mark.parametrize("change", ["missing", "unexpected", "re-initialised"])
def test_strict_loading_refuses_any_difference_and_changes_nothing(change):
    model, state = net(), net().state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if change == "missing":
        del state["0.weight"]
    else:
        state["0.weight" if change == "re-initialised" else "other"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=f"file: does not fit the model: .*1 {change}"):
        load_weights(model, state, "file")
    torch.testing.assert_close(dict(model.state_dict()), before)
