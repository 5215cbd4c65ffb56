from __future__ import annotations

import pytest
import torch
from operator_tests import DEVICE, OperatorTests, random_boxes

from mfvis_ext import box_tube_dice


class TestBoxTubeDice(OperatorTests):
    name = "box_tube_dice"
    sizes = {"A": 3, "B": 4, "T": 2}
    ranges = {"A": (0, 3), "B": (0, 3), "T": (0, 4)}
    malformed = {
        "no tubes": ({"boxes_a": torch.zeros(3, 4)}, r"boxes_a has shape \[3, 4\]; expected \[A, T, 4\]"),
        "three numbers": ({"boxes_a": torch.zeros(3, 2, 3)}, "boxes_a has shape"),
        "other length": ({"boxes_b": torch.zeros(4, 3, 4)}, r"boxes_b has shape \[4, 3, 4\]; .* \[any, 2, 4\]"),
        "float64": ({"boxes_a": torch.zeros(3, 2, 4).double()}, "boxes_a is float64; expected float32"),
        "int64": ({"boxes_b": torch.zeros(4, 2, 4).long()}, "boxes_b is int64; expected float32"),
    }

    def arguments(self, generator, dtype, A, B, T):
        return {
            "boxes_a": random_boxes(generator, A, T, height=9, width=7),
            "boxes_b": random_boxes(generator, B, T, height=9, width=7),
        }


def test_values():
    a = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 0, 0]]])
    b = torch.tensor([[[1.0, 1, 3, 3], [0, 0, 0, 0]], [[0, 0, 2, 2], [0, 0, 2, 2]], [[0, 0, 0, 0], [5, 5, 4, 4]]])
    assert box_tube_dice(a, b)[0].tolist() == pytest.approx([2 / 8, 8 / 12, 0.0])


def test_two_empty_tubes_have_nothing_in_common():
    assert box_tube_dice(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)).item() == 0


def test_gradient_is_an_error():
    boxes = torch.rand(1, 1, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="mfvis::box_tube_dice is not differentiable"):
        box_tube_dice(boxes, boxes).sum().backward()


def test_a_result_so_large_that_it_uses_cached_memory(tmp_path):
    op = TestBoxTubeDice()
    op.agree(op.make(A=800, B=900, T=1))
    dice = box_tube_dice(**op.make(A=800, B=900, T=1))
    assert dice.is_contiguous() and not dice._is_view()
    assert dice.untyped_storage().nbytes() == dice.nbytes
    torch.save(dice, tmp_path / "dice.pt")
    assert torch.equal(torch.load(tmp_path / "dice.pt", map_location=DEVICE), dice)
