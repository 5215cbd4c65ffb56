"""AP of YouTube-VIS and OVIS against hand-made cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mfvis.errors import DataError
from mfvis.eval.tubes import Tube, tube_iou
from mfvis.eval.ytvis import average_precision, evaluate, match_videos
from pytest import approx
from ytvis_cases import data_set, rectangle, result, rle, track


def test_a_perfect_prediction_has_ap_one():
    masks = [rectangle(2, 2, 8, 8), None]
    metrics = evaluate(data_set([track(5, masks)], length=2), [result(masks, 0.3)])
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar1, metrics.ar100) == approx((1, 1, 1, 1, 1))
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == approx((1, -1, -1))
    assert metrics.classes[0].name == "class1"
    assert metrics.classes[0].ap == approx(1)


def test_tube_iou_is_over_the_whole_tube():
    a, b = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    tubes = [Tube((rle(b), rle(b))), Tube((rle(a), None)), Tube((None, None))]
    iou = tube_iou([Tube((rle(a), None))], tubes)
    np.testing.assert_array_equal(iou, [[50 / 150, 1.0, 0.0]])


def test_pixels_are_counted_exactly_beyond_float32():
    big = np.zeros((3000, 3001), dtype=bool)
    big[1:] = True
    one_less = big.copy()
    one_less[1, 0] = False
    area = int(big.sum())
    iou = tube_iou([Tube((rle(big),) * 3)], [Tube((rle(big), rle(one_less), rle(big)))])
    assert iou[0, 0] == (3 * area - 1) / (3 * area)


def test_frames_of_another_size_count_for_nothing_and_surplus_frames_are_ignored():
    a, other = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 10, 30, 30)
    assert tube_iou([Tube((rle(a), rle(other)))], [Tube((rle(a), rle(a)))])[0, 0] == 1
    assert tube_iou([Tube((rle(a),))], [Tube((rle(a), rle(a)))])[0, 0] == 1


def test_an_iou_equal_to_the_threshold_matches():
    gt, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    metrics = evaluate(data_set([track(1, [gt])]), [result([half], 0.9)])
    assert metrics.ap50 == approx(1)
    assert metrics.ap == approx(0.1)


def test_a_false_positive_ranked_first_halves_the_precision():
    gt, elsewhere = rectangle(0, 0, 5, 5), rectangle(10, 10, 15, 15)
    metrics = evaluate(data_set([track(1, [gt])]), [result([elsewhere], 0.9), result([gt], 0.8)])
    assert metrics.ap50 == approx(0.5)
    assert metrics.ar1 == 0
    assert metrics.ar10 == 1


def test_crowds_are_neither_hit_nor_missed():
    gt, mob = rectangle(0, 0, 5, 5), rectangle(10, 10, 20, 20)
    dataset = data_set([track(1, [gt]), track(2, [mob], crowd=True)])
    metrics = evaluate(dataset, [result([mob], 0.9), result([mob], 0.8), result([gt], 0.7)])
    assert metrics.ap == approx(1)


def test_size_classes_come_from_the_areas_field():
    mask = [rectangle(0, 0, 5, 5)]
    metrics = evaluate(data_set([track(1, mask, areas=(20000.0,))]), [result(mask, 0.9)])
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == approx((-1, 1, -1))


def test_the_reference_takes_a_match_with_annotation_zero_for_none():
    mask = [rectangle(0, 0, 5, 5)]
    assert evaluate(data_set([track(0, mask)]), [result(mask, 0.9)]).ap == 0


def test_a_class_without_annotations_is_left_out_and_one_without_predictions_counts_as_zero():
    mask = [rectangle(0, 0, 5, 5)]
    dataset = data_set([track(1, mask, 1), track(2, mask, 2)], classes=3)
    metrics = evaluate(dataset, [result(mask, 0.9, category_id=1)])
    assert [entry.ap for entry in metrics.classes] == approx([1, 0, -1])
    assert metrics.ap == approx(0.5)


def test_an_unknown_video_is_refused():
    with pytest.raises(ValueError, match=r"video ids \[9\] are not in"):
        evaluate(data_set([]), [result([None], 0.9, video_id=9)])


def test_occlusion_gives_the_eighteen_numbers_of_ovis():
    hidden = [rectangle(0, 0, 5, 5)] * 3
    shown = [rectangle(10, 10, 15, 15)] * 3
    # The worse half of three frames is two: (0.75 + 0.25) / 2, in two ranges.
    tracks = [
        replace(track(1, hidden), occlusion=("severe_occlusion", "slight_occlusion", "no_occlusion")),
        replace(track(2, shown), occlusion=("no_occlusion", None, None)),
    ]
    metrics = evaluate(data_set(tracks, length=3), [result(hidden, 0.9)])
    assert list(metrics.as_dict())[6:9] == ["APso", "APmo", "APho"]
    assert len(metrics.as_dict()) == len(metrics.classes[0].as_dict()) == 18
    assert (metrics.ap_light_occlusion, metrics.ap_medium_occlusion, metrics.ap_heavy_occlusion) == approx((0, 1, 1))
    assert (metrics.ar_light_occlusion, metrics.ar_medium_occlusion, metrics.ar_heavy_occlusion) == approx((0, 1, 1))


@pytest.mark.parametrize(
    ("occlusion", "message"),
    [
        (None, "has no occlusion, while others have"),
        ((None,), "has no occlusion"),
        (("some",), "occlusion 'some' is not"),
    ],
)
def test_tracks_without_a_readable_occlusion_are_refused_where_others_have_one(occlusion, message):
    mask = [rectangle(0, 0, 5, 5)]
    first = replace(track(1, mask), occlusion=("no_occlusion",))
    with pytest.raises(DataError, match=message):
        evaluate(data_set([first, replace(track(2, mask), occlusion=occlusion)]), [])


def test_every_damaged_mask_and_area_of_the_data_set_is_named():
    broken = replace(track(1, [rectangle(0, 0, 5, 5)]), segmentations=({"size": [20, 20], "counts": "12"},))
    areas = replace(track(2, [rectangle(0, 0, 5, 5)]), areas=(float("nan"),))
    with pytest.raises(DataError) as caught:
        evaluate(data_set([broken, areas]), [])
    assert [problem.record for problem in caught.value.problems] == ["annotation 1, frame 0", "annotation 2"]


def test_class_agnostic_ap_takes_all_classes_for_one_and_equal_masks_for_one_result():
    first, second = rectangle(0, 0, 5, 5), rectangle(10, 10, 15, 15)
    dataset = data_set([track(1, [first]), track(2, [second], category_id=2)], [track(3, [first])], classes=2)
    results = [
        result([first], 0.9, category_id=2),
        result([first], 0.8),
        result([second], 0.7, category_id=2),
        result([first], 0.6, video_id=2, category_id=2),
    ]
    matches = match_videos(dataset, results)
    assert evaluate(dataset, results).ap < 1
    assert average_precision(list(matches.values())) == approx(1)
    assert matches[1].scores_D.tolist() == [0.9, 0.7]
    missed = match_videos(dataset, results[:-1])
    # Of three objects two are found: 67 of the 101 recalls. Twice the first video, all are.
    assert average_precision(list(missed.values())) == approx(67 / 101)
    assert average_precision([missed[1], missed[1]]) == approx(1)
