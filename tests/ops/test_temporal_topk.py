from __future__ import annotations

import pytest
import torch
from operator_tests import BFLOAT, DEVICE, DOUBLE, FLOAT, HALF, OperatorTests

from mfvis_ext import temporal_topk
from mfvis_ext.reference.patch_distance import shifted_patch_distance
from mfvis_ext.reference.temporal_topk import temporal_topk as reference

WINDOW = ("patch_size", "radius", "dilation")


def random_pairs(generator, P, T):
    return torch.randint(T, (P, 2), generator=generator)


class TestTemporalTopk(OperatorTests):
    name = "temporal_topk"
    sizes = {"B": 2, "T": 3, "C": 3, "H": 9, "W": 37, "P": 2, "half": 1, "radius": 2, "dilation": 2, "k": 5, "shift": 3}
    ranges = {
        "B": (0, 2), "T": (1, 3), "C": (1, 4), "H": (1, 20), "W": (1, 40), "P": (0, 3), "half": (0, 3),
        "radius": (0, 3), "dilation": (1, 4), "k": (1, 12), "shift": (0, 30),
    }  # fmt: skip
    other_kernels = ({"dilation": 1}, {"C": 2})
    dtypes = (HALF, BFLOAT, FLOAT, DOUBLE)
    malformed = {
        "no videos": ({"frames": torch.zeros(3, 3, 9, 37)}, r"frames has shape \[3, 3, 9, 37\]; .* \[B, T, C, H, W\]"),
        "bytes": ({"frames": torch.zeros(2, 3, 3, 9, 37).byte()}, "frames is uint8; expected float32 or"),
        "pairs of three": ({"pairs": torch.zeros(2, 3).long()}, r"pairs has shape \[2, 3\]; expected \[P, 2\]"),
        "int32 pairs": ({"pairs": torch.zeros(2, 2).int()}, "pairs is int32; expected int64"),
        "no such frame": ({"pairs": torch.tensor([[0, 3], [1, 0]])}, "pairs contains 3; expected frames .* 0 to 2"),
        "no frames": ({"frames": torch.zeros(2, 0, 3, 9, 37)}, "pairs has 2 pairs; expected none where"),
        "negative frame": ({"pairs": torch.tensor([[-1, 0], [1, 0]])}, "pairs contains -1"),
        "even patch": ({"patch_size": 4}, "patch_size is 4; expected an odd number"),
        "negative radius": ({"radius": -1}, "radius is -1; expected 0 to 90"),
        "radius beyond int16": ({"radius": 91}, "radius is 91; expected 0 to 90"),
        "no dilation": ({"dilation": 0}, "dilation is 0; expected 1 to"),
        "no matches": ({"k": 0}, "k is 0; expected 1 to"),
        "shift of one video": ({"shift": torch.zeros(1, 2, 2).long()}, r"shift has shape \[1, 2, 2\]; .*\[2, 2, 2\]"),
        "fractional shift": ({"shift": torch.zeros(2, 2, 2)}, "shift is float32; expected int64"),
    }

    def arguments(self, generator, dtype, B, T, C, H, W, P, half, radius, dilation, k, shift):
        return {
            "frames": (torch.rand(B, T, C, H, W, generator=generator) * 60 - 20).to(dtype),
            "pairs": random_pairs(generator, P, T),
            "patch_size": 2 * half + 1,
            "radius": radius,
            "dilation": dilation,
            "k": k,
            "shift": torch.randint(-shift, shift + 1, (B, P, 2), generator=generator),
        }

    def compare(self, actual, expected, arguments):
        """By value, and by the distance at the returned index, because rounding decides between near ties."""
        (distance, offset), (expected_distance, expected_offset) = actual, expected
        assert distance.dtype == torch.float32 and offset.dtype == torch.int16
        torch.testing.assert_close(distance, expected_distance, rtol=2e-6, atol=1e-5)
        assert torch.equal(offset < 0, distance.isinf()) and torch.equal(offset < 0, expected_offset < 0)
        frames, window = arguments["frames"].float(), [arguments[name] for name in WINDOW]
        for b, video in enumerate(frames):
            for p, (target, source) in enumerate(arguments["pairs"].tolist()):
                shift = arguments["shift"][b, p].tolist() if arguments["shift"] is not None else (0, 0)
                volume = shifted_patch_distance(video[target][None], video[source][None], *window, *shift)[0]
                found = volume.gather(0, offset[b, p].long().clamp(min=0)).masked_fill(offset[b, p] < 0, torch.inf)
                torch.testing.assert_close(distance[b, p], found, rtol=2e-6, atol=1e-5)
        ordered = distance.nan_to_num(posinf=1e30)
        assert (ordered.diff(dim=2) >= 0).all()
        each = offset.movedim(2, -1).flatten(0, -2)
        assert all(len(set(row)) == len(row) for row in ([o for o in row if o >= 0] for row in each.tolist()))


