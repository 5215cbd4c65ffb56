from __future__ import annotations

import math

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, TOLERANCE, OperatorTests

import mfvis_ext
from mfvis_ext import ms_deform_attn
from mfvis_ext.reference.ms_deform_attn import ms_deform_attn as reference

# The reference has no repeatable gradient on CUDA, about which PyTorch warns.
pytestmark = pytest.mark.filterwarnings("ignore:grid_sampler_2d_backward_cuda does not have a deterministic")


def set_deterministic(enabled: bool) -> None:
    torch.use_deterministic_algorithms(enabled, warn_only=True)


@pytest.fixture(autouse=True)
def repeatable_on_cuda():
    """Tests that compare bits need deterministic CUDA kernels; the CPU kernels always are."""
    set_deterministic(DEVICE == "cuda" or mfvis_ext.build_info()["cpu_capability"] == "emulated")
    yield
    set_deterministic(False)


class TestMsDeformAttn(OperatorTests):
    name = "ms_deform_attn"
    sizes = {"B": 2, "Q": 5, "heads": 2, "D": 8, "L": 3, "points": 4, "H": 6, "W": 7, "softmax": 0}
    ranges = {
        **{"B": (0, 2), "Q": (0, 4), "heads": (1, 3), "D": (1, 40)},
        **{"L": (1, 4), "points": (1, 5), "H": (1, 6), "W": (1, 9), "softmax": (0, 1)},
    }
    other_kernels = ({"softmax": 1},)
    differentiable = ("value", "sampling_locations", "attention_weights")
    private = ("spatial_shapes", "level_start_index")
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    about_values = "level "
    malformed = {
        "no heads": ({"value": torch.zeros(2, 64, 16)}, r"value has shape \[2, 64, 16\]; .* \[B, S, heads, D\]"),
        "integers": ({"value": torch.zeros(2, 64, 2, 8).long()}, "value is int64; expected float32 or"),
        "int32 shapes": ({"spatial_shapes": torch.ones(3, 2).int()}, "spatial_shapes is int32; expected int64"),
        "flat shapes": ({"spatial_shapes": torch.ones(6).long()}, r"spatial_shapes has shape \[6\]; .* \[L, 2\]"),
        "too many levels": ({"spatial_shapes": torch.ones(17, 2).long()}, "has 17 levels; expected at most 16"),
        "other levels": ({"level_start_index": torch.zeros(2).long()}, r"level_start_index has .* \[L\] = \[3\]"),
        "behind the end": (
            {"level_start_index": torch.tensor([0, 42, 55])},
            "level 2 is 2 x 2 from row 55 on; expected levels within the 58 rows",
        ),
        "before the beginning": ({"level_start_index": torch.tensor([-1, 42, 54])}, "level 0 is 6 x 7 from row -1 on"),
        "negative size": ({"spatial_shapes": torch.tensor([[6, 7], [-3, 4], [2, 3]])}, "level 1 is -3 x 4"),
        "too large": ({"spatial_shapes": torch.tensor([[6, 7], [2**62, 4], [2, 3]])}, "level 1 is 4611686018427387904"),
        "three coordinates": ({"sampling_locations": torch.zeros(2, 5, 2, 3, 4, 3)}, "sampling_locations has shape"),
        "other queries": ({"attention_weights": torch.zeros(2, 6, 2, 3, 4)}, r"= \[2, 5, 2, 3, 4\]"),
    }

    def arguments(self, generator, dtype, B, Q, heads, D, L, points, H, W, softmax):
        shapes = torch.tensor([[math.ceil(H / 2**level), math.ceil(W / 2**level)] for level in range(L)])
        areas = shapes.prod(1)
        value = torch.randn(B, int(areas.sum()), heads, D, generator=generator, dtype=DOUBLE)
        logits = torch.randn(B, Q, heads, L * points, generator=generator, dtype=DOUBLE)
        weights = logits if softmax else logits.softmax(-1)
        computed = DOUBLE if dtype == DOUBLE else FLOAT
        return {
            "value": value.to(dtype),
            "spatial_shapes": shapes,
            "level_start_index": areas.cumsum(0) - areas,
            "sampling_locations": (torch.rand(B, Q, heads, L, points, 2, generator=generator) * 1.5 - 0.25).to(
                computed
            ),
            "attention_weights": weights.view(B, Q, heads, L, points).to(computed),
            "softmax": bool(softmax),
        }

    @pytest.mark.parametrize("deterministic", [False, True])
    def test_reference_by_floats_and_by_integers(self, deterministic):
        """The two ways in which the CUDA kernels accumulate the gradient of the value."""
        set_deterministic(deterministic)
        for dtype in (BFLOAT, FLOAT):
            for channels in (8, 3):
                self.agree(self.make(dtype, D=channels))

    @pytest.mark.parametrize(("H", "W", "points", "D"), [(19, 21, 4, 8), (5, 9, 7, 40)])
    def test_reference_where_every_pixel_asks(self, H, W, points, D):
        """The CUDA kernel then divides the queries into tiles of neighbors; the second case has more samples and more
        channels than its block takes at a time."""
        pixels = sum(math.ceil(H / 2**level) * math.ceil(W / 2**level) for level in range(3))
        sizes = {"B": 1, "Q": pixels, "heads": 1, "H": H, "W": W, "points": points, "D": D}
        self.agree(self.make(DOUBLE, **sizes))
        arguments = self.make(FLOAT, **sizes)
        self.compare(ms_deform_attn(**arguments), reference(**arguments), arguments)

    @pytest.mark.parametrize(
        ("spread", "sizes"),
        [
            # The CUDA kernel lists corners by the remainders of x and y by 32; these have the same for many pixels.
            (1.5, {"Q": 70, "H": 50, "W": 71, "L": 1}),
            (0.0, {"Q": 70, "L": 2}),  # all sample one point: long lists
            (1.5, {"Q": 3, "D": 264, "L": 1}),  # more channels than its lanes hold at a time
            (1.5, {"Q": 3, "D": 66, "L": 1}),  # the same, without vectors
            (1.5, {"Q": 3, "D": 36, "points": 9}),  # the last lane has half a share
        ],
    )
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_reference_of_samples_anywhere(self, spread, sizes, deterministic):
        set_deterministic(deterministic)
        arguments = self.make(FLOAT, B=1, heads=1, **sizes)
        locations = arguments["sampling_locations"].detach()
        arguments["sampling_locations"] = (0.45 + spread * (locations - 0.5)).requires_grad_()
        self.agree(arguments)

    @pytest.mark.parametrize("other", [1e15, math.nan])
    def test_reference_of_a_batch_item_next_to_a_larger_one(self, other):
        arguments = self.make(B=2)
        outputs = ms_deform_attn(**arguments)
        (expected,) = torch.autograd.grad(outputs.sum(), arguments["value"], retain_graph=True)
        scale = torch.tensor([other, 1], device=outputs.device)[:, None, None].expand_as(outputs)
        (ours,) = torch.autograd.grad(outputs, arguments["value"], scale)
        torch.testing.assert_close(ours[1], expected[1], **TOLERANCE[FLOAT])


