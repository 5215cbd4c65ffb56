"""The command line of the benchmarks: what it cannot do, it says in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tk_loss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs bench_tk_loss with flags that it refuses; returns what it said."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_tk_loss
    import harness

    def said(*flags: object) -> str:
        monkeypatch.setattr(sys, "argv", ["bench_tk_loss.py", *map(str, flags)])
        with pytest.raises(SystemExit) as exit_status:
            harness.main(str(FOLDER / "bench_tk_loss.py"), bench_tk_loss.cases_of, replay=bench_tk_loss.replay)
        assert exit_status.value.code == 2
        return capsys.readouterr().err

    return said


def test_what_cannot_be_done_is_said_in_one_sentence(tk_loss, tmp_path: Path) -> None:
    (tmp_path / "words.pt").write_text("no batch")
    torch.save({"weights": torch.ones(1)}, tmp_path / "weights.pt")
    assert "0 threads, 25 rounds; expected 1 thread" in tk_loss("--threads", 0)
    assert "1 rounds; expected 1 thread and 2 rounds" in tk_loss("--rounds", 1)
    assert "no case is left of --only 'nonsense':\n  forward" in tk_loss("--only", "nonsense")
    assert "there is no folder" in tk_loss("--profile", tmp_path / "gone" / "trace.json")
    assert "cannot be read ([Errno 2]" in tk_loss("--replay", tmp_path / "gone.pt")
    assert "words.pt cannot be read (" in tk_loss("--replay", tmp_path / "words.pt")
    assert "weights.pt is no batch; name the batch.pt" in tk_loss("--replay", tmp_path / "weights.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu(tk_loss) -> None:
    assert "sees no GPU" in tk_loss("--device", "cuda")
