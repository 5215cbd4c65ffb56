"""`python tests/check_wheel.py WHEEL [TORCH ...]`: does the wheel hold what its users need, and work for them?

Looks at what the library in the wheel is bound to, then, for each TORCH ("2.10.*" and the newest, by
default), makes a fresh environment with that torch, installs the wheel without its sources next to it, and runs the
operators' tests there. Needs pip and its index; takes minutes, most of them for torch itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("libtorch", "libc10", "libcudart", "libcuda", "libnv")
"""Libraries of torch and CUDA, which must not be in the wheel."""


def bound_to(library: Path) -> list[str]:
    """The shared libraries that the dynamic loader will look for."""
    read = subprocess.run(["readelf", "--dynamic", str(library)], capture_output=True, text=True, check=True).stdout
    return [line.split("[")[1].rstrip("]") for line in read.splitlines() if "(NEEDED)" in line]


def check_contents(wheel: Path, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(directory)
    bundled = [name for name in names if Path(name).name.startswith(FOREIGN)]
    assert not bundled, f"{wheel.name} carries {bundled}"
    (library,) = [directory / name for name in names if name.startswith("mfvis_ext/_C.")]
    needed = bound_to(library)
    strange = [n for n in needed if n.startswith(FOREIGN) and n not in ("libtorch.so", "libtorch_cpu.so")]
    assert not strange, f"{library.name} needs {strange}; expected no more of torch than libtorch_cpu, cudart static"
    emulated = "emulated" if b"the threads of a block wait for each other" in library.read_bytes() else ""
    assert not emulated, f"{library.name} holds the emulator; build without MFVIS_EMULATE"
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, needs {', '.join(needed)}", flush=True)


def check_with(wheel: Path, torch: str, directory: Path) -> None:
    """The operators' tests in a fresh environment. CalledProcessError if one fails."""
    venv.create(directory / "env", with_pip=True)
    python = directory / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, f"torch=={torch}" if torch != "newest" else "torch", "setuptools"], check=True)
    subprocess.run([*install, str(wheel), "pytest", "hypothesis"], check=True)
    skipped = shutil.ignore_patterns("__pycache__", "test_emulated.py", "test_emulator.py")
    shutil.copytree(ROOT / "tests" / "ops", directory / "tests" / "ops", ignore=skipped)
    shutil.copy(ROOT / "README.md", directory)  # Its example is one of the tests.
    show = "import mfvis_ext; i = mfvis_ext.build_info(); print(i['version'], 'in torch', i['torch'])"
    subprocess.run([str(python), "-c", show], cwd=directory, check=True)
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "-o", "markers=cuda: GPU"]
    subprocess.run([*tests, "tests/ops"], cwd=directory, check=True)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        check_contents(wheel, Path(directory))
    for torch in sys.argv[2:] or ["2.10.*", "newest"]:
        with tempfile.TemporaryDirectory() as directory:
            check_with(wheel, torch, Path(directory))


if __name__ == "__main__":
    main()