class TestMsDeformAttnOfLogits(TestMsDeformAttn):
    sizes = {**TestMsDeformAttn.sizes, "softmax": 1}
    malformed = {"other queries": TestMsDeformAttn.malformed["other queries"]}

    @pytest.mark.parametrize(("L", "points"), [(1, 1), (1, 3), (3, 4), (4, 4), (1, 17), (4, 10)])
    def test_reference_of_any_number_of_samples(self, L, points, dtype):
        self.agree(self.make(dtype, L=L, points=points, Q=70, heads=1, B=1))

    @pytest.mark.parametrize(
        "logits",
        [
            [0, 1, -math.inf],
            [-math.inf, 3, -math.inf],
            [1e4, 1e4 - 1, -1e4],
            [-1e4, -1e4, -1e4],
            [3e38, -3e38, 3e38],
            [0.0, -80, -100],
        ],
    )
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_reference_of_extreme_logits(self, logits, deterministic):
        set_deterministic(deterministic)
        arguments = self.make(L=1, points=3)
        arguments["attention_weights"] = self.everywhere(logits)
        self.agree(arguments)

    @pytest.mark.parametrize("bad", [[0, math.nan, 1], [math.nan] * 3, [0, 1, math.inf], [-math.inf] * 3])
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_logits_without_a_softmax_are_not_swallowed(self, bad, deterministic):
        set_deterministic(deterministic)
        arguments = self.make(L=1, points=3, H=2, W=2)
        with torch.no_grad():
            arguments["sampling_locations"].fill_(0.5)
            arguments["attention_weights"][0, 0, 0] = torch.tensor([bad])
        output, gradients = self.gradients(ms_deform_attn, arguments)
        expected, expected_gradients = self.gradients(reference, arguments)
        assert torch.equal(output.isnan(), expected.isnan())
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            assert ours[0, :, 0].isnan().any() and ours[1].isfinite().all()
            assert ours[theirs.isnan()].isnan().all()

    def everywhere(self, logits):
        """The same logits of L x points samples for every query and head."""
        return torch.tensor(logits, device=DEVICE).expand(2, 5, 2, 1, -1).contiguous().requires_grad_()

    def test_half_precision_logits_under_autocast(self):
        """The weights are as precise as those of `torch.softmax` in float32, which autocast uses on CUDA."""
        arguments = self.make(BFLOAT)
        arguments["attention_weights"] = arguments["attention_weights"].detach().bfloat16().requires_grad_()

        def unfused(attention_weights, softmax, **others):
            weights = attention_weights.flatten(3).softmax(-1, dtype=FLOAT).view(attention_weights.shape)
            return ms_deform_attn(**others, attention_weights=weights)

        with torch.autocast(DEVICE, BFLOAT):
            output, gradients = self.gradients(ms_deform_attn, arguments)
        expected, expected_gradients = self.gradients(unfused, arguments)
        self.compare(output, expected, arguments)
        self.compare(gradients, expected_gradients, arguments)
        assert [gradient.dtype for gradient in gradients] == [BFLOAT, FLOAT, BFLOAT]


