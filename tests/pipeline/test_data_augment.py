"""Boxes and masks follow the frames, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.data.augment import augment, crop, fitted_size, flip, resize
from mfvis.data.rle import mask_box
from mfvis.types import Clip

ABSENT = [0.0, 0.0, 0.0, 0.0]


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    """Clips of whole-pixel boxes, some absent; the masks are diamonds that touch their boxes' four sides."""
    height, width = draw(st.integers(12, 60)), draw(st.integers(12, 60))
    frames, objects = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes_NT4 = np.zeros((objects, frames, 4), np.float32)
    masks_NTHW = np.zeros((objects, frames, height, width), bool)
    for n, t in np.ndindex(objects, frames):
        if random.random() < 0.2:
            continue
        x1, y1 = random.integers(width - 6), random.integers(height - 6)
        x2, y2 = random.integers(x1 + 6, width + 1), random.integers(y1 + 6, height + 1)
        boxes_NT4[n, t] = x1, y1, x2, y2
        y, x = np.mgrid[:height, :width] + 0.5
        reach = abs(x - (x1 + x2) / 2) / ((x2 - x1) / 2) + abs(y - (y1 + y2) / 2) / ((y2 - y1) / 2)
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        masks_NTHW[n, t] = inside & (reach <= 1.4)
    return Clip(
        torch.from_numpy(random.integers(0, 256, (frames, 3, height, width), dtype=np.uint8)),
        torch.from_numpy(boxes_NT4),
        torch.arange(objects),
        torch.from_numpy(masks_NTHW),
        1,
        tuple(range(frames)),
        tuple(range(10, 10 + objects)),
    )


def boxes_of_masks(clip: Clip) -> torch.Tensor:
    boxes = [[mask_box(mask_HW) for mask_HW in masks_THW] for masks_THW in clip.masks_NTHW.numpy()]
    return torch.from_numpy(np.array(boxes, np.float32).reshape(clip.boxes_NT4.shape))


def same(a: Clip, b: Clip) -> bool:
    return all(
        torch.equal(x, getattr(b, name)) if isinstance(x, torch.Tensor) else x == getattr(b, name)
        for name, x in vars(a).items()
    )


@given(clips())
@settings(max_examples=30, deadline=None)
def test_flipped_twice_is_the_same(clip: Clip) -> None:
    once = flip(clip)
    assert same(flip(once), clip)
    assert torch.equal(boxes_of_masks(once), once.boxes_NT4)
    assert torch.equal(once.frames_TCHW[..., 0], clip.frames_TCHW[..., -1])


@given(clips(), st.integers(30, 120), st.integers(30, 120))
@settings(max_examples=30, deadline=None)
def test_resized_boxes_stay_around_their_masks(clip: Clip, height: int, width: int) -> None:
    resized = resize(clip, height, width)
    assert resized.frames_TCHW.shape == (*clip.frames_TCHW.shape[:2], height, width)
    assert resized.frames_TCHW.dtype == torch.uint8
    old_height, old_width = clip.frames_TCHW.shape[-2:]
    pixel = max(1.0, height / old_height, width / old_width)
    # Within a pixel of whichever image is the coarser.
    assert (boxes_of_masks(resized) - resized.boxes_NT4).abs().le(pixel).all()
    absent = clip.boxes_NT4.eq(0).all(-1)
    assert resized.boxes_NT4[absent].eq(0).all()