@pytest.mark.parametrize("k", range(1, 10))
@pytest.mark.parametrize("dilation", [1, 3])
def test_reference_for_every_k(k, dilation):
    """The kernels have a specialized path for 3x3 patches of three channels and k up to 9."""
    op = TestTemporalTopk()
    op.agree(op.make(C=3, half=1, k=k, dilation=dilation, radius=2, B=1, P=1, H=18, W=33))


@pytest.mark.parametrize("radius, dilation", [(0, 1), (1, 3), (7, 2), (2, 40), (16, 1)])
def test_reference_for_every_window(radius, dilation):
    """Windows smaller and larger than the frame, and than a GPU's shared memory."""
    op = TestTemporalTopk()
    op.agree(op.make(radius=radius, dilation=dilation, B=1, P=1, H=14, W=30))


@pytest.mark.parametrize("height, width", [(1, 1), (16, 30), (17, 31), (33, 61)])
def test_reference_for_every_size(height, width):
    """One pixel, whole tiles of a GPU's block, and one row and column more."""
    op = TestTemporalTopk()
    op.agree(op.make(B=1, P=1, H=height, W=width, radius=2, dilation=1, shift=1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("k", [1, 4, 9, 13])
def test_ties_go_to_the_smaller_offset_as_in_the_reference(k, channels):
    """Small integers: every sum is exact, and many distances are equal."""
    frames = torch.randint(2, (1, 2, channels, 12, 33), generator=torch.Generator().manual_seed(k)).float().to(DEVICE)
    pairs = torch.tensor([[0, 1], [1, 0], [1, 1]], device=DEVICE)
    distance, offset = temporal_topk(frames, pairs, 3, 2, 1, k)
    expected_distance, expected_offset = reference(frames, pairs, 3, 2, 1, k)
    assert torch.equal(distance, expected_distance)
    assert torch.equal(offset, expected_offset)


def test_a_moved_frame_is_matched():
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    pairs = torch.tensor([[0, 1]], device=DEVICE)
    frames = torch.stack([image[:, 5:35, 5:45], image[:, 3:33, 8:48]])[None]  # moved by dy = 2, dx = -3
    distance, offset = temporal_topk(frames, pairs, radius=4, k=1)
    inner = (0, 0, 0, slice(1, -4), slice(4, -1))
    assert not distance[inner].any()
    assert (offset[inner] == (2 + 4) * 9 + (-3 + 4)).all()
    shift = torch.tensor([[[20, -30]]], device=DEVICE)
    shifted = torch.zeros_like(frames)
    shifted[0, 0], shifted[0, 1, :, 20:, :10] = frames[0, 0], frames[0, 0, :, :10, 30:]
    distance, offset = temporal_topk(shifted, pairs, radius=1, k=1, shift=shift)
    assert not distance[0, 0, 0, 1:9, 31:39].any()
    assert (offset[0, 0, 0, 1:9, 31:39] == 4).all()


@pytest.mark.parametrize("shift", [10**6, -(10**18)])
def test_a_window_outside_the_frame_has_no_candidates(shift):
    frames, pairs = torch.rand(1, 2, 3, 5, 6, device=DEVICE), torch.tensor([[0, 1]], device=DEVICE)
    distance, offset = temporal_topk(frames, pairs, radius=1, shift=torch.full((1, 1, 2), shift, device=DEVICE))
    assert distance.isinf().all() and (offset == -1).all()


def test_defaults_are_the_papers_setting():
    frames, pairs = torch.rand(1, 2, 3, 12, 13), torch.tensor([[0, 1]])
    distance, offset = temporal_topk(frames, pairs)
    again, offset_again = torch.ops.mfvis.temporal_topk(frames, pairs, 3, 5, 1, 5, None)
    assert torch.equal(distance, again) and torch.equal(offset, offset_again)


def test_gradient_is_an_error():
    frames = torch.rand(1, 2, 3, 5, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="mfvis::temporal_topk is not differentiable"):
        temporal_topk(frames, torch.tensor([[0, 1]]))[0].sum().backward()
