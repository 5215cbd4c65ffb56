from __future__ import annotations

import math

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, OperatorTests

from mfvis_ext import patch_distance


class TestPatchDistance(OperatorTests):
    name = "patch_distance"
    sizes = {"B": 2, "C": 3, "H": 9, "W": 35, "half": 1, "radius": 2, "dilation": 2}
    ranges = {
        "B": (0, 2), "C": (1, 4), "H": (1, 19), "W": (1, 36), "half": (0, 2), "radius": (0, 2), "dilation": (1, 4),
    }  # fmt: skip
    other_kernels = ({"dilation": 1}, {"C": 2})
    differentiable = ("target", "source")
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no batch": ({"target": torch.zeros(3, 9, 35)}, r"target has shape \[3, 9, 35\]; expected \[B, C, H, W\]"),
        "bytes": ({"target": torch.zeros(2, 3, 9, 35).byte()}, "target is uint8; expected float32 or"),
        "other size": ({"source": torch.zeros(2, 3, 9, 34)}, r"source has shape \[2, 3, 9, 34\]; .* \[2, 3, 9, 35\]"),
        "other dtype": ({"source": torch.zeros(2, 3, 9, 35).half()}, "source is float16; expected float32"),
        "even patch": ({"patch_size": 2}, "patch_size is 2; expected an odd number"),
        "negative radius": ({"radius": -1}, "radius is -1; expected 0 to 90"),
        "no dilation": ({"dilation": 0}, "dilation is 0; expected 1 to"),
    }

    def arguments(self, generator, dtype, B, C, H, W, half, radius, dilation):
        target, source = torch.rand(2, B, C, H, W, generator=generator, dtype=DOUBLE).to(dtype)
        return {
            "target": target,
            "source": source,
            "patch_size": 2 * half + 1,
            "radius": radius,
            "dilation": dilation,
        }

    def tolerance(self, dtype):
        # A gradient is a sum of some hundred terms of either sign, each up to 1.
        return {**super().tolerance(dtype), "atol": {DOUBLE: 1e-12, FLOAT: 1e-5}.get(dtype, 2e-2)}

    def test_gradcheck(self):
        arguments = self.make(DOUBLE)
        window = [arguments[name] for name in ("patch_size", "radius", "dilation")]

        def finite(target, source):
            distance = patch_distance(target, source, *window)
            return distance[distance.isfinite()]

        assert torch.autograd.gradcheck(finite, [arguments["target"], arguments["source"]], fast_mode=True)


@pytest.mark.parametrize("radius, dilation", [(0, 1), (5, 1), (1, 3), (7, 2), (2, 40), (12, 1)])
def test_reference_for_every_window(radius, dilation):
    """Windows smaller and larger than the frame, and than a GPU's shared memory."""
    op = TestPatchDistance()
    op.agree(op.make(B=1, H=14, W=30, radius=radius, dilation=dilation))


@pytest.mark.parametrize("height, width", [(1, 1), (16, 30), (17, 31), (33, 61)])
def test_reference_for_every_size(height, width):
    """One pixel, whole tiles of a GPU's block, and one row and column more."""
    op = TestPatchDistance()
    op.agree(op.make(B=1, H=height, W=width, radius=1, dilation=1))


def test_the_center_of_a_frame_against_itself():
    """Distances of 0 and infinite ones, beyond the frame, have no gradient."""
    frame = torch.rand(1, 3, 5, 6, device=DEVICE, requires_grad=True)
    distance = patch_distance(frame, frame, radius=1)
    assert not distance[:, 4].any()
    assert distance[0, 0, 0].isinf().all() and distance[0, 0, :, 0].isinf().all()
    distance.backward(torch.full_like(distance, math.nan).masked_fill((distance > 0) & distance.isfinite(), 1.0))
    assert frame.grad.isfinite().all() and frame.grad.any()


def test_gradient_of_only_one_frame():
    target, source = torch.rand(2, 1, 3, 5, 6)
    target.requires_grad_()
    patch_distance(target, source, radius=0).sum().backward()
    both = target.detach().requires_grad_(), source.clone().requires_grad_()
    patch_distance(*both, radius=0).sum().backward()
    assert torch.equal(target.grad, both[0].grad)
    torch.testing.assert_close(both[0].grad, -both[1].grad)
