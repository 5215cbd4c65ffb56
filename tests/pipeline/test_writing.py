"""Files appear whole or not at all, and one folder serves one run at a time."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mfvis import convert
from mfvis.cli import main
from mfvis.data.bitmask import write_bitmask
from mfvis.data.images import write_image
from mfvis.data.jsonfile import write_json
from mfvis.data.video import video_writer
from mfvis.errors import ConfigError, VideoError
from mfvis.parsing import build, load_preset
from mfvis.train import checkpoint
from mfvis.train.config import Config
from mfvis.weights.config import ConvertConfig
from mfvis.weights.files import save_safetensors
from mfvis.writing import LOCK, atomic_write, run_lock
from tiny import CATEGORIES, TINY, tiny_model

HOLD = """
import sys, time
from mfvis.writing import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
KILLED = """
import os, signal, sys
from mfvis.writing import atomic_write
with atomic_write(sys.argv[1]) as path:
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.json"
    with atomic_write(target) as path:
        assert path.suffix == ".json" and path.parent == target.parent
        path.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}" and names(target.parent) == ["a.json"]


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path) -> None:
    for error in (KeyError("x"), KeyboardInterrupt(), VideoError("x")):
        with pytest.raises(type(error)), atomic_write(tmp_path / "a.json") as path:
            path.write_text("half")
            raise error
    with pytest.raises(KeyError), atomic_write(tmp_path / "folder") as path:
        path.mkdir()
        (path / "inner").write_text("half")
        raise KeyError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "ü" * 125 + ".mp4", ".hidden", "a.b.c", "no suffix"])
def test_every_name_that_the_file_system_takes_can_be_written(name: str, tmp_path: Path) -> None:
    with atomic_write(tmp_path / name) as path:
        path.write_text("x")
    assert names(tmp_path) == [name]


def test_devices_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is a device or a pipe"), atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_the_umask_gives_the_modes(tmp_path: Path, umask: None) -> None:
    save_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})  # the library's own mode is 0600
    with atomic_write(tmp_path / "b.txt") as path:
        path.write_text("b")
    with atomic_write(tmp_path / "folder") as path:
        path.mkdir()
    modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in names(tmp_path)]
    assert modes == ["0o640", "0o640", "0o750"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("unexpected pos 576 vs 534"),  # torch.save, in handling the first
    ],
)
def test_a_full_disk_is_an_oserror_about_the_file(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "a.pt"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise error  # noqa: B904
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.pt"))


def test_errors_that_are_not_about_the_file_stay_as_they_are(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone", "other.jpg"), VideoError("damaged"), ValueError("(x)")):
        with pytest.raises(type(error)) as raised, atomic_write(tmp_path / "a.mp4"):
            try:
                raise OSError(errno.EIO, "Input/output error", "other.jpg")
            except OSError:
                raise error  # noqa: B904
        assert raised.value is error or isinstance(error, ValueError)


@contextmanager
def small_disk() -> Iterator[None]:
    """No file can be larger than 4 kB. Not a fixture: pytest's own output may be a larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_film(path: Path) -> None:
    random = np.random.default_rng(0)
    with video_writer(path, 10, (96, 96)) as write:
        for _ in range(9):
            write(random.integers(0, 255, (96, 96, 3), dtype=np.uint8))


def write_checkpoint(path: Path) -> None:
    config = build(Config, load_preset("test") | {"data": "x.json"}, "test")
    description = checkpoint.CheckpointInfo(1, replace(config, model=TINY), CATEGORIES)
    checkpoint.save(path.parent, path.name, description, tiny_model())


