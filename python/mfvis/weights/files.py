"""Weights: safe reading from a file, a folder or the hub, loading with a report, atomic writing.

Nothing here can run code from a file: safetensors, or pickles restricted to tensors (`mfvis.weights.unpickle`).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mfvis.errors import CheckpointError
from mfvis.text import counted
from mfvis.weights import unpickle
from mfvis.weights.foreign import ConvertedWeights, from_foreign
from mfvis.weights.hub import DOWNLOAD, is_reachable
from mfvis.weights.names import canonical
from mfvis.writing import atomic_write

CHECKSUM_KEY = "mfvis_crc32"
"""Metadata key of the `_checksum` in files of mfvis, as the format has none."""
STRIDE_KEY = "stride_in_1x1"
"""Metadata key of the stride position of a ResNet in files of mfvis, if the original format defines it."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?<!\.pkl)(?<!\.pth)(?<!\.bin)(?<!\.pt)(?<!\.safetensors)")


@dataclass(frozen=True)
class LoadReport:
    """Report on every tensor after loading a state dict into a module."""

    loaded: tuple[str, ...]
    reinitialized: tuple[str, ...]
    """Tensors whose shapes differ, or that are to be trained from scratch; they keep the module's initial values."""
    missing: tuple[str, ...]
    """Tensors of the module that the file does not have."""
    unexpected: tuple[str, ...]
    """Tensors of the file that the module does not have."""

    def __str__(self) -> str:
        parts = [f"{counted(len(self.loaded), 'tensor')} loaded"]
        for kind, title in (("reinitialized", "re-initialized"), ("missing", "missing"), ("unexpected", "unexpected")):
            names = getattr(self, kind)
            if names:
                listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                parts.append(f"{len(names)} {title} ({listed})")
        return "; ".join(parts)


