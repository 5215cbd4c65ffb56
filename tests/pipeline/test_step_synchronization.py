"""Training steps that wait for a GPU only where they must, checked on the device "meta".

Its tensors have no values to wait for: reading one, or a shape that depends on values, raises. Copies between host and
device are counted.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mfvis.losses.config import LossConfig, MaskConfig
from mfvis.losses.criterion import Criterion
from mfvis.losses.propagation import BackgroundPropagationConfig
from mfvis.losses.temporal import TemporalConfig
from mfvis.models.config import ModelConfig
from mfvis.models.video_model import build_model
from mfvis.train.step import box_prompts
from mfvis.types import Batch, ClipOrigin, Match
from tiny import TINY
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CLIPS, OBJECTS = 2, 3
SEQFORMER = replace(TINY, name="seqformer", hidden_dim=32)
FROM_DATA = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
BY_INDEX = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class Copies(TorchFunctionMode):
    """Counts the copies to the host, which get arbitrary values, and those to the device that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.to_host = self.to_device = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with Conversions(self):
            result = function(*args, **kwargs)
        if function in FROM_DATA:  # to "meta" they need no conversion
            self.to_device += result.is_meta
        elif function in BY_INDEX and args[0].is_meta:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.to_device += any(isinstance(index, list) or getattr(index, "is_cpu", False) for index in indices)
        return result


class Conversions(TorchDispatchMode):
    """Counts for `Copies` within one function."""

    def __init__(self, copies: Copies) -> None:
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is torch.ops.aten._to_copy.default:
            source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
            if (source.type, target.type) == ("meta", "cpu"):
                self.copies.to_host += 1
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            waits = not kwargs.get("non_blocking")
            self.copies.to_device += (source.type, target.type) == ("cpu", "meta") and waits
        return operator(*args, **kwargs)


def batch_without_values(frames: int) -> Batch:
    """Two clips of frames of 64 x 96 pixels."""
    count = CLIPS * OBJECTS
    with torch.device("meta"):
        return Batch(
            frames_BTCHW=torch.zeros(CLIPS, frames, 3, 64, 96, dtype=torch.uint8),
            boxes_NT4=torch.zeros(count, frames, 4),
            labels_N=torch.zeros(count, dtype=torch.int64),
            video_index_N=torch.zeros(count, dtype=torch.int64),
            masks_NTHW=torch.zeros(count, frames, 64, 96, dtype=torch.bool),
            sizes_B2=torch.zeros(CLIPS, 2, dtype=torch.int64),
            clips=tuple(ClipOrigin(clip, tuple(range(frames)), tuple(range(OBJECTS))) for clip in range(CLIPS)),
        )


def copies_of_a_step(config: ModelConfig, losses: LossConfig, masks: bool = False, prompted: bool = False) -> Copies:
    """Copies of a forward and a backward pass."""
    model = build_model(config, 2, pretrained=False).to("meta")
    batch = batch_without_values(frames=3)
    with Copies() as copies:
        prompts, query_N = box_prompts(batch) if prompted else (None, None)
        prediction = model(batch.frames_BTCHW, batch.sizes_B2, prompts)
        matched = None if query_N is None else Match(query_N.expand(len(prediction.logits_LBQK), -1))
        terms = Criterion(losses, 2, masks)(prediction, batch, 0, matched)
        terms.total.backward()
    assert terms.total.is_meta
    assert all(parameter.grad.is_meta for parameter in model.backbone.parameters())
    return copies


@pytest.mark.parametrize(
    ("config", "losses", "masks"),
    [
        (TINY, LossConfig(background=1.0, temporal=TemporalConfig(tube="dense")), False),
        (SEQFORMER, LossConfig(background=1.0), False),
        (
            TINY,
            LossConfig(temporal=TemporalConfig(camera_motion=True), propagation=BackgroundPropagationConfig()),
            False,
        ),
        (TINY, LossConfig(released_code=True), False),
        (TINY, LossConfig(masks=MaskConfig(points=20)), True),
        (SEQFORMER, LossConfig(masks=MaskConfig(dense=True)), True),
    ],
    ids=["mask2former", "seqformer", "moving camera", "released code", "masks", "dense masks"],
)
def test_a_step_waits_for_the_costs_only(config, losses, masks):
    copies = copies_of_a_step(config, losses, masks)
    assert (copies.to_host, copies.to_device) == (1, 0)


def test_a_step_with_given_boxes_never_waits():
    copies = copies_of_a_step(replace(TINY, box_prompts=True), LossConfig(), prompted=True)
    assert (copies.to_host, copies.to_device) == (0, 0)


@pytest.mark.parametrize(
    ("wait", "counted"),
    [
        (lambda x: torch.tensor([1.0, 2.0], device="meta"), (0, 1)),
        (lambda x: x.new_tensor([1.0, 2.0]), (0, 1)),
        (lambda x: x[[0, 2]], (0, 1)),
        (lambda x: torch.zeros(2).to("meta"), (0, 1)),
        (lambda x: torch.zeros(2).to("meta", non_blocking=True), (0, 0)),
        (lambda x: x.cpu(), (1, 0)),
        (lambda x: x.tolist(), (1, 0)),
    ],
    ids=["tensor", "new_tensor", "list as index", "to", "to, not blocking", "cpu", "tolist"],
)
def test_a_copy_is_counted(wait, counted):
    x = torch.zeros(3, device="meta")
    with Copies() as copies:
        wait(x)
    assert (copies.to_host, copies.to_device) == counted


@pytest.mark.parametrize(
    "wait",
    [lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x[0].item(), lambda x: bool(x[0] > 0)],
    ids=["boolean index", "nonzero", "item", "bool"],
)
def test_reading_a_value_raises(wait):
    with Copies(), pytest.raises((NotImplementedError, RuntimeError)):
        wait(torch.zeros(3, device="meta"))
