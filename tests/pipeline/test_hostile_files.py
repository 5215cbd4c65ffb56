"""Presets, weights and checkpoints that ask for too much: one clear error, in little time and memory."""

from __future__ import annotations

import json
import pickle
import random
import re
import resource
import shutil
import socket
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from corruptions import bytes_changed, json_changed, shuffled, truncated
from mfvis.cli import main
from mfvis.data.importers.class_names import read_class_names
from mfvis.data.jsonfile import read_json
from mfvis.data.split import SplitConfig
from mfvis.data.split import run as split
from mfvis.data.ytvis import parse_ytvis
from mfvis.errors import CheckpointError, ConfigError, Problem
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import build, load_preset, parse
from mfvis.train import checkpoint
from mfvis.train.config import Config
from mfvis.types import Category
from mfvis.weights.files import read_state_dict, save_safetensors

GIB = 2**30


@pytest.fixture(autouse=True)
def one_gibibyte() -> Iterator[None]:
    """No test of this module may take a gibibyte more than the process has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# ---- Presets -------------------------------------------------------------------------------------------------------


def doubled(first: str, step: str, levels: int) -> str:
    lines = [f"a0: &x0 {first}", *(f"a{n}: &x{n} {step.format(f'*x{n - 1}')}" for n in range(1, levels))]
    return "\n".join([*lines, f"train: {{lr: *x{levels - 1}}}"])


PRESETS = {
    "nine levels of nine": (doubled("[1,1,1]", "[{0},{0},{0},{0},{0},{0},{0},{0},{0}]", 9), "more than 10000 values"),
    "mappings of two": (doubled("{a: 1}", "{{a: {0}, b: {0}}}", 40), "more than 10000 values"),
    "a list in itself": ("train: &a [*a]", "more than 10000 values"),
    "a mapping in itself": ("train: &a {train: *a}", "more than 10000 values"),
    "nested deeply": ("train: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "mappings nested deeply": ("{a: " * 3000 + "1" + "}" * 3000, "nested too deeply"),
    "a film": ("#" * 200_000, "has 200000 bytes"),
    "infinite": ("train: {lr: 1e999}", "train.lr is '1e999'; expected a finite number"),
    "infinite in YAML": ("train: {lr: .inf}", "train.lr is inf; expected a finite number"),
    "not a number": ("train: {lr: .nan}", "train.lr is nan; expected a finite number"),
    "5,000 digits": (f"train: {{steps: {'9' * 5000}}}", "cannot be read"),
    "50,000 hexadecimal digits": (
        f"train: {{steps: 0x{'f' * 50_000}}}",
        "an integer of 200000 bits>; expected at most",
    ),
    "an integer for a float": (f"train: {{lr: 0x{'f' * 500}}}", "an integer of 2000 bits>; expected a finite number"),
    "a date": ("out: 2020-01-01", "out is datetime.date(2020, 1, 1); expected a path (in YAML: in quotes)"),
    "no date": ("out: 2020-13-45", "month must be in 1..12"),
    "bytes": ("out: !!binary aGVsbG8=", "out is b'hello'; expected a path"),
    "a set": ("train: !!set {a, b}", "expected keys"),
    "a Python object": ("out: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "a merge of nothing": ("train: {<<: 3}", "expected a mapping"),
    "NUL": (r'out: "a\0b"', "has a NUL character"),
    "half a character": (r'out: "\ud800"', "has half of a surrogate pair"),
    "escapes": (r'"\e[2J": 1', r"unknown key '\x1b[2J'"),
    "a long key": ("? " + "x" * 90_000 + "\n: 1", "unknown key 'xxx"),
    "keys of other types": ("1: 2\nnull: 3\n2020-01-01: 4", "unknown key datetime.date(2020, 1, 1)"),
    "a key twice": ("train: {lr: 1}\nmodel: {}\ntrain: {steps: 3}", "key 'train' occurs twice"),
    "a merged key again": ("train: &a {lr: 1.0e-3}\nloss: {<<: *a, lr: 2}", "unknown key loss.lr"),
}


@pytest.mark.parametrize(("content", "message"), PRESETS.values(), ids=PRESETS)
def test_hostile_presets(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    for preset in (f"test,{file}", f"{file},{file}"):
        with pytest.raises(ConfigError) as raised:
            parse(Config, ["--data", "x.json", "--preset", preset], prog="mfvis train")
        assert message in str(raised.value) and "mine.yaml" in str(raised.value)
        assert len(str(raised.value)) < 2000


NAMES = {
    "aliases": (doubled("[1,1,1]", "[{0},{0},{0},{0},{0},{0},{0},{0},{0}]", 9), "more than 100000 values"),
    "nested deeply": ("names: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "a number twice": ("names: {0: cat, 1: dog, 0: cow}", "key '0' occurs twice"),
    "a truth value": ("names: [cat, on]", "(yes, no, on, off need quotes)"),
    "a truth value as number": ("names: {no: cat}", "(yes, no, on, off need quotes)"),
    "a Python object": ("names: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "no date": ("names: [2020-13-45]", "month must be in 1..12"),
}


@pytest.mark.parametrize(("content", "message"), NAMES.values(), ids=NAMES)
def test_hostile_names_of_classes(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_class_names(tmp_path / "data.yaml")


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "9" * 5000, "²", "1_0", "0x10", "", " ", "-"])
@pytest.mark.parametrize("flag", ["--train.steps", "--train.lr", "--clip.short-sides"])
def test_absurd_numbers_in_flags(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--preset", "test", "--data", "x.json", f"{flag}={value}", "--dry-run"]
    try:
        assert main(argv) == 2
    except SystemExit as end:
        assert end.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


# ---- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1" * 6000, "Exceeds the limit"),
        ('{"videos": [], "annotations": [1], "annotations": []}', "key 'annotations' has two different values"),
        ('{"videos": [], "a": {"b": 1, "b": 2}}', "key 'b' has two different values"),
    ],
)
def test_hostile_json(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    problems: list[Problem] = []
    assert read_json(tmp_path / "a.json", problems) is None
    assert [message in str(problem) for problem in problems] == [True]
    assert main(["data", "check", str(tmp_path / "a.json")]) == 1


@pytest.mark.parametrize(("value", "valid"), [(2**128 - 1, True), (10**300, False), (-(10**300), False)])
def test_ids_are_at_most_as_long_as_uuids(value: int, valid: bool, six_images: Path, tmp_path: Path) -> None:
    names = [path.name for path in sorted(six_images.iterdir())]
    video = {"id": value, "width": 80, "height": 60, "file_names": names}
    (tmp_path / "a.json").write_text(json.dumps({"videos": [video]}))
    dataset, problems = parse_ytvis(tmp_path / "a.json", six_images)
    assert len(dataset.videos) == valid
    assert [problem.remedy for problem in problems] == ["Write an integer of at most 38 digits"] * (not valid)


def test_the_same_value_twice_is_no_contradiction(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, NaN], "b": 1, "b": 1}')
    assert read_json(tmp_path / "a.json", [])["b"] == 1


def test_what_is_not_json_in_foreign_fields_is_passed_on(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    root = json.loads(demo_data[0].read_text())
    root["info"] = {"loss": float("nan"), "longest": float("inf")}
    (tmp_path / "a.json").write_text(json.dumps(root))
    frames = demo_data[0].parent / "JPEGImages"
    train, _ = split(SplitConfig(str(tmp_path / "a.json"), tmp_path / "out", 0.5, frames=frames))
    assert '"info":{"loss":NaN,"longest":Infinity}' in train.read_text()


# ---- Weights -------------------------------------------------------------------------------------------------------


def pickled(**arrays: np.ndarray) -> bytes:
    return pickle.dumps({"model": arrays}, 2)


def shaped(*shape: int) -> bytes:
    """A pickle of two numbers that says they have another shape."""
    raw = pickled(a=np.zeros(2, "f4"))
    assert raw.count(b"K\x02\x85") == 1
    return raw.replace(b"K\x02\x85", pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b""))


def bomb(path: Path) -> bytes:
    torch.save({"a": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(path.with_name("b.zip"), "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    return path.with_name("b.zip").read_bytes()


def header(text: str, size: int | None = None, rest: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text.encode() + rest


def saved(tensor: torch.Tensor) -> Callable[[Path], bytes]:
    def save(path: Path) -> bytes:
        torch.save({"a": tensor}, path)
        return path.read_bytes()

    return save


def entry(dtype: str, shape: list[int], stop: int) -> bytes:
    return header(json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, stop]}}))


TWO = pickled(a=np.zeros(2, "f4"))
WEIGHTS: dict[str, tuple[str, bytes | Callable[[Path], bytes], str]] = {
    "another shape than bytes": ("a.pkl", shaped(7), "of shape (7,) in 8 bytes"),
    "an absurd shape": ("a.pkl", shaped(2**31 - 1, 2**31 - 1, 2**31 - 1), "in 8 bytes"),
    "a negative shape": ("a.pkl", shaped(-1, -2), "of shape (-1, -2) in 8 bytes"),
    "too many dimensions": ("a.pkl", shaped(2, *[1] * 70), "not a file of plain tensors"),
    "a shape of texts": ("a.pkl", TWO.replace(b"K\x02\x85", b"U\x012\x85"), "in 8 bytes"),
    "objects": ("a.pkl", TWO.replace(b"\x02\x00\x00\x00f4", b"\x02\x00\x00\x00O8"), "of type 'O8'"),
    "a view of one number": ("a.pth", saved(torch.ones(1).expand(10**6, 10**6)), "shape (1000000, 1000000) in"),
    "a sparse tensor": ("a.pth", saved(torch.eye(3).to_sparse()), "not dense"),
    "a tensor without numbers": ("a.pth", saved(torch.ones(3, device="meta")), "not dense"),
    "parts that grow": ("a.pth", bomb, "its parts have 4"),
    "a header of 2^63 bytes": ("a.safetensors", header("{}", 2**63), "not a readable safetensors file"),
    "a header of a gibibyte": ("a.safetensors", header("{}", 2**30), "not a readable safetensors file"),
    "a header nested deeply": ("a.safetensors", header('{"a":' * 50_000), "not a readable safetensors file"),
    "an absurd size": ("a.safetensors", entry("F32", [2**40, 2**40], 16), "not a readable safetensors file"),
    "offsets beyond the file": ("a.safetensors", entry("F32", [400], 1600), "not a readable safetensors file"),
    "a type from the future": ("a.safetensors", entry("F3", [4], 16), "not a readable safetensors file"),
}


@pytest.mark.parametrize(("name", "content", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_hostile_weights(
    name: str,
    content: bytes | Callable[[Path], bytes],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content(tmp_path / "made.pth"))
    with pytest.raises(CheckpointError) as raised:
        read_state_dict(file)
    assert message in str(raised.value) and str(file) in str(raised.value)
    assert main(["convert", str(file), "--classes", "ytvis2019", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_names_of_tensors_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"backbone.net.\x1b[2J": torch.ones(2), "decoder.query_features.weight": torch.ones(2, 2)}
    save_safetensors(tmp_path / "a.safetensors", state)
    assert main(["convert", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b.safetensors")]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.filterwarnings("ignore")  # of torch, about what the bytes happen to be
def test_pickles_whose_operations_are_changed(tmp_path: Path) -> None:
    """The operations of a pickle removed, doubled, swapped, or given other arguments."""
    import pickletools

    content = pickle.dumps({"model": OrderedDict(a=np.ones((2, 3), "f4"), b=np.arange(3)), "n": [1, (2.5, "x")]}, 2)
    places = [place for _, _, place in pickletools.genops(content)]
    operations = [content[a:b] for a, b in zip(places, [*places[1:], len(content)], strict=True)]
    file, read, refused = tmp_path / "a.pkl", 0, 0
    for case in range(1500):
        chance = random.Random(case)
        changed = list(operations)
        for _ in range(chance.randint(1, 3)):
            place, other = chance.randrange(1, len(changed)), chance.randrange(1, len(changed))
            way = chance.randrange(4)
            if way == 0 and len(changed) > 4:
                del changed[place]
            elif way == 1:
                changed.insert(place, changed[other])
            elif way == 2:
                changed[place], changed[other] = changed[other], changed[place]
            elif len(changed[place]) > 1:
                changed[place] = changed[place][:1] + bytes(chance.randrange(256) for _ in changed[place][1:])
        file.write_bytes(b"".join(changed))
        try:
            state = read_state_dict(file)
        except CheckpointError as error:
            assert str(file) in str(error)
            refused += 1
        else:
            assert state and all(isinstance(value, torch.Tensor) for value in state.values())
            read += 1
    assert read > 20 and refused > 500


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model that was not trained."""
    config = build(Config, load_preset("test") | {"data": "x.json"}, "test")
    categories = (Category(3, "cat"), Category(7, "dog"))
    model = VideoMask2Former(config.model, len(categories))
    description = checkpoint.CheckpointInfo(4, config, categories)
    return checkpoint.save(tmp_path_factory.mktemp("run"), "000004", description, model)


