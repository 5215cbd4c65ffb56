"""Builds mfvis_ext._C with CMake and Ninja. `pip install .`, or `python setup.py build_ext --inplace` in a checkout.

MFVIS_CUDA=auto|0|1   CUDA kernels: if nvcc is there and torch is one for CUDA (the default), never, or else fail.
TORCH_CUDA_ARCH_LIST  "8.0;9.0+PTX"; without it the GPU at hand, else all that we support and the toolkit knows.
MFVIS_WHEEL=1         a wheel to give away: its version ends in +cpu or +cu130, its kernels are for all GPUs.
MFVIS_EMULATE=1       also the CUDA kernels on the emulator of csrc/emulator, for tests without a GPU.
MFVIS_SANITIZE=address  with AddressSanitizer, see `make sanitize`.
MAX_JOBS              compilers at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

VERSION = "0.1.0"
TORCH_TARGET = "2.10"
"""The oldest torch that the binary loads in; it uses nothing of libtorch that is younger."""

ROOT = Path(__file__).resolve().parent


def fail(problem: str, remedy: str) -> None:
    raise SystemExit(f"mfvis-ext cannot be built: {problem}. {remedy}")


def version_pair(version: str) -> tuple[int, int]:
    """The first two numbers of "2.13.0+cu130"."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def wished(name: str) -> bool:
    """A switch of the environment. "yes" is refused, because it would be taken for no."""
    value = os.environ.get(name, "").strip() or "0"
    if value not in ("0", "1"):
        fail(f"{name} is {value!r}", "Expected 0 or 1")
    return value == "1"


def jobs_at_a_time() -> str:
    value = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not re.fullmatch(r"[1-9][0-9]*", value):
        fail(f"MAX_JOBS is {value!r}", "Expected a number of compilers, 1 or more")
    return value


@dataclass(frozen=True)
class Torch:
    """An installed torch, looked at without importing it."""

    version: str
    directory: Path


def find_torch() -> Torch | None:
    """The torch of this environment, or else of the one outside pip's build isolation.

    Isolation hides the installed torch, and fetching another would cost gigabytes. The binary does not depend on which
    torch it was built with, so the one outside serves: isolation works by PYTHONPATH, without which one looks past it.
    """
    look = (
        "import importlib.util as u, importlib.metadata as m, json, os\n"
        "s = u.find_spec('torch')\n"
        "print(json.dumps([m.version('torch'), os.path.dirname(s.origin)] if s and s.origin else None))"
    )
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    for environment in (dict(os.environ), outside):
        done = subprocess.run(
            [sys.executable, "-c", look], env=environment, cwd=ROOT.anchor, capture_output=True, text=True
        )
        found = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None
        if found:
            return Torch(found[0], Path(found[1]))
    return None


def find_program(name: str, remedy: str) -> str:
    """A program on the PATH or next to this Python, where pip puts cmake and ninja."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    program = shutil.which(name, path=path)
    if program is None:
        fail(f"{name} is missing", remedy)
    return program


def find_compiler() -> str:
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        fail(f"no C++ compiler ({', '.join(names)})", "Install one: `apt install g++`, `dnf install gcc-c++`")
    return compiler


def check_headers() -> None:
    """Linux distributions keep Python's headers in a package of their own, which CMake would not name."""
    folders = dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("include", "platinclude"))
    if not any((folder / "Python.h").is_file() for folder in folders):
        remedy = "Install Python's headers: `apt install python3-dev`, `dnf install python3-devel`"
        fail(f"Python.h is missing in {' and '.join(map(str, folders))}", remedy)


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [str(Path(home) / "bin")] if home else []
    return shutil.which("nvcc", path=os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))


@dataclass(frozen=True)
class Cuda:
    """Decision about the CUDA kernels."""

    nvcc: str | None
    """Compiler; None builds without CUDA kernels."""
    reason: str


def choose_cuda(torch: Torch) -> Cuda:
    """Obeys MFVIS_CUDA. "1" never ends in a CPU build, and needs no CUDA torch: the binary serves any."""
    wish = os.environ.get("MFVIS_CUDA", "").strip().lower() or "auto"
    if wish not in ("auto", "0", "1"):
        fail(f"MFVIS_CUDA is {wish!r}", "Expected auto, 0 or 1")
    if wish == "0":
        return Cuda(None, "MFVIS_CUDA=0")
    nvcc = find_nvcc()
    if wish == "auto" and not has_cuda(torch):
        return Cuda(None, f"torch {torch.version} has no CUDA; MFVIS_CUDA=1 builds the kernels all the same")
    if nvcc is None and wish == "1":
        fail("MFVIS_CUDA=1, but nvcc was not found", "Install the CUDA toolkit, or point CUDA_HOME to it")
    return Cuda(nvcc, f"MFVIS_CUDA={wish}" if nvcc else "nvcc was not found")


def has_cuda(torch: Torch) -> bool:
    return any((torch.directory / "lib").glob("libtorch_cuda*"))


ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
"""The GPUs of a wheel, as far as the toolkit knows them; the last one also as PTX, for GPUs to come."""


