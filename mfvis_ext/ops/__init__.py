"""One module per operator: the documented function, its fake kernel for `torch.compile`, its autograd formula.

`mfvis_ext` finds these modules by itself and re-exports the names in their ``__all__``.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def forbid_backward(operator: str, reason: str) -> None:
    """Make a backward pass through `operator` ("mfvis::x") an error with that reason, instead of a silent zero."""

    def backward(ctx, *grads) -> NoReturn:
        raise RuntimeError(f"{operator} {reason}")

    torch.library.register_autograd(operator, backward)


def private(tensor: Tensor | None) -> Tensor | None:
    """A copy of a small CPU tensor to save for the backward pass.

    The tensor may share memory with a NumPy array that a loader refills, which autograd's version counter cannot see.
    Other devices share none.
    """
    return tensor.clone() if tensor is not None and tensor.device.type == "cpu" else tensor


def forbid_forward_mode(operator: str, *inputs: Tensor) -> None:
    """Raise NotImplementedError if an input has a forward-mode tangent, which torch would silently drop."""
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in inputs):
        raise NotImplementedError(f"{operator} has no forward-mode derivative; take the gradient by backward()")