ABSURD = {
    "hidden_dim": [2**40, 4096, -4, 16.5, "16", None],
    "num_heads": [2**31, 16],
    "encoder_layers": [10**9, 90],
    "decoder_layers": [10**9, 90],
    "encoder_ffn_dim": [10**12, 90_000],
    "decoder_ffn_dim": [10**12, 90_000],
    "num_queries": [10**12, 90_000],
    "points": [10**12, 90],
    "backbone": [{"name": "swin-l"}, {"name": "gone/away"}, [], {"name": "a\0/b"}],
}


@pytest.mark.parametrize(("setting", "value"), [(name, value) for name, values in ABSURD.items() for value in values])
def test_absurd_sizes_in_a_checkpoint(setting: str, value: object, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.json"
    content = json.loads(file.read_text())
    content["config"]["model"][setting] = value
    file.write_text(json.dumps(content))
    with pytest.raises((CheckpointError, ConfigError), match="run"):
        checkpoint.load_model(tmp_path / "run")


DOG = {"id": 7, "name": "dog"}
CHANGES: list[dict[str, object]] = [
    *({"step": step} for step in (-1, 1.5, float("inf"), "4", True, None)),
    *({"categories": value} for value in ([], {}, None, "ab", [{}], [1], [{"id": "3", "name": "cat"}, DOG])),
    *({"categories": [{"id": 3, "name": name}, DOG]} for name in ("\x1b[2J", None, 3, "x" * 300)),
    *({"config": value} for value in (None, [], {"data": "coco:"}, {"data": "x", "train": {"lr": float("nan")}})),
    {"format": []},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_description_with_other_values(change: dict[str, object], trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        checkpoint.describe(tmp_path / "run")


def test_damaged_descriptions_are_refused_or_read(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.json"
    valid = file.read_bytes()
    ways = [truncated, shuffled, bytes_changed, json_changed, json_changed]
    refused = 0
    for case in range(300):
        file.write_bytes(ways[case % len(ways)](valid, random.Random(case)))
        try:
            checkpoint.load_model(tmp_path / "run")
        except (CheckpointError, ConfigError) as error:
            assert str(tmp_path) in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_state_that_grows_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(bomb(tmp_path / "made.pth"))
    with pytest.raises(CheckpointError, match="(?s)training.pt: .*its parts have 4.*Use another checkpoint"):
        checkpoint.read_tensors(tmp_path / "training.pt")


# ---- The hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The addresses that were looked up or connected to; nothing is reached."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.fixture
def of_the_hub(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint that says that its backbone is a model of the hub, with weights of the hub."""
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.json"
    content = json.loads(file.read_text())
    content["config"]["model"]["backbone"] = {"name": "someone/model", "weights": "hub"}
    content["config"]["init"] = "someone/weights"
    file.write_text(json.dumps(content))
    return tmp_path / "run"


def test_names_in_a_checkpoint_contact_no_server(
    of_the_hub: Path, demo_data: tuple[Path, Path], no_network: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = str(demo_data[0]), str(of_the_hub.parent / "out")
    for argv in (
        ["predict", data, "--checkpoint", str(of_the_hub), "--out", out, "--device", "cpu"],
        ["label", data, "--checkpoint", str(of_the_hub), "--out", out, "--device", "cpu"],
        ["convert", str(of_the_hub), "--out", f"{out}.safetensors"],
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "'someone/model' is a model of the Hugging Face hub that is not on this machine" in error
        assert "run `hf download someone/model config.json preprocessor_config.json`" in error
    assert not no_network


def test_a_model_in_the_cache_is_found_without_the_hub(
    of_the_hub: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mfvis.models.backbone import Backbone, offline
    from mfvis.models.config import BackboneConfig
    from mfvis.weights import hub
    from transformers import ConvNextConfig

    folder = tmp_path / "cache" / "snapshot"
    ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]).save_pretrained(folder)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: str(folder / file))
    config = offline(BackboneConfig("someone/model", "hub"))
    assert Backbone(config, pretrained=False).channels == (8, 16, 16, 16)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load_model(of_the_hub)
    assert not no_network


def test_without_a_connection_the_hub_is_asked_once(
    no_network: list[object], demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--preset", "test", "--data", str(demo_data[0]), "--out", str(tmp_path / "run")]
    assert main([*train, "--init", "someone/weights"]) == 2
    error = capsys.readouterr().err
    assert "someone/weights: no such file, and the Hugging Face hub cannot be reached. Check the connection" in error
    assert "run `hf download someone/weights model.safetensors` on another machine" in error
    assert main([*train, "--model.backbone.name", "someone/model"]) == 2
    assert "someone/model cannot be had as a backbone" in capsys.readouterr().err
    assert len(no_network) <= 3


def test_code_in_a_folder_of_a_backbone_is_not_run(tmp_path: Path) -> None:
    """`AutoConfig` would ask at the terminal whether to run it."""
    from mfvis.models.backbone import Backbone
    from mfvis.models.config import BackboneConfig

    folder = tmp_path / "a" / "model"
    folder.mkdir(parents=True)
    auto_map = {"AutoConfig": "code.Config", "AutoBackbone": "code.Net"}
    (folder / "config.json").write_text(json.dumps({"model_type": "other", "auto_map": auto_map}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="cannot be had as a backbone"):
        Backbone(BackboneConfig(str(folder)), pretrained=False)
    assert not (tmp_path / "it ran").exists()
