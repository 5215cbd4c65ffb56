from __future__ import annotations

import math

import pytest
import torch
from operator_tests import OperatorTests

from mfvis_ext import match_weight
from mfvis_ext.reference.match_weight import match_weight as reference


class TestMatchWeight(OperatorTests):
    name = "match_weight"
    sizes = {"B": 2, "P": 3, "K": 2, "H": 4, "W": 7}
    ranges = {"B": (0, 2), "P": (0, 2), "K": (1, 3), "H": (0, 4), "W": (0, 20)}
    malformed = {
        "float64": ({"distance": torch.zeros(3).double()}, "distance is float64; expected float32"),
        "unknown affinity": ({"affinity": "cosine"}, "affinity is 'cosine'; expected 'exponential' or 'gaussian'"),
        "no scale": ({"sigma": 0.0}, "sigma is 0.0+; expected a positive number"),
        "NaN scale": ({"sigma": math.nan}, "sigma is nan; expected a positive number"),
        "NaN threshold": ({"threshold": math.nan}, "threshold is nan; expected a finite number"),
    }

    def arguments(self, generator, dtype, B, P, K, H, W):
        distance = torch.rand(B, P, K, H, W, generator=generator) * 12
        distance = torch.where(distance > 11, math.inf, distance)
        return {"distance": distance, "threshold": 0.05, "affinity": "exponential", "sigma": 1.0, "weighted": True}


@pytest.mark.parametrize("affinity", ["exponential", "gaussian"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.05, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_every_setting(affinity, weighted, threshold, sigma):
    distance = torch.cat([torch.linspace(0, 40, 997), torch.tensor([math.inf, math.nan])])
    ours = match_weight(distance, threshold, affinity, sigma, weighted)
    torch.testing.assert_close(ours, reference(distance, threshold, affinity, sigma, weighted))


def test_the_paper_keeps_distances_up_to_5_99():
    distance = torch.tensor([0.0, 5.99, 6.0, math.inf])
    assert match_weight(distance).tolist() == [1, 1, 0, 0]


def test_gradient_is_an_error():
    with pytest.raises(RuntimeError, match="mfvis::match_weight is not differentiable"):
        match_weight(torch.ones(3, requires_grad=True), weighted=True).sum().backward()
