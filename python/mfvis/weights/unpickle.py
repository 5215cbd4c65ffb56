"""Safe reading of pickled weights: tensors, numpy arrays, plain containers and numbers. No code in a file can run.

A pickle is a program and dangerous because it may call anything by name. Here it may only name the few types that
weights consist of. Each of them is either harmless or a stand-in that checks its arguments.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mfvis.errors import CheckpointError
from mfvis.text import shortened

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of torch.save's format before zip files
_TYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})


def load(path: Path) -> Any:
    """The object that ``torch.save`` (any format but the tar files of 2017) or ``pickle.dump`` wrote to `path`.

    `tensor` converts numpy arrays in it to tensors.

    Raises:
        CheckpointError: the file is damaged, or contains anything but tensors, arrays, containers and numbers.
    """
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
            return _torch_load(path)
        if tarfile.is_tarfile(path):
            raise pickle.UnpicklingError("a tar file of torch 0.1; load and save it with a later torch")
        with path.open("rb") as file:
            _check_sizes(file, path.stat().st_size)
            file.seek(0)
            first = _Reader(file).load()
        if isinstance(first, int) and first == _TORCH_MAGIC:
            return _torch_load(path)
        return first
    except Exception as error:  # invalid bytes can raise any exception in the unpickler
        raise _refusal(path, error) from error


def _torch_load(path: Path) -> Any:
    with torch.serialization.safe_globals([(_Flags, "argparse.Namespace")]):
        return torch.load(path, map_location="cpu", weights_only=True)


class _Flags:
    """Stands in for ``argparse.Namespace``, the flags of a training, which many checkpoints hold: it keeps nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def tensor(value: Any, path: Path) -> Tensor | None:
    """`value` as a tensor if it is one, or an array that `load` read from `path`; None otherwise.

    Raises:
        CheckpointError: the shape and bytes of an array disagree, or a tensor is larger than the file. Such a tensor is
            a view that repeats a few numbers, and would take its full size in memory once it is used.
    """
    try:
        if isinstance(value, _Array):
            return torch.from_numpy(value.array()) if value.state is not None else None
        if not isinstance(value, Tensor):
            return None
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise pickle.UnpicklingError("it holds a tensor that is not dense")
        size = path.stat().st_size
        if value.nbytes > max(size, value.untyped_storage().nbytes()):
            raise pickle.UnpicklingError(f"a tensor has the shape {shortened(tuple(value.shape))} in {size} bytes")
        return value.detach()
    except Exception as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a file of plain tensors ({_reason(error)}). It is damaged, or it holds Python objects, which "
        "are never loaded as they could run code; where you trust it, save only its tensors, as .safetensors"
    )


def check_zip(path: Path) -> None:
    """Raise UnpicklingError for compressed parts far larger than the file; torch does not compress."""
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > 10 * path.stat().st_size:
        raise pickle.UnpicklingError(f"its parts have {total} bytes in a file of {path.stat().st_size}")


def _check_sizes(file: BinaryIO, size: int) -> None:
    """Raise UnpicklingError if a pickle declares more data than it has; Python would allocate all of it first."""
    for count in itertools.count():
        operation = pickletools.code2op.get(file.read(1).decode("latin1"))
        if operation is None:
            raise pickle.UnpicklingError(f"no pickle at byte {file.tell() - 1}")
        if operation.name == "STRING":  # pickletools assumes ASCII for Python 2's strings; they end with their line
            file.readline()
            continue
        argument = operation.arg.reader(file) if operation.arg else None
        if operation.name == "FRAME" and argument > size:
            raise pickle.UnpicklingError(f"a frame of {argument} bytes in a file of {size}")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"object {argument} after {count} operations")
        if operation.name == "STOP":
            return


def _reason(error: Exception) -> str:
    asked = re.search(r"\bGLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1]}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Dtype:
    """Stand-in for ``numpy.dtype`` that allows only numbers of a known size, no objects, no structures."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or code not in _TYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {shortened(code)}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of byte order {shortened(state[1])}")
        self.order = state[1]

    def read(self, raw: bytes | str, shape: tuple[int, ...], columns_first: bool) -> np.ndarray:
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)  # Python 2 wrote bytes as str
        dtype = np.dtype(self.order + self.code)
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"it holds an array of shape {shortened(shape)} in {len(data)} bytes")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
        return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape).copy()


class _Array:
    """Stand-in for ``numpy.ndarray``: keeps the pickled state, which is checked and converted on access."""

    def __init__(self, *_: Any):
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, (bytes, bytearray, str)):
            raise pickle.UnpicklingError("it holds an array of objects")
        self.state = (raw, tuple(shape), bool(columns_first), dtype)

    def array(self) -> np.ndarray:
        raw, shape, columns_first, dtype = self.state
        return dtype.read(raw, shape, columns_first)


def _from_buffer(buffer: bytes, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype: _Dtype, raw: bytes | str = b"") -> Any:
    return dtype.read(raw, (), False).item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {shortened(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _storage(data: bytes) -> Any:
    # torch's own function of this name would unpickle these bytes without restriction.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _numpy in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _ALLOWED[f"{_numpy}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_numpy}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_numpy}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("argparse", "Namespace"):
            return type("Flags", (_Flags,), {})  # a class, as pickles make it without calling it; of this pickle's own
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])
        # A pickle may also set attributes of the objects it names, so it gets a wrapper of them.
        return lambda *arguments: allowed(*arguments)