def cuda_architectures(nvcc: str) -> list[str]:
    """CMake's names, "80-real" or "90"."""
    at_hand = not wished("MFVIS_WHEEL") and shutil.which("nvidia-smi")
    wish = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";")
    names = [name for name in wish.split(";") if name]
    if not names and at_hand:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        names = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if not names:
        known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
        names = [name for name in ARCHITECTURES if "sm_" + name.replace(".", "") in known]
        if not names:
            fail(f"{nvcc} compiles for none of {', '.join(ARCHITECTURES)}", "Set TORCH_CUDA_ARCH_LIST")
        names[-1] += "+PTX"
    for name in names:
        if not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", name):
            fail(f"TORCH_CUDA_ARCH_LIST has {name!r}", 'Expected compute capabilities such as "8.0;9.0+PTX"')
    return [name.removesuffix("+PTX").replace(".", "") + ("" if name.endswith("+PTX") else "-real") for name in names]


def version() -> str:
    """A wheel says for which CUDA it was built. Not for which torch: the stable ABI makes that unnecessary."""
    if not wished("MFVIS_WHEEL"):
        return VERSION
    torch = find_torch()
    nvcc = choose_cuda(torch).nvcc if torch else None
    if nvcc is None:
        return f"{VERSION}+cpu"
    release = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    major, minor = re.findall(r"release (\d+)[.](\d+)", release)[0]
    return f"{VERSION}+cu{major}{minor}"


class CMakeBuild(build_ext):
    """One extension, built by CMakeLists.txt."""

    def run(self) -> None:
        torch = find_torch()
        if torch is None:
            fail("torch is missing", f"Install it first: `pip install 'torch>={TORCH_TARGET}'`")
        if version_pair(torch.version) < version_pair(TORCH_TARGET):
            fail(f"torch {torch.version} is too old", f"Upgrade it: `pip install 'torch>={TORCH_TARGET}'`")
        remedy = "Install it: `pip install cmake ninja`"
        cmake, ninja, compiler = find_program("cmake", remedy), find_program("ninja", remedy), find_compiler()
        check_headers()
        try:
            import pybind11
        except ImportError:
            fail("pybind11 is missing", "Install it: `pip install pybind11`")
        cuda = choose_cuda(torch)
        architectures = cuda_architectures(cuda.nvcc) if cuda.nvcc else []
        emulate, jobs = wished("MFVIS_EMULATE"), jobs_at_a_time()
        sanitizer = os.environ.get("MFVIS_SANITIZE", "")
        if sanitizer not in ("", "address"):
            fail(f"MFVIS_SANITIZE is {sanitizer!r}", "Expected address, or nothing")

        major, minor = version_pair(TORCH_TARGET)
        build = Path(self.build_temp).resolve() / "cmake"
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": ninja,
            "CMAKE_CXX_COMPILER": compiler,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": build / "module",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "MFVIS_VERSION": self.distribution.get_version(),
            "MFVIS_TORCH_TARGET": TORCH_TARGET,
            "MFVIS_TORCH_TARGET_VERSION": f"0x{major:02x}{minor:02x}000000000000",
            "MFVIS_TORCH_BUILT_WITH": torch.version,
            "MFVIS_TORCH_INCLUDE": torch.directory / "include",
            "MFVIS_TORCH_LIB": torch.directory / "lib",
            "MFVIS_CUDA": "ON" if cuda.nvcc else "OFF",
            "MFVIS_EMULATE": "ON" if emulate else "OFF",
            "MFVIS_SANITIZE": sanitizer,
        }
        if cuda.nvcc:
            settings["CMAKE_CUDA_COMPILER"] = cuda.nvcc
            settings["CMAKE_CUDA_ARCHITECTURES"] = ";".join(architectures)
        kernels = f"{cuda.nvcc}, architectures {', '.join(architectures)}" if cuda.nvcc else "no"
        print(
            f"mfvis-ext {self.distribution.get_version()}\n"
            f"  torch      {torch.version} in {torch.directory}; the binary loads in torch >= {TORCH_TARGET}\n"
            f"  compiler   {compiler}, {jobs} jobs (MAX_JOBS)\n"
            f"  CUDA       {kernels} ({cuda.reason})\n"
            f"  CPU        baseline, on x86-64 also avx2 and avx512; chosen when the module is loaded\n"
            f"  emulator   {'yes' if emulate else 'no'} (MFVIS_EMULATE)",
            flush=True,
        )

        build.mkdir(parents=True, exist_ok=True)
        options = [f"-D{name}={value}" for name, value in settings.items()]
        self.call([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options])
        self.call([cmake, "--build", str(build), "--parallel", jobs])
        # A rename, so that a Python that has the old library open keeps it.
        library = Path(self.get_ext_fullpath("mfvis_ext._C")).resolve()
        library.parent.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_name(f".{library.name}.{os.getpid()}")
        shutil.copyfile(build / "module" / library.name, unfinished)
        os.replace(unfinished, library)

    def call(self, command: list[str]) -> None:
        if subprocess.run(command).returncode:
            fail(f"`{' '.join(command[:3])} ...` failed", "The reason stands above")


torch_to_fetch = [] if find_torch() else [f"torch>={TORCH_TARGET}"]

setup(
    version=version(),
    packages=find_packages(include=["mfvis_ext*"]) + find_packages("python"),
    package_dir={"mfvis": "python/mfvis"},
    package_data={"mfvis": ["presets/*.yaml", "py.typed"], "mfvis_ext": ["py.typed"]},
    ext_modules=[Extension("mfvis_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=torch_to_fetch,
    zip_safe=False,
)