WRITERS = {
    "a.safetensors": lambda path: save_safetensors(path, {"a": torch.zeros(9999)}),
    "a.pt": lambda path: checkpoint.save_tensors(path, {"a": torch.zeros(9999)}),
    "a.json": lambda path: write_json(path, [0] * 9999),
    "a.jpg": lambda path: write_image(path, np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)),
    "a.png": lambda path: write_bitmask(path, *np.random.default_rng(0).integers(0, 255, (3, 90, 90))),
    "a.mp4": write_film,
    "000001": write_checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_writes_says_that_there_is_no_room_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, small_disk():
        WRITERS[name](tmp_path / name)
    file = tmp_path / name / "model.safetensors" if name == "000001" else tmp_path / name
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(file))
    assert names(tmp_path) == []


def test_leftovers_of_killed_processes_go_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", KILLED, target])
    (left,) = names(tmp_path)
    running = left.replace("a", "b", 1).replace(f"-{left.split('-')[-1]}", f"-{os.getppid()}_0.tmp.json")
    elsewhere = ".a.other-machine-1_0.tmp.json"
    foreign = ".a.1234.tmp.json"
    for name in (running, elsewhere, foreign):
        (tmp_path / name).touch()
    with atomic_write(target) as path:
        path.write_text("{}")
    assert names(tmp_path) == sorted([running, elsewhere, foreign, "a.json"])
    with run_lock(tmp_path):
        pass
    assert names(tmp_path) == sorted([running, foreign, "a.json"]), "under the lock no other machine can write here"


def test_a_lock_removes_leftovers_in_the_folders_of_the_run(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / f".000500.{platform.node()}-999999999_3.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").touch()
    with run_lock(tmp_path, ["checkpoints", "absent"]):
        assert names(tmp_path / "checkpoints") == []


def test_a_folder_serves_one_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    message = rf"{out} is in use by another run \(process {holder.pid} on .*\)\. Wait .* or choose another --out"
    with pytest.raises(ConfigError, match=message), run_lock(out):
        pass
    with run_lock(out, active=False):  # a process of that run
        pass
    assert names(out) == [LOCK]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run_lock(out):
        assert names(out) == [LOCK]
    assert names(out) == [], "a folder that was there before stays"


COMMANDS = {
    "train": ["train", "--preset", "test", "--data", "{data}", "--out"],
    "label": ["label", "{data}", "--backbone.no-frozen", "--out"],
    "predict": ["predict", "{data}", "--checkpoint", "none", "--out"],
    "demo": ["demo", "--out"],
    "data split": ["data", "split", "{data}", "--out"],
    "data demo": ["data", "demo"],
}


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_commands_keep_out_of_a_folder_in_use(
    argv: list[str], tmp_path: Path, demo_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with run_lock(out):
        assert main([*(part.format(data=demo_data[0]) for part in argv), str(out)]) == 2
        assert names(out) == [LOCK]
    assert f"mfvis: {out} is in use by another run (process {os.getpid()} on " in capsys.readouterr().err


def test_convert_keeps_out_of_a_run_in_use(tmp_path: Path, demo_data: tuple[Path, Path]) -> None:
    write_checkpoint(tmp_path / "000001")
    categories = tmp_path / "classes.json"
    write_json(categories, {"videos": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]})
    config = ConvertConfig(str(tmp_path / "000001"), tmp_path / "out", classes=str(categories))
    with run_lock(config.out), pytest.raises(ConfigError, match="is in use by another run"):
        convert.run(config)
    convert.run(config)
    assert names(config.out) == ["checkpoints"]


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with run_lock(tmp_path / "new" / "out"):
        pass
    assert names(tmp_path / "new") == []
    with pytest.raises(KeyError), run_lock(tmp_path / "out"):
        (tmp_path / "out" / "result").touch()
        raise KeyError
    assert names(tmp_path / "out") == ["result"]


def test_workers_do_not_hold_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    """A data loader's workers outlive their killed process by seconds, in which it must be possible to resume."""
    with_worker = HOLD.replace('print("held"', "import os; parent = os.fork()\n    if not parent: print(os.getpid()")
    holder = subprocess.Popen([sys.executable, "-c", with_worker, tmp_path], stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        with run_lock(tmp_path):
            os.kill(worker, 0)  # it is alive
    finally:
        os.kill(worker, signal.SIGKILL)
