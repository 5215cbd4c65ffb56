"""Weights files: round trips, honest reports, nothing executed, nothing half written."""

import io
import os
import pickle
import tarfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mfvis.errors import CheckpointError
from mfvis.weights.files import load_weights, read_state_dict, save_safetensors
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


# ---- Pickles -------------------------------------------------------------------------------------------------------


def test_pickles_of_arrays_and_tensors(tmp_path):
    arrays = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3), "columns": np.asfortranarray(np.eye(3)[:2]),
        "half": np.ones(3, np.float16), "whole": np.arange(3), "big-endian": np.arange(3, dtype=">f4"),
        "one": np.array(2.5), "none": np.zeros((0, 4), np.float32), "flags": np.array([True, False]),
    }  # fmt: skip
    for protocol in range(2, 6):
        content = {"model": arrays | {"tensor": torch.ones(2)}, "__author__": "x", "epoch": np.float32(3)}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
        state = read_state_dict(tmp_path / "a.pkl")
        assert set(state) == {*arrays, "tensor"}
        for name, array in arrays.items():
            native = array.astype(array.dtype.newbyteorder("="))
            assert state[name].shape == array.shape and state[name].dtype == torch.from_numpy(native.copy()).dtype
            assert np.array_equal(state[name].numpy(), array)
    # as Python 2 wrote it: numbers in a string
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    numbers = b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\n"
    pickled = b"(dS'a'\n" + array + b"(I1\n(I2\nt" + dtype + b"I00\n" + numbers + b"tbs."
    (tmp_path / "a.pkl").write_bytes(pickled)
    assert read_state_dict(tmp_path / "a.pkl")["a"].tolist() == [1, 2]


class _Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _tar(attack) -> bytes:
    """As torch 0.1 did: a tar file with the pickles in it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(0 if name != "pickle" else attack, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def attack(tmp_path):
    """Something that leaves a file behind where it runs, and what finds the file."""
    trace = tmp_path / "it ran"
    yield _Call(os.system, f"touch '{trace}'")
    assert not trace.exists(), "code of a weights file was run"


FORMATS = {
    "a.pkl": lambda attack: pickle.dumps(attack, 2),
    "a pickle of protocol 5": lambda attack: pickle.dumps({"model": {"a": attack}}, 5),
    "text": lambda attack: pickle.dumps([1, (attack,)], 0),
    "next to valid tensors": lambda attack: pickle.dumps({"model": OrderedDict(a=torch.ones(2), b=[{"c": attack}])}, 2),
    "a.pth": lambda attack: _saved({"model": {"a": torch.ones(2), "b": attack}}),
    "legacy": lambda attack: _saved({"a": attack}, _use_new_zipfile_serialization=False),
    "legacy, nested": lambda attack: _saved(
        OrderedDict(a=torch.ones(2), b=[(attack,)]), _use_new_zipfile_serialization=False
    ),
    "tar": _tar,
    "a storage that is a pickle": lambda attack: pickle.dumps(
        {"a": _Call(torch.storage._load_from_bytes, _saved(attack, _use_new_zipfile_serialization=False))}
    ),
    "objects in an array": lambda attack: pickle.dumps({"a": np.array([attack, None], dtype=object)}, 2),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_malicious_file_is_refused(kind, attack, tmp_path):
    file = tmp_path / ("weights.pth" if kind == "a.pth" else "weights.pkl")
    file.write_bytes(FORMATS[kind](attack))
    with pytest.raises(CheckpointError, match="weights.p.*: not a file of plain tensors .*") as caught:
        read_state_dict(file)
    if kind not in ("tar", "objects in an array"):
        assert "asks for posix.system" in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(ctorch._utils\n_rebuild_tensor_v2\nS'__globals__'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"ccollections\nnamedtuple\n.",
        b"ios\nsystem\n(S'true'\n.",
        b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.",
        # more memory than there is
        b"\x80\x05\x95\x00\x00\x00\x00\x00\xff\x00\x00N.",
        b"\x80\x05\x96\x00\x00\x00\x00\x0f\x00\x00\x00abc.",
        b"\x80\x05Nr\xff\xff\xff\x7f.",
        # what is allowed must not be changed for those who come later
        b"ctorch._utils\n_rebuild_tensor_v2\nN}S'__defaults__'\nNs\x86b0}.",
    ],
)
def test_only_what_weights_are_made_of_may_be_named(asked, tmp_path):
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    (tmp_path / "a.pkl").write_bytes(asked)
    with pytest.raises(CheckpointError, match="a.pkl"):
        read_state_dict(tmp_path / "a.pkl")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "no such weights file"),
        ("a.safetensors", b"rubbish", "not a readable safetensors file"),
        ("a.pth", b"rubbish", "not a file of plain tensors"),
        ("a.pth", b"", "not a file of plain tensors"),
        ("a.pth", {"epoch": 3}, "holds no tensors by name"),
        ("a.pth", [1, 2], "holds no tensors by name"),
    ],
)
def test_malformed_weights(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert name in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of torch, about what the bytes happen to be
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
def test_damaged_files_are_refused_or_read(kind, tmp_path):
    """500 truncated, mutated and shuffled files of each kind: an error of ours or tensors, never anything else."""
    random = np.random.default_rng(0)
    state = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(3))
    file = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pkl")
    if kind == "safetensors":
        save_safetensors(file, state)
        good = file.read_bytes()
    elif kind == "pickle":
        good = pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}, 2)
    else:
        good = _saved(state, _use_new_zipfile_serialization=kind == "zip")
    refused = 0
    for case in range(500):
        data = np.frombuffer(good, np.uint8).copy()
        if case % 3 == 0:
            data = data[: random.integers(len(data))]
        elif case % 3 == 1:
            where = random.integers(len(data), size=random.integers(1, 5))
            data[where] = random.integers(256, size=len(where))
        else:
            start, stop = sorted(random.integers(len(data), size=2))
            random.shuffle(data[start : min(stop, start + 40)])
        file.write_bytes(data.tobytes())
        try:
            read = read_state_dict(file)
        except CheckpointError as error:
            refused += 1
            assert str(file) in str(error)
        else:
            assert read and all(isinstance(value, torch.Tensor) for value in read.values())
    assert refused > 100


# ---- Reports -------------------------------------------------------------------------------------------------------


def test_the_report_names_everything():
    model, state = net(), net().state_dict()
    state["0.weight"] = torch.zeros(7, 2)
    state["other"] = state.pop("2.bias")
    del state["1.num_batches_tracked"]
    report = load_weights(model, state, "file", least=0.5)
    assert report.missing == ("2.bias",)
    assert report.unexpected == ("other",)
    assert report.reinitialized == ("0.weight [7, 2] for [3, 2]",)
    assert torch.equal(model[2].weight, state["2.weight"])
    assert "1 missing (2.bias)" in str(report)


@pytest.mark.parametrize("change", ["missing", "unexpected", "re-initialized"])
def test_strict_loading_refuses_any_difference_and_changes_nothing(change):
    model, state = net(), net().state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if change == "missing":
        del state["0.weight"]
    else:
        state["0.weight" if change == "re-initialized" else "other"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=f"file: does not fit the model: .*1 {change}"):
        load_weights(model, state, "file")
    torch.testing.assert_close(dict(model.state_dict()), before)
