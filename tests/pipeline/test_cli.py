"""The command line: one message and a status for whatever the user does, no traceback."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import docstring_parser
import pytest
import torch
import yaml
from mfvis import doctor
from mfvis.cli import COMMANDS, Command, _load, main

import mfvis_ext


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"mfvis {name} " in listed for name in COMMANDS)


def test_help_of_data_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"mfvis {name}" in listed for name in COMMANDS if name.startswith("data "))
    assert "mfvis train" not in listed


def test_help_of_a_flag_is_one_paragraph(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as done:
        main(["label", "--help"])
    assert done.value.code == 0
    words = capsys.readouterr().out.split("--shared-steps INT")[1].split()
    text = " ".join(word for word in words if set(word) - set("│╭╮╰╯─"))
    assert "which is trained on the masks of all videos and ensembled with the" in text


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from mfvis.cli import main; main([]); print(sorted({'torch', 'tyro', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_of_a_command_imports_no_torch() -> None:
    script = f"""
import sys
from mfvis.cli import main
for name in {list(COMMANDS)}:
    try:
        main([*name.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, name
    assert not {{"torch", "mfvis_ext", "scipy", "transformers"}} & set(sys.modules), (name, sorted(sys.modules))
print("all commands")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "all commands", done.stderr


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as done:
        main([*name.split(), "--help"])
    assert done.value.code == 0
    return capsys.readouterr().out


def undocumented(config: type, prefix: str = "") -> list[str]:
    """The flags of a configuration without a help text."""
    hints = typing.get_type_hints(config, include_extras=True)
    texts = {}
    for kind in config.__mro__[:-1]:
        texts |= {text.arg_name: text.description for text in docstring_parser.parse_from_object(kind).params}
    missing = []
    for f in dataclasses.fields(config):
        kind = typing.get_type_hints(config)[f.name]
        if dataclasses.is_dataclass(kind):
            missing += undocumented(kind, f"{prefix}{f.name}.")
        elif not texts.get(f.name) and not any(
            hasattr(mark, "help") for mark in getattr(hints[f.name], "__metadata__", ())
        ):
            missing.append(f"{prefix}{f.name}")
    return missing


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.config])
def test_every_flag_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert undocumented(_load(COMMANDS[name].config)) == []
    assert "the paper's." not in help_of(name, capsys)


def test_label_shows_the_flags_that_act_with_their_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    text = help_of("label", capsys)
    for flag in ("classification", "no-object", "match", "masks", "boxes", "released-code"):
        assert f"--loss.{flag}" not in text
    for flag, value in (("short-side", "270"), ("num-models", "3"), ("optim.lr", "0.005"), ("loss.background", "1.0")):
        assert re.search(rf"--{flag} .*\(default: {value}\)", text)