def read_weights(source: str | Path) -> ConvertedWeights:
    """Read weights of any format that `mfvis.weights.foreign` knows, under our names.

    Args:
        source: A file (``.safetensors``, or a pickle of PyTorch or detectron2), a folder as transformers or mfvis save
            a model, or the name of a model on the Hugging Face hub, ``organization/model``.

    Raises:
        CheckpointError: the source does not exist, is damaged, or holds other objects than tensors or no tensors.
    """
    path = Path(source)
    if path.is_file():
        weights = from_foreign(read_state_dict(path))
        stride = _metadata(path).get(STRIDE_KEY) if path.suffix == ".safetensors" else None
        return weights if stride is None else replace(weights, stride_in_1x1=stride == "True")
    if not path.exists() and _HUB_NAME.fullmatch(str(source)):
        files = _from_hub(str(source))
    else:
        whole = path / "model.safetensors"
        parts = sorted(path.glob("model-*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        files = [whole] if whole.is_file() else parts
    if not files:
        raise CheckpointError(
            f"{source}: no such weights file, folder or model. Give a .safetensors or PyTorch file, a folder "
            "with model.safetensors, or a model of the hub such as facebook/mask2former-swin-tiny-coco-instance"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_state_dict(file)
    return from_foreign(state)


def _metadata(path: Path) -> Mapping[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _from_hub(name: str) -> list[Path]:
    """Weight files of a model, downloaded unless they are in the hub's cache.

    Raises:
        CheckpointError: the hub has no such model or cannot be reached, and the cache does not hold its weights.
    """
    cached_only = not is_reachable()

    def fetch(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, local_files_only=cached_only))
        except LocalEntryNotFoundError:
            if cached_only:  # the next file may be in the cache
                return None
            raise  # the connection failed, so requests for other files would fail too
        except EntryNotFoundError:
            return None

    try:
        for whole in ("model.safetensors", "pytorch_model.bin"):
            if file := fetch(whole):
                return [file]
            if index := fetch(f"{whole}.index.json"):
                parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                return [Path(hf_hub_download(name, part, local_files_only=cached_only)) for part in parts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{name}: no such file, and the Hugging Face hub does not give it ({reason}). Check the name and the "
            f"connection, or {_elsewhere(name)}"
        ) from error
    if cached_only:
        raise CheckpointError(
            f"{name}: no such file, and the Hugging Face hub cannot be reached. Check the connection, or "
            f"{_elsewhere(name)}"
        )
    return []


def _elsewhere(name: str) -> str:
    return (
        f"{DOWNLOAD.format(name=name, files='model.safetensors')} on another machine, or fetch "
        f"https://huggingface.co/{name}/resolve/main/model.safetensors with a browser; copy the file to this machine "
        "and name it instead"
    )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a pickle that holds only tensors, under the file's names.

    In a pickle they may be in a dict under ``model`` or ``state_dict``, and may be numpy arrays.

    Raises:
        CheckpointError: the file is absent, damaged, or holds other objects than tensors or no tensors.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would block
        raise CheckpointError(f"{path}: no such weights file. Give the path of a .safetensors or PyTorch file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = unpickle.load(path)
    for wrapper in ("model", "state_dict"):
        # dict's own methods, as a pickle can shadow those of an OrderedDict by attributes
        if isinstance(content, dict) and isinstance(dict.get(content, wrapper), dict):
            content = dict.get(content, wrapper)
    tensors = {k: unpickle.tensor(v, path) for k, v in dict.items(content)} if isinstance(content, dict) else {}
    state = {k: v for k, v in tensors.items() if v is not None and isinstance(k, str)}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors by name. A state dict was expected")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state, checksum = load_file(path), _metadata(path).get(CHECKSUM_KEY)
    except Exception as error:  # damaged headers raise many kinds of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason}). Download or write it again"
        ) from error
    if checksum not in (None, _checksum(state)):
        raise CheckpointError(
            f"{path}: damaged, the checksum in its metadata is another. Copy or write it again; if you changed tensors "
            f"on purpose, leave {CHECKSUM_KEY} out of the metadata"
        )
    return state


def _checksum(state: Mapping[str, Tensor]) -> str:
    """CRC-32 of names, dtypes, shapes and values."""
    crc = 0
    for name, value in sorted(state.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().view(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def save_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name with a checksum, atomically."""
    # safetensors refuses tensors that share storage or are views of a larger one.
    copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    with atomic_write(path) as temporary:
        save_file(copies, temporary, {**(metadata or {}), CHECKSUM_KEY: _checksum(copies)})


def under_names_of(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict under the names of `module`; Swin's tensor names differ between versions of transformers."""
    names = {canonical(name): name for name in module.state_dict()}
    return {names.get(canonical(name), name): value for name, value in state.items()}


def compare(module: nn.Module, state: Mapping[str, Tensor], reinitialized: Sequence[str] = ()) -> LoadReport:
    """Report of `load_weights` without loading. `reinitialized`: name prefixes that need not be in `state`."""
    expected = module.state_dict()
    # Batch norm's batch counter matters only if momentum is None, which no model here uses; many files omit it.
    needed = [name for name in expected if not name.endswith(".num_batches_tracked")]
    differ = [name for name in state if name in expected and expected[name].shape != state[name].shape]
    absent = [name for name in needed if name not in state]
    return LoadReport(
        loaded=tuple(name for name in state if name in expected and expected[name].shape == state[name].shape),
        reinitialized=tuple(f"{name} {list(state[name].shape)} for {list(expected[name].shape)}" for name in differ)
        + tuple(name for name in absent if name.startswith(tuple(reinitialized))),
        missing=tuple(name for name in absent if not name.startswith(tuple(reinitialized))),
        unexpected=tuple(name for name in state if name not in expected),
    )


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    least: float = 1.0,
    reinitialized: Sequence[str] = (),
    check_finite: bool = True,
) -> LoadReport:
    """Copy the tensors that match by name and shape into ``module`` and report on all others.

    Args:
        state: Tensors under the module's own names, of any version of transformers.
        source: Origin of the tensors, for the message.
        least: Minimum share, 0 to 1, of the module's tensors that must be loaded. 1 is strict: ``state`` must then not
            contain unexpected tensors either.
        reinitialized: Name prefixes that may be absent or of another shape, such as a head for other classes.
        check_finite: Refuse tensors that hold NaN or infinity.

    Raises:
        CheckpointError: fewer tensors match, or one is not finite. The module is then unchanged.
    """
    state = under_names_of(module, state)
    report = require_fit(module, state, source, least, reinitialized)
    loaded = {name: state[name] for name in report.loaded}
    if check_finite:
        require_finite(loaded, source)
    module.load_state_dict(loaded, strict=False)
    return report


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """CheckpointError if a tensor holds NaN or infinity."""
    # torch cannot tell for numbers of eight bits
    checked = {name: value for name, value in state.items() if value.is_floating_point() and value.element_size() > 1}
    if broken := [name for name, value in checked.items() if not torch.isfinite(value).all()]:
        listed = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        raise CheckpointError(
            f"{source}: NaN or infinity in {counted(len(broken), 'tensor')} ({listed}). Use other weights"
        )


def require_fit(
    module: nn.Module, state: Mapping[str, Tensor], source: str, least: float = 1.0, reinitialized: Sequence[str] = ()
) -> LoadReport:
    """Report of `load_weights` with the same arguments, without loading.

    Raises:
        CheckpointError: fewer tensors match than `least` requires.
    """
    report = compare(module, under_names_of(module, state), reinitialized)

    def required(names: Sequence[str]) -> list[str]:
        return [n for n in names if not n.endswith(".num_batches_tracked") and not n.startswith(tuple(reinitialized))]

    matched, needed = len(required(report.loaded)), len(required(list(module.state_dict())))
    if matched < least * needed or (least >= 1 and (report.unexpected or required(report.reinitialized))):
        raise CheckpointError(
            f"{source}: does not fit the model: {report}. At least {least:.0%} of the model's {needed} tensors "
            "must match; check that the configuration (backbone, sizes, classes) is the one the weights were made with"
        )
    return report