@given(clips(), st.data())
@settings(max_examples=40, deadline=None)
def test_crop_clips_boxes_and_drops_what_is_gone(clip: Clip, data: st.DataObject) -> None:
    height, width = clip.frames_TCHW.shape[-2:]
    top, left = data.draw(st.integers(0, height - 5)), data.draw(st.integers(0, width - 5))
    new_height, new_width = data.draw(st.integers(5, height - top)), data.draw(st.integers(5, width - left))
    cropped = crop(clip, top, left, new_height, new_width)
    window = torch.tensor([new_width, new_height] * 2)
    assert cropped.boxes_NT4.ge(0).all() and cropped.boxes_NT4.le(window).all()
    present = (cropped.boxes_NT4[..., 2:] > cropped.boxes_NT4[..., :2]).all(-1)
    assert present.any(1).all(), "an object in no frame is dropped"
    assert cropped.boxes_NT4[~present].eq(0).all()
    assert len(cropped.track_ids) == len(cropped.labels_N) == len(cropped.masks_NTHW) == len(cropped.boxes_NT4)
    assert [10 + label for label in cropped.labels_N.tolist()] == list(cropped.track_ids)
    tight, loose = boxes_of_masks(cropped), cropped.boxes_NT4
    seen = cropped.masks_NTHW.any((2, 3)) if cropped.masks_NTHW.numel() else torch.zeros_like(present)
    assert (tight[seen][:, :2] >= loose[seen][:, :2]).all() and (tight[seen][:, 2:] <= loose[seen][:, 2:]).all()
    kept = set(cropped.track_ids)
    for n, track in enumerate(clip.track_ids):
        if track not in kept:
            assert not clip.masks_NTHW[n, :, top : top + new_height, left : left + new_width].any()


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        ((32, 74), 360, 1333, (360, 833)),  # 832.5: halves round up
        ((98, 32), 360, 1333, (1103, 360)),  # 1102.5
        ((54, 172), 480, 1333, (419, 1333)),  # 418.5, limited by the long side
        ((186, 39), 480, 1333, (1333, 279)),  # 279.5 but for rounding, in the order of products there
        ((720, 1280), 360, 1333, (360, 640)),
        ((1080, 608), 480, 768, (768, 432)),
        ((50, 50), 360, 1333, (360, 360)),
        ((1, 4000), 360, 1333, (1, 1333)),  # detectron2 would make it 0 high
    ],
)
def test_sizes_are_those_of_detectron2(
    size: tuple[int, int], short_side: int, max_side: int, expected: tuple[int, int]
) -> None:
    assert fitted_size(*size, short_side, max_side) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(8, 800), st.integers(8, 1400))
def test_fitted_size(height: int, width: int, short_side: int, max_side: int) -> None:
    new_height, new_width = fitted_size(height, width, short_side, max_side)
    assert max(new_height, new_width) <= max_side
    assert min(new_height, new_width) <= short_side
    assert min(new_height, new_width) == short_side or max(new_height, new_width) == max_side
    longer = max(new_height, new_width) * min(height, width) / max(height, width)
    assert abs(min(new_height, new_width) - max(1, longer)) <= 1


@given(clips(), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_augment_is_a_function_of_its_seed(clip: Clip, seed: int) -> None:
    settings = {"short_sides": (24, 36), "max_side": 90, "flip_probability": 0.5, "smallest_crop": 0.6}
    first, second = (augment(clip, np.random.default_rng(seed), **settings) for _ in range(2))
    assert same(first, second)
    assert min(first.frames_TCHW.shape[-2:]) in (24, 36) or max(first.frames_TCHW.shape[-2:]) == 90


def test_every_frame_gets_the_same() -> None:
    frame_CHW = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = Clip(
        frame_CHW.expand(4, 3, 40, 50),
        torch.tensor([[3.0, 4.0, 20.0, 30.0]]).expand(1, 4, 4),
        torch.tensor([2]),
        None,
        1,
        (0, 1, 2, 3),
        (7,),
    )
    for seed in range(4):
        out = augment(
            still,
            np.random.default_rng(seed),
            short_sides=(24, 48),
            max_side=99,
            flip_probability=0.5,
            smallest_crop=0.7,
        )
        assert out.masks_NTHW is None
        assert torch.equal(out.frames_TCHW, out.frames_TCHW[:1].expand_as(out.frames_TCHW))
        assert torch.equal(out.boxes_NT4, out.boxes_NT4[:, :1].expand_as(out.boxes_NT4))


def test_absent_is_zeros_after_a_flip() -> None:
    frames_TCHW = torch.zeros(1, 3, 10, 10, dtype=torch.uint8)
    clip = Clip(frames_TCHW, torch.tensor([[ABSENT]]), torch.tensor([0]), None, 1, (0,), (1,))
    assert flip(clip).boxes_NT4.tolist() == [[ABSENT]]
