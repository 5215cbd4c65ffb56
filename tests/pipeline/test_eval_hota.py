"""HOTA, CLEAR and identity numbers of masks against a literal restatement of their definitions, and TrackEval."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from mfvis.eval.hota import ALPHAS
from mfvis.eval.mots import SUPER_CATEGORIES, evaluate_mots
from mfvis.eval.scalabel_tracks import read_scalabel_tracks
from mots_cases import NAMES, Frame, Thing, random_case, rectangle, write_scalabel
from pytest import approx
from scipy.optimize import linear_sum_assignment

EPSILON = np.finfo(float).eps


def measured(folder, case: dict[str, list[Frame]]) -> dict[str, dict[str, float]]:
    annotated, predicted = write_scalabel(folder, case)
    metrics = evaluate_mots(read_scalabel_tracks(predicted, annotated))
    return {name: vars(numbers) for name, numbers in metrics.track_eval.items()}


def overlaps(gts: list[Thing], dts: list[Thing]) -> np.ndarray:
    iou = [[(g.mask & d.mask).sum() / (g.mask | d.mask).sum() for d in dts] for g in gts]
    return np.array(iou, float).reshape(len(gts), len(dts))


# ---------------------------------------------------------------------------- the definitions again, slow and literal


def preprocessed(frames: list[Frame], label: int) -> list[tuple[list[int], list[int], np.ndarray]]:
    """Per frame of a class: annotated ids, predicted ids, IoU; predictions in ignore regions removed."""
    video = []
    for true, predicted in frames:
        regions = [one.mask for one in true if one.ignored]
        gts = [one for one in true if one.label == label and not one.ignored]
        dts = [one for one in predicted if one.label == label and not one.ignored]
        iou = overlaps(gts, dts)
        score = np.where(iou < 0.5 - EPSILON, 0, iou)
        rows, columns = linear_sum_assignment(-score)
        matched = {c for r, c in zip(rows, columns, strict=True) if score[r, c] > 0}
        kept = [
            d
            for d, one in enumerate(dts)
            if d in matched or not any((one.mask & r).sum() / one.mask.sum() > 0.5 + EPSILON for r in regions)
        ]
        video.append(([one.id for one in gts], [dts[d].id for d in kept], iou[:, kept]))
    return video


def hota_sums(video: list[tuple[list[int], list[int], np.ndarray]]) -> dict[str, np.ndarray]:
    """Per alpha: TP, FN, FP and the sums whose quotients are AssA, AssRe, AssPr, LocA."""
    sums = {key: np.zeros(19) for key in ("TP", "FN", "FP", "AssA", "AssRe", "AssPr", "LocA")}
    soft: dict[tuple[int, int], float] = {}
    times: dict[tuple[str, int], int] = {}
    for gts, dts, iou in video:
        for side, ids in (("gt", gts), ("dt", dts)):
            for number in ids:
                times[side, number] = times.get((side, number), 0) + 1
        for g, gt in enumerate(gts):
            for d, dt in enumerate(dts):
                other = iou[g].sum() + iou[:, d].sum() - iou[g, d]
                soft[gt, dt] = soft.get((gt, dt), 0.0) + (iou[g, d] / other if other > 0 else 0.0)
    for a, alpha in enumerate(ALPHAS):
        pairs: dict[tuple[int, int], int] = {}
        for gts, dts, iou in video:
            score = iou.copy()
            for g, gt in enumerate(gts):
                for d, dt in enumerate(dts):
                    score[g, d] *= soft[gt, dt] / (times["gt", gt] + times["dt", dt] - soft[gt, dt])
            hits = [(g, d) for g, d in zip(*linear_sum_assignment(-score), strict=True) if iou[g, d] >= alpha - EPSILON]
            sums["TP"][a] += len(hits)
            sums["FN"][a] += len(gts) - len(hits)
            sums["FP"][a] += len(dts) - len(hits)
            for g, d in hits:
                sums["LocA"][a] += iou[g, d]
                pairs[gts[g], dts[d]] = pairs.get((gts[g], dts[d]), 0) + 1
        for (gt, dt), c in pairs.items():
            sums["AssA"][a] += c * c / (times["gt", gt] + times["dt", dt] - c)
            sums["AssRe"][a] += c * c / times["gt", gt]
            sums["AssPr"][a] += c * c / times["dt", dt]
    return sums


def hota_numbers(sums: dict[str, np.ndarray]) -> dict[str, float]:
    tp, fn, fp = sums["TP"], sums["FN"], sums["FP"]
    numbers = {key: sums[key] / np.maximum(1, tp) for key in ("AssA", "AssRe", "AssPr")}
    numbers["DetA"] = tp / np.maximum(1, tp + fn + fp)
    numbers["DetRe"], numbers["DetPr"] = tp / np.maximum(1, tp + fn), tp / np.maximum(1, tp + fp)
    numbers["HOTA"] = np.sqrt(numbers["DetA"] * numbers["AssA"])
    numbers["OWTA"] = np.sqrt(numbers["DetRe"] * numbers["AssA"])
    numbers["LocA"] = np.array([loc / n if n else 1.0 for loc, n in zip(sums["LocA"], tp, strict=True)])
    first = {"HOTA_0": numbers["HOTA"][0], "LocA_0": numbers["LocA"][0]}
    first["HOTALocA_0"] = first["HOTA_0"] * first["LocA_0"]
    return {key: float(values.mean()) for key, values in numbers.items()} | first


@pytest.mark.parametrize("seed", range(200, 220))
def test_hota_equals_a_literal_restatement_of_its_definition(seed, tmp_path):
    case = random_case(seed, disjoint=False)
    ours = measured(tmp_path, case)
    sums = {}
    for label, name in enumerate(NAMES, start=1):
        parts = [hota_sums(preprocessed(frames, label)) for frames in case.values()]
        sums[label] = {key: sum(part[key] for part in parts) for key in parts[0]}
        expected = hota_numbers(sums[label])
        assert {key: ours[name][key] for key in expected} == approx(expected, abs=1e-9)
    for name, members in {**SUPER_CATEGORIES, "cls_comb_det_av": range(1, 9)}.items():
        expected = hota_numbers({key: sum(sums[label][key] for label in members) for key in sums[1]})
        assert {key: ours[name][key] for key in expected} == approx(expected, abs=1e-9)
    mean = {key: np.mean([ours[name][key] for name in NAMES]) for key in expected}
    assert {key: ours["cls_comb_cls_av"][key] for key in expected} == approx(mean, abs=1e-9)


# --------------------------------------------------------------------------------------------------------- TrackEval


def track_eval(case: dict[str, list[Frame]]) -> dict[str, dict[str, float]]:
    """The case through TrackEval's BDD100K class and metrics, with overlaps of masks in place of those of boxes."""
    from trackeval.datasets.bdd100k import BDD100K
    from trackeval.metrics import CLEAR, HOTA, Identity

    masks: list[np.ndarray] = []

    def places(things: list[Thing]) -> np.ndarray:
        masks.extend(one.mask for one in things)
        return np.arange(len(masks) - len(things), len(masks), dtype=float).reshape(-1, 1)

    def within(dets: np.ndarray, regions: np.ndarray, **_: object) -> np.ndarray:
        share = [
            [(masks[d] & masks[r]).sum() / masks[d].sum() for (r,) in regions.astype(int)] for (d,) in dets.astype(int)
        ]
        return np.array(share, float).reshape(len(dets), len(regions))

    dataset = BDD100K.__new__(BDD100K)
    dataset.class_name_to_class_id = {name: label for label, name in enumerate(NAMES, start=1)}
    dataset._calculate_box_ious = within
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = [HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})]
        combined = [{} for _ in metrics]
        for name in NAMES:
            sequences = [{} for _ in metrics]
            for video, frames in case.items():
                sides = [
                    ([one for one in true if not one.ignored], [one for one in predicted if not one.ignored])
                    for true, predicted in frames
                ]
                raw = {
                    "num_timesteps": len(frames),
                    "gt_crowd_ignore_regions": [places([one for one in true if one.ignored]) for true, _ in frames],
                    "similarity_scores": [overlaps(*pair) for pair in sides],
                }
                for side, key in enumerate(("gt", "tracker")):
                    raw[f"{key}_ids"] = [np.array([one.id for one in pair[side]], int) for pair in sides]
                    raw[f"{key}_classes"] = [np.array([one.label for one in pair[side]], int) for pair in sides]
                    raw[f"{key}_dets"] = [places(pair[side]) for pair in sides]
                data = dataset.get_preprocessed_seq_data(raw, name)
                for metric, sequence in zip(metrics, sequences, strict=True):
                    sequence[video] = metric.eval_sequence(data)
            for metric, sequence, classes in zip(metrics, sequences, combined, strict=True):
                classes[name] = metric.combine_sequences(sequence)
        groups = {"human": NAMES[:2], "vehicle": NAMES[2:6], "bike": NAMES[6:]}
        for metric, classes in zip(metrics, combined, strict=True):
            own = dict(classes)
            classes["cls_comb_cls_av"] = metric.combine_classes_class_averaged(own)
            classes["cls_comb_det_av"] = metric.combine_classes_det_averaged(own)
            for group, members in groups.items():
                classes[group] = metric.combine_classes_det_averaged({name: own[name] for name in members})
    # IDF1 of Identity, MOTA and the like of CLEAR: no name occurs twice.
    return {
        name: {key: float(np.mean(value)) for classes in combined for key, value in classes[name].items()}
        for name in combined[0]
    }


