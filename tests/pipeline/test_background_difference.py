"""Background difference: above 0 on the object, below 0 next to it, 0 where it is unknown or not to be trusted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mfvis.grid import STRIDE
from mfvis.labeling.background_difference import LARGEST, background_difference, distance_to_background
from mfvis.labeling.window_inputs import WindowInputs, prepare_window
from mfvis.losses.config import BackgroundPropagationConfig
from mfvis.models.backbone import Backbone
from mfvis.models.config import BackboneConfig

HEIGHT, WIDTH, FRAMES = 96, 256, 6
CONFIG = BackgroundPropagationConfig(frame_gaps=(2, 3, 4), radius=2)


def film(brightness: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc of 40 pixels that moves over noise of 4-pixel cells; frames and boxes."""
    torch.manual_seed(0)
    cells = torch.randint(0, 90, (1, 3, HEIGHT // 4, WIDTH // 4), dtype=torch.uint8)
    frames_TCHW = cells.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat(FRAMES, 1, 1, 1)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    boxes_T4 = torch.tensor([[8.0 + step * t, 28, 48 + step * t, 68] for t in range(FRAMES)])
    for t in range(FRAMES):
        disc_HW = (x - 28 - step * t) ** 2 + (y - 48) ** 2 < 20**2
        if brightness:
            frames_TCHW[t, :, disc_HW] = brightness
    return frames_TCHW, boxes_T4[None]


def inputs(brightness: int = 230, step: int = 40) -> WindowInputs:
    frames_TCHW, boxes_NT4 = film(brightness, step)
    backbone = Backbone(BackboneConfig(name="tiny", frozen=True))
    return prepare_window(backbone, frames_TCHW, boxes_NT4, torch.zeros(1), (HEIGHT, WIDTH), 1, False)


def test_object_differs_from_the_background_that_it_covers():
    logits_HW = background_difference(inputs(), CONFIG)[0, 2]
    x1, y1, x2, y2 = (int(side) // STRIDE for side in (88, 28, 128, 68))
    assert logits_HW[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].gt(0.5 * LARGEST).all()
    corners = [logits_HW[y1, x1], logits_HW[y1, x2 - 1], logits_HW[y2 - 1, x1], logits_HW[y2 - 1, x2 - 1]]
    assert max(corners) < 0
    assert logits_HW[:, x2 + 3 : x2 + 8].lt(0).all() and logits_HW.abs().max() <= LARGEST


def test_background_next_to_an_object_is_not_as_distant_as_the_object():
    view = inputs()
    distance_THW = distance_to_background(view.lab_TCHW, view.background_THW, CONFIG)
    assert distance_THW[2, 12, 33] < 1 < distance_THW[2, 12, 27]  # the box ends at cell 32


def test_objects_that_stand_still_hide_their_background():
    view = inputs(step=0)
    distance_THW = distance_to_background(view.lab_TCHW, view.background_THW, CONFIG)
    inside_HW = view.unknown_NTHW[0, 0]
    assert distance_THW[:, inside_HW].isinf().all() and distance_THW[:, ~inside_HW].isfinite().all()
    assert background_difference(view, CONFIG)[0, :, inside_HW].abs().max() == 0


@pytest.mark.parametrize("case", ["like the background", "no propagation", "one frame", "no box"])
def test_difference_is_0_where_it_cannot_be_trusted(case):
    view, config = inputs(brightness=0 if case == "like the background" else 230), CONFIG
    if case == "no propagation":
        config = replace(CONFIG, weight=0)
    if case == "one frame":
        view = replace(
            view,
            lab_TCHW=view.lab_TCHW[:1],
            background_THW=view.background_THW[:1],
            boxes_NT4=view.boxes_NT4[:, :1],
            ring_NTHW=view.ring_NTHW[:, :1],
        )
    if case == "no box":
        view = replace(view, boxes_NT4=torch.zeros_like(view.boxes_NT4), ring_NTHW=torch.zeros_like(view.ring_NTHW))
    assert not background_difference(view, config).any()


def test_frames_that_are_not_neighbors_show_no_background():
    view = inputs()
    torch.manual_seed(0)
    noise_TCHW = torch.rand(view.lab_TCHW.shape) * 100
    assert not background_difference(replace(view, lab_TCHW=noise_TCHW), CONFIG).any()
