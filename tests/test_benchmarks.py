"""The command line of the benchmarks: what they cannot do they say in one sentence, and they write only on request."""

from __future__ import annotations

import importlib
import json
import re
import sys
import sysconfig
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
AXES = {
    path.stem: found[1]
    for path in sorted(FOLDER.glob("bench_*.py"))
    if (found := re.search(r"axes=\((.*?)\)", path.read_text()))
}


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """Runs bench_tk_loss with flags; the number of threads that they set ends with the test."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_tk_loss
    import harness

    def call(*flags: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bench_tk_loss.py", *map(str, flags)])
        harness.main(str(FOLDER / "bench_tk_loss.py"), bench_tk_loss.cases_of, replay=bench_tk_loss.replay)

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def tk_loss(main, capsys: pytest.CaptureFixture[str]):
    """Runs bench_tk_loss with flags that it refuses; returns what it said."""

    def said(*flags: object) -> str:
        with pytest.raises(SystemExit) as exit_status:
            main(*flags)
        assert exit_status.value.code == 2
        return capsys.readouterr().err

    return said


def test_what_cannot_be_done_is_said_in_one_sentence(tk_loss, tmp_path: Path) -> None:
    (tmp_path / "words.pt").write_text("no batch")
    torch.save({"weights": torch.ones(1)}, tmp_path / "weights.pt")
    assert "0 threads, 25 rounds; expected 1 thread" in tk_loss("--threads", 0)
    assert "1 rounds; expected 1 thread and 2 rounds" in tk_loss("--rounds", 1)
    assert "no case is left of --only 'nonsense':\n  forward" in tk_loss("--only", "nonsense")
    assert "words.pt/results cannot be made (Not a directory)" in tk_loss("--out", tmp_path / "words.pt" / "results")
    assert "there is no folder" in tk_loss("--profile", tmp_path / "gone" / "trace.json")
    assert "cannot be read ([Errno 2]" in tk_loss("--replay", tmp_path / "gone.pt")
    assert "words.pt cannot be read (" in tk_loss("--replay", tmp_path / "words.pt")
    assert "weights.pt is not a batch; name the batch.pt" in tk_loss("--replay", tmp_path / "weights.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu(tk_loss) -> None:
    assert "sees no GPU" in tk_loss("--device", "cuda")


def row_of(case: str):
    from inputs import Setting
    from report import Row, Timing

    return Row(case, "", Setting(), Timing(1, 2, 1, 3, 4), Timing(10, 20, 10, 30, 40), None, 5, 0.5, 6, 0.6, {})


def test_a_case_that_differs_has_no_time_and_stops_no_other(main, tmp_path: Path, monkeypatch) -> None:
    import harness

    measured: list[str] = []

    def measure(script, case, *_):
        measured.append(case.name)
        if len(measured) == 2:
            # As a run that is killed here would leave it.
            assert f"| {measured[0]} |" in (tmp_path / "bench_tk_loss.md").read_text()
            raise AssertionError("off by 7")
        return row_of(case.name)

    monkeypatch.setattr(harness, "measure", measure)
    with pytest.raises(SystemExit, match=r"differ.*\n.*: off by 7") as exit_status:
        main("--threads", 1, "--out", tmp_path)
    assert len(measured) > 2 and measured[1] in str(exit_status.value)
    table = (tmp_path / "bench_tk_loss.md").read_text()
    assert [f"| {name} |" in table for name in measured] == [name != measured[1] for name in measured]


def test_results_are_written_only_where_one_says(main, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness

    monkeypatch.setattr(harness, "measure", lambda *_: row_of("a case"))
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (FOLDER / "results").rglob("*")}
    main("--quick", "--threads", 1)
    printed = capsys.readouterr().out
    assert "| a case | 1.00; 2.00 (1.00-3.00) | 10.00; 20.00 (10.00-30.00) | 10.0x, 10.0x |" in printed
    assert {path: path.stat().st_mtime_ns for path in (FOLDER / "results").rglob("*")} == before
    assert not list(tmp_path.iterdir())

    main("--quick", "--threads", 1, "--out", "new/results")
    written = {path.name: path.read_text() for path in (tmp_path / "new" / "results").iterdir()}
    assert written.keys() == {"bench_tk_loss.md", "bench_tk_loss.json"}
    assert "| a case | 1.00; 2.00" in written["bench_tk_loss.md"]
    assert json.loads(written["bench_tk_loss.json"])["rows"][0]["ours"]["best_ms"] == 1


@pytest.mark.parametrize("stem", AXES)
def test_every_axis_of_a_benchmark_has_its_plot(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module(stem)
    from inputs import GRID
    from report import Row, Timing, plot_along

    axes = re.findall(r"\w+", AXES[stem])
    cases = [case for setting in {s for axis in axes for s in GRID[axis]} for case in benchmark.cases_of(setting)]
    assert len({case.name for case in cases}) == len(cases)
    time = Timing(1, 2, 1, 3, 4)
    rows = [Row(case.name, case.kind, case.setting, time, time, None, 5, 0.5, 6, 0.6, {}) for case in cases]
    for axis in axes:
        assert ElementTree.fromstring(plot_along(axis, GRID[axis], rows[:1])).tag.endswith("svg"), (
            "after the first case"
        )
        drawn = ElementTree.fromstring(plot_along(axis, GRID[axis], rows)).iter("{http://www.w3.org/2000/svg}polyline")
        points = [line.attrib["points"].split() for line in drawn]
        assert len(points) >= 4  # ours and the reference, time and memory
        assert all(len(line) == len(GRID[axis]) for line in points)


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu_check")


def test_the_gpu_check_fits_its_ten_minutes_and_keeps_its_measurements(gpu_check, tmp_path: Path) -> None:
    steps = gpu_check.steps(tmp_path)
    assert sum(step.seconds for step in steps if step.by_default) <= 600 - 10  # and its start
    scripts = [command for step in steps for command in step.commands if any("bench_" in word for word in command)]
    assert len(scripts) > 9
    for command in scripts:
        assert Path(command[1]).is_file()
        assert command[command.index("--out") + 1] == str(tmp_path / "benchmarks")

    assert gpu_check.folder_name("NVIDIA H200", []) == "nvidia-h200"
    assert gpu_check.folder_name("NVIDIA H200", ["compiled", "rest"]) == "nvidia-h200-compiled-rest"


def test_every_kernel_time_has_a_prediction(gpu_check) -> None:
    kernel_times = importlib.import_module("kernel_times")
    names = [f"{op}: {case.name}" for op, cases in kernel_times.cases().items() for case in cases]
    assert len(names) > 12
    unpredicted = [name for name in names if "predicted" not in kernel_times.prediction(name, 1.0)]
    assert unpredicted == [name for name in names if name.startswith(("tk_loss: forward, ", "tk_loss: forward + "))]
    assert kernel_times.prediction("temporal_topk: T 5, 120x216, N 10", 90) == ", predicted 45 µs, ratio 2.00"


def python_step(gpu_check, name: str, code: str, **fields):
    return gpu_check.Step(name, 20, [[sys.executable, "-c", code]], **fields)


def test_the_gpu_check_reports_failures_skips_and_counts_as_it_goes(gpu_check, tmp_path: Path) -> None:
    steps = [
        python_step(gpu_check, "good", "print('found'); print('found')", count="found"),
        python_step(gpu_check, "bad", "print('the reason'); raise SystemExit(3)"),
        python_step(gpu_check, "absent", "", needs=("no-such-program",)),
        python_step(gpu_check, "slow", "import time; print('begun', flush=True); time.sleep(60)"),
    ]
    steps[3] = replace(steps[3], seconds=-57)  # together with what the others leave, three seconds
    assert gpu_check.check(steps, tmp_path, "a GPU") == 1
    summary = (tmp_path / "gpu-check.md").read_text()
    assert "| good | passed; 2 x 'found' |" in summary
    assert "| bad | FAILED, 1 of 1 commands |" in summary and "the reason" in summary
    assert "| absent | skipped: no no-such-program |" in summary
    assert "cut off after" in summary and (tmp_path / "slow-0.txt").read_text() == "begun\n"


def test_a_brought_wheel_puts_its_library_in_place(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu_wheels = importlib.import_module("gpu_wheels")
    monkeypatch.setattr(gpu_wheels, "ROOT", tmp_path / "checkout")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert "has no wheels" in gpu_wheels.install(tmp_path)
    for name, problem in ((f"_C{suffix}", ""), ("_C.cpython-27.so", "is for another Python")):
        with zipfile.ZipFile(tmp_path / "mfvis_ext-0.1.0-any.whl", "w") as archive:
            archive.writestr(f"mfvis_ext/{name}", "the library")
        assert problem in gpu_wheels.install(tmp_path)
    assert (tmp_path / "checkout" / "mfvis_ext" / f"_C{suffix}").read_text() == "the library"
    assert gpu_wheels.has_library()