@pytest.mark.parametrize("scale", [1e-25, 1e12])
def test_reference_of_any_magnitude(scale):
    arguments = TestMsDeformAttn().make()
    weights = arguments["attention_weights"].detach() * scale
    outputs = ms_deform_attn(**{**arguments, "attention_weights": weights})
    (ours,) = torch.autograd.grad(outputs.sum(), arguments["value"])
    (expected,) = torch.autograd.grad(ms_deform_attn(**arguments).sum(), arguments["value"])
    torch.testing.assert_close(ours / scale, expected, **TOLERANCE[FLOAT])


def one_level(height: int, width: int, *locations: tuple[float, float], channels: int = 1) -> dict[str, torch.Tensor]:
    """One head, one query for each (x, y) in pixels from the center of the first; the value is 1, 2, 3, ..."""
    value = torch.arange(1.0, height * width * channels + 1).view(1, height * width, 1, channels)
    at = (torch.tensor(locations) + 0.5) / torch.tensor([width, height])
    arguments = {
        "value": value.requires_grad_(),
        "spatial_shapes": torch.tensor([[height, width]]),
        "level_start_index": torch.tensor([0]),
        "sampling_locations": at.view(1, -1, 1, 1, 1, 2).requires_grad_(),
        "attention_weights": torch.ones(1, len(locations), 1, 1, 1),
    }
    return {
        name: x.detach().to(DEVICE).requires_grad_() if x.requires_grad else x.to(DEVICE)
        for name, x in arguments.items()
    }


def test_a_pixels_center_gives_the_pixel():
    inside = [(x, y) for y in range(4) for x in range(8)]
    assert ms_deform_attn(**one_level(4, 8, *inside)).flatten().tolist() == list(range(1, 33))


def test_half_way_is_the_mean_and_beyond_the_border_are_zeros():
    output = ms_deform_attn(
        **one_level(2, 4, (0.5, 0), (0, 0.5), (1.5, 0.5), (-0.5, 0), (3.5, 1), (3, 1.5), (-0.5, -0.5))
    )
    assert output.flatten().tolist() == [1.5, 3, 4.5, 0.5, 4, 4, 0.25]


@pytest.mark.parametrize("location", [(-1, 0), (4, 1), (0, -1), (2, 2), (-50, 0), (1e20, 1), (3, -1e9)])
def test_outside_of_the_level_nothing_is_read_and_gradients_are_zero(location):
    arguments = one_level(2, 4, location)
    output = ms_deform_attn(**arguments)
    value, locations = torch.autograd.grad(output.sum(), [arguments["value"], arguments["sampling_locations"]])
    assert output.item() == 0
    assert not value.any()
    assert locations.isfinite().all()


def test_the_gradient_of_a_location_is_the_slope():
    arguments = one_level(2, 4, (0.25, 0.5), (2.5, 0.25))
    (slope,) = torch.autograd.grad(ms_deform_attn(**arguments).sum(), arguments["sampling_locations"])
    assert slope.flatten().tolist() == [4, 8, 4, 8]  # to the right 1 a pixel, 4 pixels; down 4 a pixel, 2 pixels


