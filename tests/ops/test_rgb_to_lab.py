from __future__ import annotations

import pytest
import torch
from operator_tests import BFLOAT, DOUBLE, FLOAT, HALF, OperatorTests

from mfvis_ext import rgb_to_lab


class TestRgbToLab(OperatorTests):
    name = "rgb_to_lab"
    sizes = {"N": 2, "H": 7, "W": 18}
    ranges = {"N": (0, 2), "H": (2, 9), "W": (2, 40)}
    dtypes = (torch.uint8, HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no channels": ({"images": torch.zeros(5, 6)}, r"images has shape \[5, 6\]; expected \[\.\.\., 3, H, W\]"),
        "four channels": ({"images": torch.zeros(4, 5, 6)}, r"images has shape \[4, 5, 6\]"),
        "channels last": ({"images": torch.zeros(2, 5, 6, 3)}, r"images has shape \[2, 5, 6, 3\]"),
        "int64": ({"images": torch.zeros(3, 5, 6).long()}, "images is int64; expected uint8 or"),
        "no block": ({"downsample": 0}, "downsample is 0; expected at least 1"),
    }

    def arguments(self, generator, dtype, N, H, W):
        images = torch.randint(0, 256, (N, 3, H, W), generator=generator)
        return {"images": images.to(dtype), "downsample": 2}

    def tolerance(self, dtype):
        # a* is 500 times the difference of two numbers near 1, so 500 times float32's resolution; on both sides.
        return {"rtol": 2e-5, "atol": 2e-4}


# skimage.color.rgb2lab (0.26, float64) of some colors, the corners of the cube among them.
PUBLISHED = {
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 255, 255): (100.0, -0.002454938, 0.004653421),
    (255, 0, 0): (53.240587944, 80.092308226, 67.202751044),
    (0, 255, 0): (87.735099488, -86.183029744, 83.179703175),
    (0, 0, 255): (32.295672565, 79.185590912, -107.857300207),
    (128, 64, 200): (41.884782338, 53.521301725, -60.355009622),
    (10, 3, 7): (1.309829057, 2.386618228, -0.868625554),
}


@pytest.mark.parametrize("color", PUBLISHED)
def test_published_values(color):
    lab = rgb_to_lab(torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)).flatten().tolist()
    assert lab == pytest.approx(PUBLISHED[color], abs=2e-4)


def test_every_level_of_gray_against_the_formula_in_float64():
    gray = torch.arange(256)
    u = gray.double() / 255
    y = torch.where(u > 0.04045, ((u + 0.055) / 1.055) ** 2.4, u / 12.92)
    lightness = 116 * torch.where(y > 0.008856, y ** (1 / 3), 7.787 * y + 16 / 116) - 16
    lab = rgb_to_lab(gray.to(torch.uint8).expand(3, 1, 256))
    torch.testing.assert_close(lab[0, 0].double(), lightness, rtol=0, atol=5e-5)


def test_blocks_are_averaged_before_the_conversion_and_incomplete_ones_dropped():
    images = torch.zeros(3, 5, 7)
    images[:, ::2] = 255
    half_gray = rgb_to_lab(torch.full((3, 2, 3), 127.5))
    assert torch.equal(rgb_to_lab(images, downsample=2), half_gray)
    assert rgb_to_lab(images, downsample=6).shape == (3, 0, 1)


def test_gradient_is_an_error():
    with pytest.raises(RuntimeError, match="mfvis::rgb_to_lab is not differentiable"):
        rgb_to_lab(torch.ones(3, 2, 2, requires_grad=True)).sum().backward()
