"""Segmentation tracking of BDD100K against a literal restatement of its specification, and against its toolkit."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from mfvis.eval.bitmask_tracks import read_bitmask_tracks
from mfvis.eval.mots import MotsMetrics, evaluate_mots
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from mots_cases import (
    NAMES,
    A,
    B,
    Frame,
    Numbers,
    Thing,
    flat,
    one_video,
    random_case,
    rectangle,
    write_bitmasks,
    write_scalabel,
)
from pytest import approx

GROUPS = {"human": (1, 2), "vehicle": (3, 4, 5, 6), "bike": (7, 8), "OVERALL": tuple(range(1, 9))}


def from_scalabel(folder: Path, case: dict[str, list[Frame]]) -> MotsMetrics:
    annotated, predicted = write_scalabel(folder, case)
    return evaluate_mots(read_scalabel_tracks(predicted, annotated))


def from_bitmasks(folder: Path, case: dict[str, list[Frame]]) -> MotsMetrics:
    annotated, predicted = write_bitmasks(folder, case)
    return evaluate_mots(read_bitmask_tracks(predicted, annotated))


def assert_same(ours: Numbers, expected: Numbers) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key] == approx(value, abs=1e-9, rel=0, nan_ok=True), key


# ------------------------------------------------------------------------- the specification again, slow and literal


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def cheapest(cost: dict[tuple[int, int], float]) -> dict[int, int]:
    """The assignment of most pairs, of these the cheapest, by trying all."""
    rows = sorted({row for row, _ in cost})

    def best(place: int, used: frozenset[int]) -> tuple[int, float, dict[int, int]]:
        if place == len(rows):
            return 0, 0.0, {}
        choices = [best(place + 1, used)]
        for (row, column), value in cost.items():
            if row == rows[place] and column not in used:
                pairs, total, rest = best(place + 1, used | {column})
                choices.append((pairs + 1, total + value, {row: column, **rest}))
        return min(choices, key=lambda choice: (-choice[0], choice[1]))

    return best(0, frozenset())[2]


def count(frames: list[Frame], label: int) -> dict[str, float]:
    """The toolkit's counts in one video and class."""
    partner: dict[int, int] = {}
    history: dict[int, list[bool]] = defaultdict(list)
    together: dict[tuple[int, int], int] = defaultdict(int)
    counts: dict[str, float] = defaultdict(float)
    for true, predicted in frames:
        regions = [one for one in true if one.ignored]
        gts = [one for one in true if one.label == label and not one.ignored]
        dts = [one for one in predicted if one.label == label and not one.ignored]
        allowed = {
            (g, d): 1 - iou(gts[g].mask, dts[d].mask)
            for g in range(len(gts))
            for d in range(len(dts))
            if 1 - iou(gts[g].mask, dts[d].mask) <= 0.5
        }
        matched = set(cheapest(allowed).values())
        removed = {
            d
            for d in set(range(len(dts))) - matched
            if any((dts[d].mask & r.mask).sum() / dts[d].mask.sum() > 0.5 for r in regions)
        }
        allowed = {pair: cost for pair, cost in allowed.items() if pair[1] not in removed}
        for g, d in allowed:
            together[gts[g].id, dts[d].id] += 1
        pairs: dict[int, int] = {}
        for g, gt in enumerate(gts):
            for d, dt in enumerate(dts):
                if (g, d) in allowed and partner.get(gt.id) == dt.id and d not in pairs.values():
                    pairs[g] = d
        rest = {(g, d): c for (g, d), c in allowed.items() if g not in pairs and d not in pairs.values()}
        for g, d in cheapest(rest).items():
            counts["IDSw"] += partner.get(gts[g].id, dts[d].id) != dts[d].id
            pairs[g] = d
        for g, d in pairs.items():
            partner[gts[g].id] = dts[d].id
            counts["distance"] += allowed[g, d]
        for g, gt in enumerate(gts):
            history[gt.id].append(g in pairs)
        counts["matches"] += len(pairs)
        counts["true"] += len(gts)
        counts["predicted"] += len(dts) - len(removed)
        counts["FN"] += len(gts) - len(pairs)
        counts["FP"] += len(dts) - len(removed) - len(pairs)
    for there in history.values():
        share = sum(there) / len(there)
        counts["MT" if share >= 0.8 else "ML" if share < 0.2 else "PT"] += 1
        counts["FM"] += sum(there[t] and not there[t + 1] and any(there[t + 1 :]) for t in range(len(there) - 1))
    counts["idtp"] = most(together)
    return counts


