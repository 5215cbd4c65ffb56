"""Mean J of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mfvis.data.ytvis import load_dataset
from mfvis.eval.mean_j import best_fitting, filled_box, mean_j
from mfvis.types import TrackResult
from pytest import approx
from ytvis_cases import data_set, rectangle, result, track


def test_mean_j_averages_over_object_frames_and_the_filled_box_is_its_baseline():
    true = [rectangle(0, 0, 10, 10), None, rectangle(0, 0, 4, 4)]
    diagonal = rectangle(0, 0, 10, 10) & np.tri(20, dtype=bool)
    dataset = data_set([track(3, [diagonal, None, true[2]])], length=3)
    given_masks = replace(result([true[0], true[0], None], 1.0), track_id=3)
    metrics = mean_j(dataset, [given_masks])
    assert metrics.object_frames == 2
    assert metrics.j == approx((0.55 + 0) / 2)
    assert metrics.filled_box_j == approx((0.55 + 1) / 2)
    assert metrics.tracks[0].frames == 2


def test_mean_j_needs_a_result_for_every_track():
    with pytest.raises(ValueError, match="track 3 of video 'video1' has no masks"):
        mean_j(data_set([track(3, [rectangle(0, 0, 4, 4)])]), [])


def test_filled_box_takes_the_pixels_whose_centers_are_inside():
    np.testing.assert_array_equal(
        filled_box(np.array([0.6, 0, 2.5, 1.4]), 2, 4), [[False, True, False, False], [False] * 4]
    )


@pytest.mark.realdata
def test_filled_box_j_of_the_real_clips(real_data):
    dataset = load_dataset(real_data / "realvid" / "val.json")
    results = [
        TrackResult(video.id, track.category_id, 1.0, track.segmentations, track.boxes_T4, track.id)
        for video in dataset.videos
        for track in video.tracks
    ]
    metrics = mean_j(dataset, results)
    assert metrics.j == 1
    assert metrics.object_frames == 330
    assert metrics.filled_box_j == approx(0.427, abs=5e-4)


def test_the_best_fitting_result_is_chosen_whatever_its_class_and_score():
    true, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    dataset = data_set([track(3, [true]), track(4, [rectangle(12, 12, 16, 16)])], [track(5, [true])], classes=2)
    chosen = best_fitting(dataset, [result([half], 0.9), result([true], 0.1, category_id=2)])
    assert [(r.video_id, r.track_id, r.category_id) for r in chosen] == [(1, 3, 1), (1, 4, 1), (2, 5, 1)]
    assert [t.j for t in mean_j(dataset, chosen).tracks] == [1, 0, 0]  # nothing was found in the second video
