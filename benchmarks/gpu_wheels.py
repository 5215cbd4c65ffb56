"""Wheels for the GPU check on a machine without network: `gpu_check.py --prepare` and `--wheels`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu-check"
SITE = WORK / "site"
PYTHON = sys.executable
PATH = os.pathsep.join(
    [
        *(str(Path(os.environ[home]) / "bin") for home in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(home)),
        *[str(Path(PYTHON).parent), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"],
    ]
)
BROUGHT = ("av", "pycocotools", "tyro", "docstring-parser", "typeguard", "setuptools>=77,<82")
"""Packages that `--prepare` downloads. An older setuptools cannot read pyproject.toml; PyTorch does not support a newer
one."""


def has_library() -> bool:
    """True if there is a library for this Python, from a wheel or an earlier build."""
    return (ROOT / "mfvis_ext" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").is_file()


def prepare(folder: Path, python: str, architecture: str) -> int:
    """Build the wheel of the kernels for another Python, and download those of the packages. Needs nvcc and network."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
    if asked.returncode:
        print(f"gpu-check: --python {python} is not a Python", file=sys.stderr)
        return 1
    version = asked.stdout.decode().strip()
    # The other Python borrows the build tools and PyTorch's headers of this one.
    borrowed = {"PYTHONPATH": sysconfig.get_path("purelib"), "PATH": PATH, "MFVIS_CUDA": "1"}
    for command, environment in (
        (
            [
                python,
                "setup.py",
                "build",
                "--build-base",
                str(WORK / "wheel"),
                "bdist_wheel",
                "--dist-dir",
                str(folder),
            ],
            {**os.environ, **borrowed, "TORCH_CUDA_ARCH_LIST": architecture},
        ),
        (
            [PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", version]
            + [
                "--platform",
                "manylinux_2_28_x86_64",
                "--platform",
                "manylinux2014_x86_64",
                "-d",
                str(folder),
                *BROUGHT,
            ],
            dict(os.environ),
        ),
    ):
        if subprocess.run(command, cwd=ROOT, env=environment).returncode:
            print(f"gpu-check: `{' '.join(command[:4])} ...` failed; the reason stands above", file=sys.stderr)
            return 1
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1e6
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels for Python {version}, {size:.0f} MB")
    return 0


def install(folder: Path) -> str:
    """Put the library of the wheels in place and install the other packages into SITE. Returns a problem, or ""."""
    wheels = sorted(folder.glob("*.whl"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for wheel in [wheel for wheel in wheels if wheel.name.startswith("mfvis_ext-")]:
        wheels.remove(wheel)
        with zipfile.ZipFile(wheel) as archive:
            if f"mfvis_ext/_C{suffix}" not in archive.namelist():
                return f"{wheel} is for another Python; expected mfvis_ext/_C{suffix}, see --prepare"
            archive.extract(f"mfvis_ext/_C{suffix}", ROOT)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(SITE)]
    if wheels and subprocess.run([*pip, *map(str, wheels)]).returncode:
        return f"{folder} has wheels that this Python cannot install; prepare them with --python for its version"
    sys.path.insert(0, str(SITE))
    return "" if list(folder.glob("*.whl")) else f"{folder} has no wheels; see --prepare"
