"""Tests shared by all operators: reference, gradcheck, opcheck, compile, strides, determinism, CPU and CUDA.

A test module derives one class from `OperatorTests`, which makes the arguments and lists malformed ones. With
MFVIS_TEST_DEVICE=cuda the tests run on the GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mfvis_ext

DEVICE = os.environ.get("MFVIS_TEST_DEVICE", "cpu")
HALF, BFLOAT, FLOAT, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64

TORCH = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
REFUSED = ValueError if TORCH <= (2, 13) else (ValueError, RuntimeError)
"""Raised for a malformed argument: ValueError; RuntimeError in torch 2.15, which only passes the message on. In 2.14 it
is unknown."""

TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    HALF: {"rtol": 2e-3, "atol": 1e-6},
    BFLOAT: {"rtol": 1.6e-2, "atol": 1e-6},
    FLOAT: {"rtol": 2e-5, "atol": 2e-6},
    DOUBLE: {"rtol": 1e-10, "atol": 1e-12},
}
"""By dtype of the compared tensor: a few units in the last place, including sums of some thousand terms."""


def reference_of(name: str) -> Callable[..., Any]:
    """The plain-PyTorch definition of an operator; `tk_loss_terms` shares a module with `tk_loss`."""
    module = importlib.import_module(f"mfvis_ext.reference.{name.removesuffix('_terms')}")
    return getattr(module, name)


def random_boxes(generator: torch.Generator, *shape: int, height: int, width: int) -> Tensor:
    """float32 `[*shape, 4]` with edges anywhere, also slightly outside of the frame; every fourth box is absent."""
    corners = torch.rand(*shape, 2, 2, generator=generator) * 1.2 - 0.1
    boxes = torch.cat([corners.amin(-2), corners.amax(-2)], -1) * torch.tensor([width, height, width, height])
    absent = torch.rand(*shape, 1, generator=generator) < 0.25
    return torch.where(absent, 0.0, boxes)


def tensors_of(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def strided(tensor: Tensor) -> Tensor:
    """The same values with other strides, with gaps."""
    wide = torch.empty(*tensor.shape, 2, dtype=tensor.dtype, device=tensor.device) if tensor.dim() else tensor.repeat(2)
    view = wide.movedim(0, -2)[..., 0].movedim(-1, 0) if tensor.dim() > 1 else wide[..., 0]
    return view.copy_(tensor).requires_grad_(tensor.requires_grad)


class OperatorTests:
    name: str
    """Name of the operator."""
    sizes: dict[str, int]
    """Sizes of the axes in the fixed cases."""
    ranges: dict[str, tuple[int, int]]
    """Ranges of the axes in the property test."""
    other_kernels: tuple[dict[str, int], ...] = ()
    """Sizes for which other kernels run than for `sizes`."""
    differentiable: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    """Boxes and indices that the backward pass reads; it keeps copies."""
    dtypes: tuple[torch.dtype, ...] = (FLOAT,)
    """Dtypes with which `arguments` is called."""
    malformed: dict[str, tuple[dict[str, Any], str]]
    """Case name: the arguments to replace, and a pattern that the error, which names the argument, must match."""
    about_values: str = "contains"
    """Marks patterns and errors about a tensor's values, which are not checked on a GPU."""

    def arguments(self, generator: torch.Generator, dtype: torch.dtype, **sizes: int) -> dict[str, Any]:
        raise NotImplementedError

    def tolerance(self, dtype: torch.dtype) -> dict[str, float]:
        return TOLERANCE[dtype]

    def compare(self, actual: Any, expected: Any, arguments: dict[str, Any]) -> None:
        for ours, theirs in zip(tensors_of(actual), tensors_of(expected), strict=True):
            assert ours.dtype == theirs.dtype
            if ours.dtype.is_floating_point:
                torch.testing.assert_close(ours, theirs, equal_nan=True, **self.tolerance(ours.dtype))
            else:
                assert torch.equal(ours, theirs)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators in its error messages."""
        return (self.name.removesuffix("_terms"),)

    @property
    def reference(self) -> Callable[..., Any]:
        return reference_of(self.name)

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(mfvis_ext, self.name)

    def make(self, dtype: torch.dtype = FLOAT, seed: int = 0, **sizes: int) -> dict[str, Any]:
        made = self.arguments(torch.Generator().manual_seed(seed), dtype, **{**self.sizes, **sizes})
        return self.on(DEVICE, made)

    def on(self, device: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Copies on a device; the differentiable ones are leaves there."""
        moved = {n: v.detach().to(device) if isinstance(v, Tensor) else v for n, v in arguments.items()}
        return {n: v.requires_grad_() if n in self.differentiable else v for n, v in moved.items()}

    def gradients(self, function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, tuple[Tensor, ...]]:
        """The outputs, and the gradients of a fixed random combination of the differentiable ones."""
        outputs = function(**arguments)
        return outputs, self.gradients_of(outputs, arguments) if self.differentiable else ()

    def gradients_of(self, outputs: Any, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        weights = torch.Generator().manual_seed(99)
        loss = sum(
            (output * torch.randn(output.shape, generator=weights).to(output)).sum()
            for output in tensors_of(outputs)
            if output.requires_grad
        )
        return torch.autograd.grad(loss, [arguments[name] for name in self.differentiable])

    def agree(self, arguments: dict[str, Any]) -> None:
        outputs, gradients = self.gradients(self.function, arguments)
        expected, expected_gradients = self.gradients(self.reference, arguments)
        self.compare(outputs, expected, arguments)
        for name, ours, theirs in zip(self.differentiable, gradients, expected_gradients, strict=True):
            assert ours.dtype == arguments[name].dtype
            torch.testing.assert_close(ours, theirs, equal_nan=True, **self.tolerance(ours.dtype))

    def test_reference(self, dtype: torch.dtype) -> None:
        self.agree(self.make(dtype))

    def test_any_size(self) -> None:
        axes = {axis: st.integers(low, high) for axis, (low, high) in self.ranges.items()}

        @settings(max_examples=25, deadline=None, database=None, derandomize=True)
        @given(sizes=st.fixed_dictionaries(axes), seed=st.integers(0, 1000))
        def check(sizes: dict[str, int], seed: int) -> None:
            self.agree(self.make(seed=seed, **sizes))

        check()

    def test_gradcheck(self) -> None:
        if not self.differentiable:
            pytest.skip("not differentiable")
        arguments = self.make(DOUBLE)

        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            outputs = self.function(**{**arguments, **dict(zip(self.differentiable, inputs, strict=True))})
            return tuple(output for output in tensors_of(outputs) if output.requires_grad)

        assert torch.autograd.gradcheck(function, [arguments[name] for name in self.differentiable], fast_mode=True)

    def test_no_second_derivative(self) -> None:
        if not self.differentiable:
            pytest.skip("not differentiable")
        arguments = self.make()
        outputs = self.function(**arguments)
        loss = sum(output.sum() for output in tensors_of(outputs) if output.requires_grad)
        (gradient,) = torch.autograd.grad(loss, arguments[self.differentiable[0]], create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated"):
            gradient.sum().backward()

    def test_recomputed(self) -> None:
        """Checkpointing and offloaded saved tensors do not change the gradient."""
        if not self.differentiable:
            pytest.skip("not differentiable")
        arguments = self.make()
        _, expected = self.gradients(self.function, arguments)
        _, recomputed = self.gradients(partial(checkpoint, self.function, use_reentrant=False), arguments)
        with torch.autograd.graph.save_on_cpu():
            _, moved = self.gradients(self.function, arguments)
        for ours in (recomputed, moved):
            assert all(map(torch.equal, ours, expected))

    def test_refilled_between_passes(self) -> None:
        """A loader refills the NumPy arrays below the small arguments; the gradient is still that of the loss."""
        if not self.private or DEVICE != "cpu":
            pytest.skip("saves no boxes or indices, or on a device that NumPy cannot write to")
        arguments = self.make(seed=2)
        _, expected = self.gradients(self.function, arguments)
        outputs = self.function(**arguments)
        for name in self.private:
            other = arguments[name].flatten().roll(1).view_as(arguments[name]).numpy()
            assert (arguments[name].numpy() != other).any()
            arguments[name].numpy()[...] = other
        assert all(map(torch.equal, self.gradients_of(outputs, arguments), expected))

    def test_opcheck(self) -> None:
        torch.library.opcheck(getattr(torch.ops.mfvis, self.name).default, tuple(self.make().values()))

    def test_compile(self) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(self.function, fullgraph=True, dynamic=True, backend="aot_eager")
        for sizes in (self.sizes, {axis: size + 1 for axis, size in self.sizes.items()}):
            arguments = self.make(**sizes)
            outputs, gradients = self.gradients(compiled, arguments)
            expected, expected_gradients = self.gradients(self.function, arguments)
            for ours, theirs in zip(
                (*tensors_of(outputs), *gradients), (*tensors_of(expected), *expected_gradients), strict=True
            ):
                assert torch.equal(ours, theirs)

    def test_strided(self) -> None:
        arguments = self.make()
        views = {n: strided(v.detach()) if isinstance(v, Tensor) else v for n, v in arguments.items()}
        views = {n: v.requires_grad_() if n in self.differentiable else v for n, v in views.items()}
        outputs, gradients = self.gradients(self.function, views)
        expected, expected_gradients = self.gradients(self.function, arguments)
        for ours, theirs in zip(
            (*tensors_of(outputs), *gradients), (*tensors_of(expected), *expected_gradients), strict=True
        ):
            assert torch.equal(ours, theirs)

    def test_repeatable(self, threads: int) -> None:
        """Results are bitwise equal from run to run and for any number of threads."""
        arguments = self.make()
        expected = self.gradients(self.function, arguments)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            again = self.gradients(self.function, arguments)
        finally:
            torch.set_num_threads(before)
        for ours, theirs in zip(
            (*tensors_of(again[0]), *again[1]), (*tensors_of(expected[0]), *expected[1]), strict=True
        ):
            assert torch.equal(ours, theirs)

    def test_malformed(self, malformed: str) -> None:
        changes, pattern = self.malformed[malformed]
        if DEVICE != "cpu" and self.about_values in pattern:
            pytest.skip("values are not checked on a GPU, which would wait for it")
        changes = {n: v.to(DEVICE) if isinstance(v, Tensor) else v for n, v in changes.items()}
        with pytest.raises(REFUSED, match=pattern):
            self.function(**{**self.make(), **changes})

    @pytest.mark.cuda
    def test_cuda_graph(self) -> None:
        """Forward and backward are captured and replayed on other values: neither synchronizes with the GPU."""
        if not torch.cuda.is_available() or not mfvis_ext.build_info()["cuda"]:
            pytest.skip("no GPU, or no kernels for it")
        arguments, others = (self.on("cuda", self.make(seed=seed)) for seed in (0, 1))

        def run(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
            outputs = tensors_of(self.function(**arguments))
            if not self.differentiable:
                return outputs
            loss = sum(output.sum() for output in outputs if output.requires_grad)
            return *outputs, *torch.autograd.grad(loss, [arguments[name] for name in self.differentiable])

        warmup = torch.cuda.Stream()  # PyTorch requires the first run, which loads the kernels, on a side stream
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            run(arguments)
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run(arguments)
        with torch.no_grad():
            for name, value in arguments.items():
                if isinstance(value, Tensor):
                    value.copy_(others[name])
        graph.replay()
        for ours, expected in zip(captured, run(others), strict=True):
            torch.testing.assert_close(
                ours, expected, equal_nan=True, **TOLERANCE.get(ours.dtype, {"rtol": 0, "atol": 0})
            )

    @pytest.mark.cuda
    def test_cuda(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        arguments = self.on("cpu", self.make())
        moved = self.on("cuda", arguments)
        if not mfvis_ext.build_info()["cuda"]:
            names = "|".join((self.name, *self.operators))
            with pytest.raises(RuntimeError, match=f"mfvis::({names}) has no CUDA kernel in this build"):
                self.function(**moved)
            return
        outputs, gradients = self.gradients(self.function, moved)
        expected, expected_gradients = self.gradients(self.function, arguments)
        self.compare(tuple(output.cpu() for output in tensors_of(outputs)), tensors_of(expected), arguments)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, equal_nan=True, **self.tolerance(ours.dtype))
