"""setup.py: what it decides, and what it says when something is missing. The build itself ran before the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import mfvis_ext

ROOT = Path(__file__).resolve().parents[1]


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`build_ext` into an empty directory, with these environment variables."""
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_build_info():
    info = mfvis_ext.build_info()
    assert info["version"] == mfvis_ext.__version__
    assert info["torch"] == torch.__version__
    assert info["torch_target"] == "2.10"
    assert info["cpu_capability"] in info["cpu_capabilities"]
    assert info["cpu_capabilities"][0] == "baseline"
    assert (info["cuda"] is None) == (info["cuda_archs"] == "")


def test_the_library_is_bound_to_no_python_library_of_torch():
    """The promise of the stable ABI: libtorch_python and libc10 are not needed, whatever torch it was built with."""
    library = Path(mfvis_ext._C.__file__).read_bytes()
    assert b"libtorch_cpu.so" in library
    assert b"libtorch_python.so" not in library
    assert b"libc10.so" not in library
    assert str(Path(torch.__file__).parent).encode() not in library, "it finds torch by a path of the build machine"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MFVIS_CUDA": "yes"}, "MFVIS_CUDA is 'yes'. Expected auto, 0 or 1"),
        ({"MFVIS_EMULATE": "yes"}, "MFVIS_EMULATE is 'yes'. Expected 0 or 1"),
        ({"MFVIS_SANITIZE": "yes"}, "MFVIS_SANITIZE is 'yes'. Expected address, or nothing"),
        ({"MAX_JOBS": "0"}, "MAX_JOBS is '0'. Expected a number of compilers, 1 or more"),
        ({"CXX": "no-such-compiler"}, r"no C\+\+ compiler \(no-such-compiler\). Install one"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, environment, message):
    done = build(tmp_path, **environment)
    assert done.returncode != 0
    assert re.search(f"mfvis-ext cannot be built: {message}", done.stderr)
    assert "Traceback" not in done.stderr


def test_cuda_is_never_left_out_in_silence(tmp_path):
    """MFVIS_CUDA=1 without nvcc, or without a CUDA kernel to compile, is an error."""
    done = build(tmp_path, MFVIS_CUDA="1", CUDA_HOME="", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "mfvis-ext cannot be built: " in done.stderr


@pytest.mark.parametrize(
    ("version", "message"), [("2.9.1", "torch 2.9.1 is too old. Upgrade it: `pip install 'torch>=2.10'`")]
)
def test_old_torch(tmp_path, version, message):
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    information = tmp_path / "site" / f"torch-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    done = build(tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode != 0
    assert message in done.stderr


def test_a_source_distribution_has_what_the_build_needs(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.*")}
    assert sources | {"CMakeLists.txt", "setup.py", "pyproject.toml", "python/mfvis/presets/demo.yaml"} <= names


def test_missing_headers(tmp_path):
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        f"import sysconfig; get = sysconfig.get_path\nsysconfig.get_path = lambda name, *a, **k: "
        f"{str(tmp_path)!r} if 'include' in name else get(name, *a, **k)\n"
    )
    done = build(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert f"Python.h is missing in {tmp_path}. Install Python's headers: `apt install python3-dev`" in done.stderr


def test_a_missing_library_is_one_sentence(tmp_path):
    """A checkout that was never built: `import mfvis_ext` says how to build it."""
    (tmp_path / "mfvis_ext").symlink_to(tmp_path / "source")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "__init__.py").write_bytes((ROOT / "mfvis_ext" / "__init__.py").read_bytes())
    # An editable install would find the submodules of the real package.
    editable = "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]"
    code = f"import sys; {editable}; sys.path.insert(0, {str(tmp_path)!r}); import mfvis_ext"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the compiled part of mfvis_ext cannot be loaded (it was not built here)" in done.stderr
    assert "pip install -e ." in done.stderr
    (tmp_path / "source" / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "(_C.cpython-27-x86_64-linux-gnu.so is for another Python)" in done.stderr


def test_another_cuda_than_torch_has_is_one_sentence(tmp_path):
    """A build for CUDA 13 with a torch for CUDA 12 says so, and which build fits."""
    code = (
        "import torch; torch.version.cuda = '12.8'\n"
        "from mfvis_ext import _C\n"
        "import sys; del sys.modules['mfvis_ext']\n"
        "original = _C.build_info; _C.build_info = lambda: {**original(), 'cuda': '13.0', 'version': '1.2+cu130'}\n"
        "import warnings; warnings.simplefilter('error')\n"
        "import mfvis_ext\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "mfvis_ext was built with CUDA 13.0" in done.stderr
    assert "`pip install 'mfvis-ext==1.2+cu128'`" in done.stderr
