from __future__ import annotations

import math

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, OperatorTests

from mfvis_ext import mask_to_boxes


class TestMaskToBoxes(OperatorTests):
    name = "mask_to_boxes"
    sizes = {"N": 3, "T": 2, "H": 9, "W": 21}
    ranges = {"N": (0, 3), "T": (0, 3), "H": (0, 9), "W": (0, 40)}
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no frames": ({"mask_logits": torch.zeros(3, 9, 21)}, r"mask_logits has shape \[3, 9, 21\]; .* \[N, T, H, W\]"),
        "a bool mask": ({"mask_logits": torch.zeros(3, 2, 9, 21).bool()}, "mask_logits is bool; expected float32 or"),
    }

    def arguments(self, generator, dtype, N, T, H, W):
        # So that some frames are empty and others have a few pixels.
        return {"mask_logits": torch.randn(N, T, H, W, generator=generator).to(dtype), "threshold": 2.3}


def test_values():
    logits = torch.full((1, 3, 5, 7), -1.0, device=DEVICE)
    logits[0, 0, 1, 2] = logits[0, 0, 3, 6] = 0.5
    logits[0, 1] = 1
    assert mask_to_boxes(logits).tolist() == [[[2, 1, 7, 4], [0, 0, 7, 5], [0, 0, 0, 0]]]
    assert mask_to_boxes(logits, threshold=0.5).tolist() == [[[0, 0, 0, 0], [0, 0, 7, 5], [0, 0, 0, 0]]]


def test_nan_is_not_above():
    assert not mask_to_boxes(torch.full((1, 1, 2, 2), math.nan, device=DEVICE)).any()


def test_gradient_is_an_error():
    with pytest.raises(RuntimeError, match="mfvis::mask_to_boxes is not differentiable"):
        mask_to_boxes(torch.ones(1, 1, 2, 2, requires_grad=True)).sum().backward()