def most(together: dict[tuple[int, int], int]) -> int:
    """The largest number of frames that a one-to-one pairing of identities agrees in, by trying all."""
    rows = sorted({row for row, _ in together})

    def best(place: int, used: frozenset[int]) -> int:
        if place == len(rows):
            return 0
        choices = [best(place + 1, used)]
        choices += [
            frames + best(place + 1, used | {column})
            for (row, column), frames in together.items()
            if row == rows[place] and column not in used
        ]
        return max(choices)

    return best(0, frozenset())


def divided(a: float, b: float) -> float:
    return a / b if b else (math.nan if a == 0 else math.inf)


def oracle(case: dict[str, list[Frame]]) -> Numbers:
    counts = {label: defaultdict(float) for label in range(1, 9)}
    for label in counts:
        for frames in case.values():
            for key, value in count(frames, label).items():
                counts[label][key] += value
    numbers: Numbers = {}
    rows = {**{NAMES[label - 1]: (label,) for label in counts}, **GROUPS}
    for name, members in rows.items():
        total = {key: sum(counts[label][key] for label in members) for key in {k for c in counts.values() for k in c}}
        get = defaultdict(float, total)
        for key in ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"):
            numbers[key, name] = get[key]
        numbers["MOTA", name] = 100 * (1 - divided(get["FN"] + get["FP"] + get["IDSw"], get["true"]))
        numbers["MOTP", name] = 100 * (1 - divided(get["distance"], get["matches"]))
        numbers["IDF1", name] = 100 * divided(2 * get["idtp"], get["true"] + get["predicted"])
    for key in ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"):
        numbers[key, "AVERAGE"] = sum(numbers[key, name] for name in NAMES)
    for key in ("MOTA", "MOTP", "IDF1"):
        values = [numbers[key, name] for name in NAMES]
        numbers[key, "AVERAGE"] = sum(value for value in values if math.isfinite(value)) / 8
    return numbers


@pytest.mark.parametrize("seed", range(40))
def test_equals_a_literal_restatement_of_the_specification(seed, tmp_path):
    disjoint = seed % 2 == 0
    case = random_case(seed, disjoint)
    expected = oracle(case)
    assert_same(flat(from_scalabel(tmp_path, case)), expected)
    if disjoint:
        assert_same(flat(from_bitmasks(tmp_path, case)), expected)


# ------------------------------------------------------------------------------------------------------- the toolkit


def toolkit_numbers(result: object) -> Numbers:
    return {
        (key, name): value
        for key, parts in dict(result).items()
        if isinstance(parts, list)
        for part in parts
        for name, value in part.items()
    }


@pytest.mark.parametrize("seed", range(100, 104))
def test_equals_the_toolkit(seed, tmp_path):
    pytest.importorskip("bdd100k")
    pytest.importorskip("scalabel")
    from bdd100k.common.utils import group_and_sort_files, list_files, load_bdd100k_config
    from bdd100k.eval.mots import evaluate_seg_track as evaluate_bitmasks
    from bdd100k.label.to_scalabel import bdd100k_to_scalabel
    from scalabel.eval.mots import acc_single_video_mots, evaluate_seg_track
    from scalabel.label.io import group_and_sort, load

    config = load_bdd100k_config("seg_track")
    case = random_case(seed, disjoint=True)
    paths = write_scalabel(tmp_path, case)
    with contextlib.redirect_stderr(io.StringIO()):
        loaded = [group_and_sort(bdd100k_to_scalabel(load(str(path)).frames, config)) for path in paths]
        result = evaluate_seg_track(acc_single_video_mots, *loaded, config.scalabel, nproc=1)
    ours = from_scalabel(tmp_path, case)
    assert_same(flat(ours), toolkit_numbers(result))
    assert ours.as_dict()["mMOTSA"] == approx(result.mMOTA, abs=1e-9)
    assert ours.as_dict()["mIDF1"] == approx(result.mIDF1, abs=1e-9)

    write_bitmasks(tmp_path, case)
    files = [
        group_and_sort_files(list_files(str(tmp_path / side), ".png", with_prefix=True))
        for side in ("annotated", "predicted")
    ]
    result = evaluate_bitmasks(*files, config.scalabel, nproc=1)
    assert_same(flat(from_bitmasks(tmp_path, case)), toolkit_numbers(result))


# --------------------------------------------------------------------------------------------------- hand-made cases


