"""Long videos in windows: which frames, whose masks, who is who, and that memory stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mfvis.data.video import open_video, video_writer
from mfvis.errors import ConfigError
from mfvis.models.mask2former import VideoMask2Former
from mfvis.predict.config import InferConfig
from mfvis.predict.predictor import WindowFeatures, predict_video
from mfvis.predict.track_association import TrackMemory, output_frames, windows_of
from mfvis.progress import Progress
from mfvis.types import DenseMasks, Prediction
from tiny import CATEGORIES, tiny_model


@pytest.fixture
def model() -> VideoMask2Former:
    return tiny_model()


@pytest.fixture
def video(tmp_path: Path):
    random = np.random.default_rng(0)
    with video_writer(tmp_path / "long.mp4", 10, (32, 64)) as write:
        background = random.integers(0, 255, (32, 64, 3), dtype=np.uint8)
        for t in range(23):
            frame = background.copy()
            frame[8:24, 2 * t : 2 * t + 16] = (250, 20, 20)
            write(frame)
    return open_video(tmp_path / "long.mp4")


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_cover_the_video_and_every_frame_is_emitted_once(length, window, data):
    stride = data.draw(st.none() | st.integers(1, window))
    windows = windows_of(length, window, stride)
    assert all(len(frames) == min(window, length) for frames in windows)
    assert [t for number in range(len(windows)) for t in output_frames(windows, number)] == list(range(length))
    assert all(set(output_frames(windows, number)) <= set(frames) for number, frames in enumerate(windows))


def test_no_window_is_the_whole_video():
    assert windows_of(7, None, None) == [range(7)]
    assert windows_of(7, 10, 3) == [range(7)]
    assert windows_of(7, 4, None) == [range(4), range(2, 6), range(3, 7)]


def test_a_window_as_long_as_the_video_changes_nothing(model, video):
    whole = predict_video(model, video, CATEGORIES, InferConfig(short_side=32))
    window = predict_video(model, video, CATEGORIES, InferConfig(short_side=32, window=23))
    assert [(a.score, a.segmentations) for a in whole] == [(b.score, b.segmentations) for b in window]


@pytest.mark.parametrize(("window", "stride", "chunk"), [(4, 2, 8), (6, 6, 4), (5, 1, 3), (10, 7, 1)])
def test_the_features_of_a_window_are_those_of_its_frames(model, video, window, stride, chunk):
    """Whatever is taken over from the window before, and however many go through the model at a time."""
    model.double()  # other numbers of frames at a time are other sums, which this model's norms blow up
    with torch.inference_mode():
        expected = WindowFeatures(model, video, (32, 64), chunk, Progress(visible=False)).move_to(range(23))
        windows = windows_of(23, window, stride)
        features = WindowFeatures(model, video, (32, 64), chunk, Progress(visible=False))
        for frames in windows:
            pixels = features.move_to(frames)
            here = slice(frames.start, frames.stop)
            torch.testing.assert_close(pixels.mask_NCHW, expected.mask_NCHW[here], rtol=1e-9, atol=1e-9)
            for level, of_all in zip(pixels.levels_NSC, expected.levels_NSC, strict=True):
                torch.testing.assert_close(level, of_all[here], rtol=1e-9, atol=1e-9)


def test_tubes_are_as_long_as_the_video(model, video):
    for result in predict_video(model, video, CATEGORIES, InferConfig(short_side=32, window=6, stride=4)):
        assert len(result.segmentations) == len(result.boxes_T4) == 23
        for rle, box in zip(result.segmentations, result.boxes_T4, strict=True):
            assert (rle is None) == (not box.any())


class ScriptedDecoder(torch.nn.Module):
    """Decoder that returns given outputs for each window: queries, scores of both classes, and columns of the masks."""

    def __init__(self, windows: list[tuple[torch.Tensor, torch.Tensor, list[int]]]):
        super().__init__()
        self.windows = iter(windows)

    def learned_queries(self, batch):
        return None

    def forward(self, pixels, queries, last_only):
        query_QC, scores_QK, columns = next(self.windows)
        masks = torch.full((1, 1, len(columns), len(pixels.mask_NCHW), *pixels.mask_NCHW.shape[2:]), -5.0)
        for q, x in enumerate(columns):
            masks[0, 0, q, :, 2:6, x : x + 4] = 5
        probabilities_QK = torch.cat([scores_QK, 1 - scores_QK.sum(1, keepdim=True)], 1)
        return Prediction(probabilities_QK.log()[None, None], DenseMasks(masks), query_QC[None, None])


def test_what_is_there_all_along_is_not_crowded_out_by_what_one_window_was_sure_of(model, video):
    """A steady object of score 0.6 among false ones of 0.9, a new one in each of eleven windows; and the second class
    of the steady one, whose scores add up to more than that of a short object."""
    queries_WC = torch.eye(12)
    scores_QK = torch.tensor([[0.6, 0.15], [0.01, 0.9]])
    model.decoder = ScriptedDecoder([(queries_WC[[0, w + 1]], scores_QK, [0, 5 + 6 * (w % 2)]) for w in range(11)])
    config = InferConfig(short_side=32, window=4, stride=2, max_tracks=2)
    short, steady = predict_video(model, video, CATEGORIES, config)
    assert (steady.category_id, short.category_id) == (3, 8)
    assert steady.score == pytest.approx(0.6)
    assert all(steady.segmentations)
    assert short.score == pytest.approx(0.9)
    assert 2 <= sum(rle is not None for rle in short.segmentations) <= 3


def square(x: int) -> torch.Tensor:
    """bool ``[1, 2, 8, 16]``: a square at column x in two frames."""
    mask = torch.zeros(1, 2, 8, 16, dtype=torch.bool)
    mask[..., 2:6, x : x + 4] = True
    return mask


def associated(memory, window, query, x):
    (track,) = memory.associate(window, torch.tensor([query]), torch.ones(1, 2), square(x), square(x))
    return track


def test_objects_are_recognized_by_query_and_overlap():
    memory = TrackMemory(memory=2, max_tracks=10)
    first = associated(memory, 0, [1.0, 0.0], 2)
    assert associated(memory, 1, [0.8, 0.6], 2) is first  # the same place, a similar query
    assert associated(memory, 2, [0.7, 0.7], 10) is not first  # elsewhere
    assert first.sightings == 2
    assert first.scores_K.tolist() == [2, 2]


def test_lost_objects_are_found_again_by_their_query_only_and_not_for_ever():
    memory = TrackMemory(memory=2, max_tracks=10)
    first = associated(memory, 0, [1.0, 0.0], 2)
    assert associated(memory, 2, [0.8, 0.6], 10) is first
    assert associated(memory, 4, [-0.1, 1.0], 2) is not first
    assert associated(memory, 5, [0.8, 0.6], 2) is not first


def test_of_objects_that_are_gone_only_those_of_most_worth_are_kept():
    memory = TrackMemory(memory=1, max_tracks=1)
    for window, score in enumerate([0.2, 0.9, 0.3]):
        query = torch.eye(9)[None, window]
        memory.associate(2 * window, query, torch.full((1, 2), score), square(0), square(0))
    memory.associate(9, torch.eye(9)[None, 8], torch.ones(1, 2), square(0), square(0))
    assert [identity.mean_K[0].item() for identity in memory.all] == pytest.approx([0.9, 1.0])


def test_two_objects_do_not_become_one():
    memory = TrackMemory(memory=2, max_tracks=10)
    masks = torch.cat([square(0), square(8)])
    queries = torch.tensor([[1.0, 0.1], [1.0, 0.0]])
    left, right = memory.associate(0, queries, torch.ones(2, 2), masks, masks)
    again = memory.associate(1, queries.flip(0), torch.ones(2, 2), masks.flip(0), masks.flip(0))
    assert again == [right, left]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 0}, "window is 0; expected 1 or more"),
        ({"window": 4, "stride": 5}, "stride is 5; expected no more than window"),
        ({"stride": 5}, "stride is 5; expected none without a window"),
        ({"memory": 0}, "memory is 0; expected 1 or more"),
    ],
)
def test_windows_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        InferConfig(**wrong)
