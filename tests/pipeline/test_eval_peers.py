"""Numbers that other programs print for small random files, kept here so that they need not be installed.

scalabel 0.3.1 and bdd100k 1.0.1 with motmetrics 1.4.0; MMTracking at e79491e; the evaluation of SA-Co/VEval in SAM 3 at
99d02f2, whose size ranges are COCO's and are left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mfvis.eval.config import EvalConfig
from mfvis.eval.mots import MotsMetrics
from mfvis.eval.run import run
from mots_cases import random_case, write_bitmasks, write_scalabel
from pytest import approx
from test_eval_boxes import random_boxes, write
from test_eval_reference import random_files

COLUMNS = ("MOTA", "MOTP", "IDF1", "FP", "FN", "IDSw", "MT", "PT", "ML", "FM")

# mMOTA, mMOTP, mIDF1; then the columns of OVERALL.
MASKS = {
    104: (
        [10.863095238095237, 39.15709290709291, 28.63549285963079],
        [7.4074074074074066, 74.69740785530259, 47.45762711864407, 13, 8, 4, 4, 3, 1, 0],
    ),
    106: ([-12.5, 12.5, 6.25], [-200.0, 100.0, 25.0, 5, 1, 0, 1, 0, 1, 0]),
}
BOXES = {
    104: (
        [16.69642857142857, 35.600093984962406, 25.81699346405229],
        [40.0, 95.61418251511131, 65.11627906976744, 6, 3, 3, 3, 2, 0, 2],
    ),
    106: (
        [9.23611111111111, 30.047229321121193, 22.77173913043478],
        [16.666666666666664, 79.44693705725194, 58.536585365853654, 9, 4, 2, 3, 2, 0, 2],
    ),
}
# AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.
MMTRACKING = {
    4: [
        *(0.1957095709570957, 0.4741474147414741, 0.14081408140814078, 0.0726072607260726, 0.26798679867986797, 0.6),
        *(0.2333333333333333, 0.2333333333333333, 0.2333333333333333, 0.13333333333333333, 0.26666666666666666, 0.6),
    ],
    5: [
        *(0.3325082508250825, 0.44554455445544555, 0.334983498349835, 0.3136138613861386, 0.46897689768976897, -1),
        *(0.21666666666666667, 0.4333333333333334, 0.4333333333333334, 0.38333333333333336, 0.46666666666666673, -1),
    ],
}
# AP, AP50, AP75, AR1, AR10, AR100.
SA_CO = {
    4: [0.346039603960396, 0.6408140814081408, 0.2678767876787678, 0.34722222222222227, *[0.4305555555555556] * 2],
    5: [0.29884488448844887, 0.3927392739273927, 0.3085808580858086, 0.18333333333333332, *[0.3861111111111111] * 2],
}


def assert_tracking(metrics: MotsMetrics, expected: tuple[list[float], list[float]]) -> None:
    average, overall = metrics.clear["AVERAGE"], metrics.clear["OVERALL"]
    assert [getattr(average, name) for name in COLUMNS[:3]] == approx(expected[0], abs=1e-9)
    assert [getattr(overall, name) for name in COLUMNS] == approx(expected[1], abs=1e-9)


@pytest.mark.parametrize("seed", MASKS)
def test_masks_of_bdd100k_in_either_form(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, disjoint=True)
    for annotated, predicted in (write_scalabel(tmp_path, case), write_bitmasks(tmp_path, case)):
        assert_tracking(run(EvalConfig(predicted, str(annotated))), MASKS[seed])


@pytest.mark.parametrize("seed", BOXES)
def test_boxes_of_bdd100k(seed: int, tmp_path: Path) -> None:
    annotated, predicted = write(tmp_path, random_boxes(seed))
    assert_tracking(run(EvalConfig(predicted, str(annotated))), BOXES[seed])


@pytest.mark.parametrize("seed", MMTRACKING)
def test_youtube_vis_in_mmtracking(seed: int, tmp_path: Path) -> None:
    annotations, results = random_files(tmp_path, seed)
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        del annotation["occlusion"]
    annotations.write_text(json.dumps(content))
    assert list(run(EvalConfig(results, str(annotations))).as_dict().values()) == approx(MMTRACKING[seed], abs=1e-12)


@pytest.mark.parametrize("seed", SA_CO)
def test_sa_co_veval(seed: int, tmp_path: Path) -> None:
    """Without crowds, which the files of SA-Co do not have; their boxes are [0, 0, 0, 0] where an object is absent."""
    annotations, results = random_files(tmp_path, seed)
    content = json.loads(annotations.read_text())
    for annotation in content["annotations"]:
        annotation |= {"iscrowd": 0, "id": annotation["id"] + 1, "noun_phrase": "a thing", "occlusion": None}
        annotation["bboxes"] = [[0, 0, 0, 0]] * len(annotation["bboxes"])
    content["video_np_pairs"] = [{"id": 1, "video_id": 3, "category_id": 1, "num_masklets": 0}]
    annotations.write_text(json.dumps(content))
    named = run(EvalConfig(results, str(annotations))).as_dict()
    assert [named[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")] == approx(SA_CO[seed], abs=1e-12)