def test_demo_takes_flags_that_its_help_does_not_list(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("demo", capsys)
    assert "--twin" in text and "--synthetic" not in text and "--model" not in text
    assert main(["demo", "--synthetic.videos", "3", "--train.steps", "77", "--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["synthetic"]["videos"] == 3 and shown["train"]["steps"] == 77


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_its_flags(name: str) -> None:
    command = COMMANDS[name]
    hints = typing.get_type_hints(_load(command.run))
    hints.pop("return", None)
    assert list(hints.values()) == ([_load(command.config)] if command.config else [])


def test_errors_of_flags_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {lr: -1}")
    argv = ["train", "--preset", f"test,{tmp_path / 'mine.yaml'}", "--data", "x.json"]
    script = f"import sys; from mfvis.cli import main; print(main({argv})); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"] and "train.lr is -1" in done.stderr


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert re.fullmatch(r"mfvis (\d+\.\d+.*|of a checkout that is not installed)\n", capsys.readouterr().out)


def test_python_m_mfvis_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "mfvis", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean 'mfvis train'?" in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "no command 'trian', did you mean 'mfvis train'?"),
        (["data"], "no command 'data'"),
        (["data", "chek"], "did you mean 'mfvis data check'?"),
        (["train", "--preset", "tset"], "no preset 'tset', did you mean test?"),
        (["train", "--preset", "test", "--data", "gone.json"], "gone.json"),
        (["train", "--preset", "test", "--data", "gone.json", "--train.lr", "-1"], "train.lr is -1"),
        (["replay", "gone"], "gone: no batch to replay"),
    ],
)
def test_errors_are_one_message_and_status_two(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("mfvis: ") and message in error and "Traceback" not in error


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["data", "demo", str(tmp_path / "file"), "--videos", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mfvis: cannot read or write (Not a directory: ") and "Check the path" in error


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["data", "--help"], ["train", "--help"], ["doctor", "-h"]])
def test_a_reader_that_has_seen_enough_hears_no_complaint(argv: list[str]) -> None:
    process = subprocess.Popen([sys.executable, "-m", "mfvis", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1


@pytest.mark.parametrize(("output", "status"), [("/dev/full", 2), (None, 0)])
def test_output_that_cannot_be_written(output: str | None, status: int) -> None:
    shell = f"{sys.executable} -m mfvis --help " + (f"> {output}" if output else ">&-")
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.returncode == status and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert ("No space left on device" in done.stderr) == (output is not None)


def test_dry_run_shows_derived_numbers_and_trains_nothing(
    demo_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--preset", "test", "--data", str(demo_data[0]), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "batch 2 = 1 clip x 1 process x 2 forward passes" in printed
    assert "epochs 3.0 = 12 clips / 4 videos" in printed
    assert "hidden_dim: 16" in printed
    assert not (tmp_path / "run").exists()


def test_missing_package_is_answered_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_av(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr("mfvis.cli._call", without_av)
    assert main(["train"]) == 2
    assert "needs av, which is not installed: pip install 'mfvis-ext[train]'" in capsys.readouterr().err


def test_operators_that_cannot_be_loaded_are_one_message(tmp_path: Path) -> None:
    """A checkout that was never built, as a newcomer meets it."""
    operators = tmp_path / "mfvis_ext"
    operators.mkdir()
    (operators / "__init__.py").write_bytes(Path(mfvis_ext.__file__).read_bytes())
    package = Path(doctor.__file__).parents[1]
    # An editable install would find the submodules of the real package.
    editable = "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]"
    paths = f"sys.path[:0] = [{str(tmp_path)!r}, {str(package)!r}]"
    argv = ["label", "x.json", "--backbone.weights", "x"]
    code = f"import sys; {editable}; {paths}; from mfvis.cli import main; sys.exit(main({argv}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("mfvis: the compiled part of mfvis_ext cannot be loaded (it was not built here)")
    assert "Traceback" not in done.stderr


def test_a_command_ends_its_process_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    assert main(["doctor"]) == 0
    assert not torch.distributed.is_initialized()


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "train", Command("broken", "mfvis.no_such_module:run"))
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


def test_doctor_reports_what_is_there_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "nothing")
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for word in ("python", "torch", "mfvis_ext", "cpu_capability", "GPU", "transformers"):
        assert word in report
    assert "no-such-package missing" in " ".join(report.split())


def fake_nvml(cuda: int) -> SimpleNamespace:
    """NVML with one L4, and a driver for this CUDA: 12040 is 12.4."""
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "550.1",
        nvmlSystemGetCudaDriverVersion_v2=lambda: cuda,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=2**30, total=2**34),
        nvmlDeviceGetCudaComputeCapability=lambda gpu: (8, 9),
        nvmlDeviceGetName=lambda gpu: "L4",
    )


@pytest.mark.parametrize(("driver", "old"), [(12040, True), (13000, False), (14020, False)])
def test_doctor_names_a_driver_that_is_too_old(
    driver: int, old: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(driver))
    built = mfvis_ext.build_info() | {"cuda": "13.0.48", "cuda_archs": "90"}
    monkeypatch.setattr(mfvis_ext, "build_info", lambda: built)
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert f"driver        550.1, for CUDA {driver // 1000}.{driver % 1000 // 10}\n" in report
    assert ("built with CUDA 13.0.48, which needs a newer driver: update it" in report) == old
    assert ("mfvis-ext==0.1.0+cu126" in report) == old


@pytest.mark.parametrize(
    ("script", "distribution", "said"),
    [
        ("from mfvis.cli import main", None, []),
        (None, None, ["mfvis is not on the PATH: call python -m mfvis"]),
        ("from src.mfvis import __main__", None, ["command of another program: call mfvis-ext or python -m mfvis"]),
        ("from src.mfvis import __main__", "1.0.5", ["mfvis 1.0.5 is another project", "pip uninstall mfvis"]),
        ("from mfvis.cli import main", "1.0.5", ["mfvis 1.0.5 is another project", "pip uninstall mfvis"]),
    ],
)
def test_doctor_notices_a_foreign_command(
    script: str | None,
    distribution: str | None,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if script:
        (tmp_path / "mfvis").write_text(f"#!{sys.executable}\n{script}\n")
        (tmp_path / "mfvis").chmod(0o755)
    if distribution:
        info = tmp_path / f"mfvis-{distribution}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mfvis\nVersion: {distribution}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert all(text in report for text in said)
    assert ("another p" in report) == bool(script and said)


def test_the_command_has_two_names() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^(.*) = "mfvis.cli:main"$', project, re.MULTILINE) == ["mfvis", "mfvis-ext"]


@pytest.mark.parametrize(
    ("archs", "runs"),
    [
        *((archs, True) for archs in ("75-real 80-real 90-real 120", "80-real", "86", "89-real", "75", "89a-real", "")),
        *((archs, False) for archs in ("75-real", "90 120", "80a")),
    ],
)
def test_doctor_names_a_gpu_that_nothing_was_built_for(
    archs: str, runs: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml = fake_nvml(13000)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    built = mfvis_ext.build_info() | {"cuda_archs": archs}
    monkeypatch.setattr(mfvis_ext, "build_info", lambda: built)
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert "L4, sm_89, 1.0 of 16.0 GiB used" in report
    remedy = f"built for other GPUs, {archs}: build it here, in a checkout, with `MFVIS_CUDA=1 pip install -e .`"
    assert (remedy in report) == (not runs)


def test_doctor_has_no_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["doctor", "--help"]), main(["doctor", "--dry-run"])) == (0, 2)
    assert capsys.readouterr().out.count("mfvis doctor has no flags") == 2


def test_doctor_answers_where_the_operators_do_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mfvis_ext", None)  # importing it raises ImportError
    assert main(["doctor"]) == 1
    assert "mfvis_ext     does not load" in capsys.readouterr().out


def test_a_dry_run_of_label_says_time_and_disk(demo_data, tmp_path, capsys):
    argv = ["label", str(demo_data[1]), "--out", str(tmp_path / "labels"), "--window", "4", "--num-models", "3"]
    assert main([*argv, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "videos 2, frames 12, boxes " in said and "windows 4 of 4 frames, each with 3 models x 80 steps" in said
    assert re.search(r"time about 0:\d\d:\d\d on two CPU cores = .* training", said)
    assert re.search(r"disk about \d+ MiB = .* overlays", said) and not (tmp_path / "labels").exists()
