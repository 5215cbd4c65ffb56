"""GrabCut as a baseline: called with the box of each mask, and left out where OpenCV is not installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mfvis.data.ytvis import load_dataset
from mfvis.eval import grabcut
from mfvis.eval.run import labeled_tracks


def test_the_baseline_is_measured_on_the_same_masks(demo_data, monkeypatch):
    """A stand-in for OpenCV that keeps the left half of every box."""

    def halve(pixels, marks, rect, back, fore, iterations, mode):
        columns = np.flatnonzero((marks == 3).any(0))
        marks[:, columns[len(columns) // 2 :]] = 0

    names = {"GC_BGD": 0, "GC_FGD": 1, "GC_PR_FGD": 3, "GC_INIT_WITH_MASK": 1}
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(grabCut=halve, setRNGSeed=lambda seed: None, **names))
    monkeypatch.setattr(grabcut, "MAX_MASKS", 5)
    dataset = load_dataset(demo_data[1])
    baseline, own, count = grabcut.grabcut_j(dataset, labeled_tracks(dataset, dataset))
    assert own == pytest.approx(1.0) and 0.1 < baseline < 0.7 and 1 <= count <= 5


def test_there_is_none_without_opencv(demo_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    dataset = load_dataset(demo_data[1])
    assert grabcut.grabcut_j(dataset, labeled_tracks(dataset, dataset)) is None