def test_a_perfect_class_among_absent_ones_is_an_eighth_of_the_mean(tmp_path):
    metrics = from_bitmasks(tmp_path, one_video(([Thing(7, 3, A)], [Thing(300, 3, A)])))
    assert metrics.as_dict() == {"mMOTSA": 12.5, "mMOTSP": 12.5, "mIDF1": 12.5, "IDSw": 0}
    assert metrics.clear["car"].MOTA == 100
    assert math.isnan(metrics.clear["bus"].MOTA)
    assert metrics.clear["OVERALL"].MT == 1


def test_a_class_of_only_false_positives_counts_as_zero(tmp_path):
    metrics = from_bitmasks(tmp_path, one_video(([], [Thing(1, 3, A)])))
    assert str(metrics.clear["car"].MOTA) == "-inf"
    assert metrics.as_dict()["mMOTSA"] == 0


def test_an_overlap_of_exactly_a_half_is_allowed(tmp_path):
    half = rectangle(0, 0, 8, 4)
    assert from_bitmasks(tmp_path, one_video(([Thing(1, 3, A)], [Thing(1, 3, half)]))).clear["car"].FN == 0


def test_a_partner_is_remembered_for_ever_and_another_is_a_switch(tmp_path):
    true = [Thing(1, 3, A)]
    seen, gone, other = (true, [Thing(5, 3, A)]), (true, []), (true, [Thing(6, 3, A)])
    row = from_bitmasks(tmp_path, one_video(seen, gone, gone, other, seen)).clear["car"]
    assert (row.IDSw, row.FM, row.PT) == (2, 1, 1)


def test_a_prediction_in_an_ignore_region_of_another_class_is_removed_unless_it_is_matched(tmp_path):
    region = Thing(9, 1, A, ignored=True)
    assert from_bitmasks(tmp_path, one_video(([region], [Thing(1, 3, A)]))).clear["car"].FP == 0
    # Half inside is not enough, and two regions do not add up.
    wide = Thing(1, 3, rectangle(0, 0, 16, 8))
    assert from_bitmasks(tmp_path / "b", one_video(([region], [wide]))).clear["car"].FP == 1
    both = [region, Thing(10, 2, rectangle(8, 0, 16, 8), ignored=True)]
    assert from_bitmasks(tmp_path / "c", one_video((both, [wide]))).clear["car"].FP == 1


def test_ids_whose_alpha_is_zero_are_ids(tmp_path):
    metrics = from_bitmasks(tmp_path, one_video(([Thing(256, 3, A), Thing(512, 3, B)], [Thing(1024, 3, A)])))
    assert (metrics.clear["car"].FN, metrics.clear["car"].FP) == (1, 0)


def test_other_names_are_classes_and_distractors_are_regions(tmp_path):
    true = [Thing(1, 3, A, name="van"), Thing(2, 1, B, name="other person")]
    metrics = from_scalabel(tmp_path, one_video((true, [Thing(3, 3, A), Thing(4, 8, B)])))
    assert (metrics.clear["car"].FN, metrics.clear["OVERALL"].FP) == (0, 0)


def test_a_frame_whose_predictions_overlap_loses_them_all_and_says_so(tmp_path):
    overlapping = ([Thing(1, 3, A)], [Thing(1, 3, A), Thing(2, 4, rectangle(7, 7, 9, 9))])
    metrics = from_scalabel(tmp_path, one_video(overlapping, ([Thing(1, 3, A)], [Thing(1, 3, A)])))
    assert (metrics.clear["car"].FN, metrics.clear["truck"].FP) == (1, 0)
    assert "in 1 frame predicted masks overlap" in metrics.notes[0]


def test_a_video_without_predictions_is_empty_and_text_ids_are_fine_where_it_is_annotated(tmp_path):
    case = {"a": [([Thing(1, 3, A)], [Thing(1, 3, A)])], "b": [([Thing(1, 3, A)], [])]}
    annotated, predicted = write_scalabel(tmp_path, case)
    frames = json.loads(annotated.read_text())
    frames[0]["labels"][0]["id"] = "some-uuid"
    annotated.write_text(json.dumps({"frames": frames}))
    found = [frame for frame in json.loads(predicted.read_text()) if frame["videoName"] == "a"]
    predicted.write_text(json.dumps(found))
    metrics = evaluate_mots(read_scalabel_tracks(predicted, annotated))
    assert metrics.clear["car"].FN == 1
    assert metrics.notes == ("1 of 2 videos have no predictions and count as empty: b",)