@pytest.mark.parametrize("seed", range(300, 312))
def test_equals_track_eval(seed, tmp_path):
    pytest.importorskip("trackeval")
    case = random_case(seed, disjoint=False)
    ours, expected = measured(tmp_path, case), track_eval(case)
    assert ours.keys() == expected.keys()
    for name, numbers in ours.items():
        for key, value in numbers.items():
            assert value == approx(expected[name][key.replace("_0", "(0)")], abs=1e-9), (name, key)


# --------------------------------------------------------------------------------------------------- hand-made cases

A = rectangle(0, 0, 8, 8)


def test_a_track_that_is_cut_in_two_halves_the_association(tmp_path):
    frames = [([Thing(1, 3, A)], [Thing(1 + t // 2, 3, A)]) for t in range(4)]
    car = measured(tmp_path, {"video": frames})["car"]
    assert car["DetA"] == 1
    assert car["AssA"] == approx(0.5)
    assert car["HOTA"] == approx(np.sqrt(0.5))
    assert car["IDSW"] == 1
    assert car["sMOTA"] == approx(0.75)


def test_smotsa_weighs_the_matches_by_their_overlap(tmp_path):
    three_quarters = rectangle(0, 0, 8, 6)
    found = [Thing(1, 3, three_quarters), Thing(2, 3, rectangle(20, 0, 24, 4))]
    car = measured(tmp_path, {"video": [([Thing(1, 3, A)], found)]})["car"]
    assert (car["MOTP"], car["sMOTA"], car["MOTA"]) == approx((0.75, -0.25, 0))


def test_classes_without_annotations_have_minus_their_false_positives(tmp_path):
    metrics = measured(tmp_path, {"video": [([], [Thing(1, 3, A), Thing(2, 3, rectangle(10, 10, 12, 12))])]})
    assert metrics["car"]["MOTA"] == -2
    assert metrics["bus"]["LocA"] == 1
    assert metrics["cls_comb_cls_av"]["MOTA"] == -0.25