@pytest.mark.parametrize("spoilt", ["sampling_locations", "attention_weights"])
@pytest.mark.parametrize("location", [(1, 1), (-9, 0)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_not_swallowed(spoilt, location, bad):
    arguments = one_level(2, 4, location)
    broken = arguments[spoilt].detach().clone()
    broken[..., 0] = bad
    assert not ms_deform_attn(**{**arguments, spoilt: broken}).isfinite().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_not_swallowed(bad):
    arguments = one_level(2, 4, (1, 1), (2, 1))
    gradient = torch.tensor([[[bad], [1]]], device=DEVICE)
    (value,) = torch.autograd.grad(ms_deform_attn(**arguments), arguments["value"], gradient)
    assert not value[0, 5].isfinite().any()


@pytest.mark.parametrize("channels", [1, 3, 12, 16, 31, 32, 33, 48, 64])
def test_any_number_of_channels(channels):
    locations = [(0.3, 0.7), (1.25, 2.5), (4.6, -0.3)]
    arguments = one_level(3, 5, *locations, channels=channels)
    torch.testing.assert_close(ms_deform_attn(**arguments), reference(**arguments), rtol=1e-5, atol=1e-4)


def test_value_that_begins_anywhere_in_memory():
    arguments = one_level(3, 5, (0.3, 0.7), channels=8)
    value = arguments["value"].detach()
    shifted = torch.cat([value.new_zeros(1), value.flatten()])[1:].view_as(value)
    assert torch.equal(ms_deform_attn(**{**arguments, "value": shifted}), ms_deform_attn(**arguments))


def test_a_level_without_pixels():
    arguments = TestMsDeformAttn().make(L=2)
    arguments["spatial_shapes"][1] = torch.tensor([0, 5])
    arguments["level_start_index"][1] = arguments["value"].shape[1]
    output = ms_deform_attn(**arguments)
    (gradient,) = torch.autograd.grad(output.sum(), arguments["sampling_locations"])
    assert output.isfinite().all()
    assert not gradient[:, :, :, 1].any()


@pytest.mark.parametrize("softmax", [0, 1])
@pytest.mark.parametrize("empty", ["B", "Q", "D", "points"])
def test_empty(empty, softmax):
    arguments = TestMsDeformAttn().make(**{empty: 0}, softmax=softmax)
    output = ms_deform_attn(**arguments)
    gradients = torch.autograd.grad(output.sum(), [arguments[name] for name in TestMsDeformAttn.differentiable])
    assert output.shape == (*arguments["attention_weights"].shape[:2], 2 * arguments["value"].shape[3])
    assert not output.any()
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("softmax", [0, 1])
def test_half_precision_locations_and_their_gradients(softmax):
    arguments = TestMsDeformAttn().make(BFLOAT, softmax=softmax)
    names = TestMsDeformAttn.differentiable[1:]
    halves = {name: arguments[name].detach().bfloat16().requires_grad_() for name in names}
    output = ms_deform_attn(**{**arguments, **halves})
    gradients = torch.autograd.grad(output.sum(), list(halves.values()))
    same = {name: half.detach().float() for name, half in halves.items()}
    assert torch.equal(output, ms_deform_attn(**{**arguments, **same}))
    assert [gradient.dtype for gradient in gradients] == [BFLOAT, BFLOAT]


def test_softmax_has_a_default():
    arguments = TestMsDeformAttn().make()
    five = [argument for name, argument in arguments.items() if name != "softmax"]
    output = torch.ops.mfvis.ms_deform_attn(*five)
    gradients = torch.autograd.grad(output.sum(), [arguments[name] for name in TestMsDeformAttn.differentiable])
    expected = ms_deform_attn(**arguments)
    assert torch.equal(output, expected)
    assert all(
        map(
            torch.equal,
            gradients,
            torch.autograd.grad(expected.sum(), [arguments[name] for name in TestMsDeformAttn.differentiable]),
        )
    )


def test_shapes_on_the_cpu_for_a_value_on_the_gpu():
    if DEVICE != "cuda":
        pytest.skip("MFVIS_TEST_DEVICE is not cuda")
    arguments = TestMsDeformAttn().make()
    on_cpu = {name: arguments[name].cpu() for name in ("spatial_shapes", "level_start_index")}
    assert torch.equal(ms_deform_attn(**{**arguments, **on_cpu}), ms_deform_attn(**arguments))
