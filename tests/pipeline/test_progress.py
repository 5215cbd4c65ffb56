"""One progress for a whole run: work that is left, time that is left, a rewritten line or single lines."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mfvis import progress as module
from mfvis.labeling import run as label
from mfvis.labeling.config import LabelConfig
from mfvis.progress import Progress, duration
from tiny import tiny_label_config


class Clock:
    """Time that passes only where a test moves it."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_time_left_follows_from_the_pace_of_each_kind_of_work(clock, capsys):
    with Progress() as progress:
        progress.plan({"training": 10.0, "masks": 4.0})
        clock.now += 20
        progress.advance("training", 5.0, "a")
        # 5 units of training took 20 s; masks have not begun and are taken to have the same pace.
        assert progress.seconds_left() == pytest.approx(5 * 4 + 4 * 4)
        assert capsys.readouterr().out == " 36%, 0:00:36 left: a\n"
        clock.now += 1
        progress.advance("masks", 2.0, "b")
        assert progress.seconds_left() == pytest.approx(5 * 4 + 2 * 0.5)
        assert capsys.readouterr().out == ""  # too soon after the line before
        clock.now += 20
        progress.plan({"masks": 2.0})  # what is left is known better now; the wait before it was no work
        clock.now += 10
        progress.advance("masks", 2.0, "c")
        assert progress.seconds_left() == 0 and capsys.readouterr().out == "100%, 0:00:00 left: c\n"


def test_a_slow_first_step_says_little_about_the_others(clock):
    with Progress(visible=False) as progress:
        progress.plan({"check": 10, "training": 1000})
        clock.now += 20
        progress.advance("check", 10, "")
        clock.now += 60
        progress.advance("training", 1, "")
        assert progress.seconds_left() == pytest.approx(999 * 2)  # the pace of the check
        clock.now += 30
        progress.advance("training", 29, "")
        assert progress.seconds_left() == pytest.approx(970 * 3)


def test_a_terminal_has_one_line_that_is_rewritten(clock, monkeypatch):
    """Messages are lines of their own above it, although both go to one terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress() as progress:
        progress.plan({"training": 2.0})
        clock.now += 30
        progress.advance("training", 1.0, "first")
        print("a", "message")
        clock.now += 30
        progress.advance("training", 1.0, "second")
    print("afterwards")
    before, after = terminal.getvalue().split("a message\n")
    assert "50% |" in before and "0:00:30 left: first" in before and "\n" not in before
    assert re.search(r"\r +\r$", before)  # the line is cleared first
    assert "0:00:30 left: first" in after and "0:00:00 left: second" in after
    assert after.endswith("\rafterwards\n") and after.count("\n") == 1


def test_invisible_progress_prints_nothing(clock, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(visible=False) as progress:
        clock.now += 100
        progress.advance("anything", 1.0, "text")
    assert terminal.getvalue() == "" and capsys.readouterr().out == ""


def test_durations_have_hours():
    assert [duration(seconds) for seconds in (0, 61.4, 7325)] == ["0:00:00", "0:01:01", "2:02:05"]


@pytest.fixture
def config(demo_data, tmp_path: Path) -> LabelConfig:
    return tiny_label_config(demo_data[1], tmp_path, given_masks=False, window=6)


def test_a_run_counts_all_its_work_and_a_resumed_run_only_what_is_left(config, monkeypatch):
    plans, left = [], []

    class Watched(Progress):
        def plan(self, ahead):
            plans.append(dict(ahead))
            super().plan(ahead)

        def __exit__(self, *error):
            left.append({kind: amount for kind, amount in self.ahead.items() if amount > 1e-9})
            super().__exit__(*error)

    monkeypatch.setattr(label, "Progress", Watched)
    label.run(config)
    assert set(plans[0]) == {"check of the frames", "features", "training", "refinement", "cross-video network"}
    assert left == [{}]  # the run did exactly what was planned
    (config.out / "parts" / "2.json").unlink()
    (config.out / "parts" / "tries" / "2-0-0.pt").unlink()
    plans.clear()
    label.run(config)
    assert left == [{}, {}]
    (config.out / "parts" / "2.json").unlink()
    plans.clear()
    label.run(replace(config, overlays=True))
    assert not plans[0].get("training")  # the logits of all windows are saved
    assert left[-1] == {}
