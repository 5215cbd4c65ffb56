"""``mfvis doctor``: shows build and environment information, and how to install missing packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from mfvis.text import counted

PACKAGES = {
    "transformers": "backbones",
    "accelerate": "training",
    "safetensors": "checkpoints",
    "scipy": "matching",
    "pycocotools": "masks in JSON",
    "av": "video files",
    "pillow": "images",
    "pyyaml": "presets",
    "tqdm": "progress bars",
    "tyro": "flags",
    "docstring-parser": "help texts",
    "huggingface-hub": "downloads of weights",
    "nvidia-ml-py": "the GPU's state",
    "tensorboard": "curves, optional",
}
IMPORTED_AS = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "nvidia-ml-py": "pynvml",
    "docstring-parser": "docstring_parser",
    "huggingface-hub": "huggingface_hub",
}


def pip_line(module: str) -> str | None:
    """Command that installs the package of a missing module; None if mfvis does not depend on it."""
    top = module.partition(".")[0]
    package = next((name for name, imported in IMPORTED_AS.items() if imported == top), top)
    if package == "tensorboard":
        return "pip install tensorboard"
    if package in PACKAGES:
        return "pip install 'mfvis-ext[train]'"
    return "pip install mfvis-ext" if package == "mfvis_ext" else None


def run() -> int:
    """Print the report; returns status 1 if the operators or torch do not load, else 0."""
    print(f"python        {platform.python_version()} at {sys.executable}, {platform.machine()} {platform.system()}")
    _command()
    built = _operators() if _torch() else None
    _gpus(built or {})
    print("packages")
    for package, purpose in PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = f"missing: {pip_line(package)}"
        print(f"  {package:<16} {version:<12} {purpose}")
    return 0 if built else 1


def _command() -> None:
    """The command ``mfvis``, which the project of that name on PyPI, about fuzzy logic, installs as well."""
    path = shutil.which("mfvis")
    print(f"command       {path or 'mfvis is not on the PATH: call python -m mfvis'}")
    foreign = next(iter(importlib.metadata.distributions(name="mfvis")), None)
    if foreign is not None:
        print(f"  the installed distribution mfvis {foreign.version} is another project with a command mfvis:")
        print("  pip uninstall mfvis, then install mfvis-ext again; until then call mfvis-ext or python -m mfvis")
    elif path and b"mfvis.cli" not in Path(path).read_bytes():
        print("  this is the command of another program: call mfvis-ext or python -m mfvis instead")


def _torch() -> bool:
    try:
        import torch
    except ImportError as error:
        print(f"torch         does not load: {error}")
        return False
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    print(f"torch         {torch.__version__}, {cuda}, {counted(torch.get_num_threads(), 'thread')}")
    print(f"CPU           {torch.backends.cpu.get_cpu_capability()} as torch sees it")
    return True


def _operators() -> dict[str, Any] | None:
    try:
        mfvis_ext = importlib.import_module("mfvis_ext")
        built = mfvis_ext.build_info()
    except (ImportError, AttributeError, OSError) as error:
        print(f"mfvis_ext     does not load: {error}")
        return None
    print("mfvis_ext")
    for name, value in built.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"  {name:<12}  {text if text not in ('', None) else 'none'}")
    return built


def _driver(pynvml: Any, built_for: str | None) -> None:
    """Print the driver; warns if it is too old for operators built with CUDA `built_for`."""
    number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    cuda = number // 1000, number % 1000 // 10
    print(f"driver        {pynvml.nvmlSystemGetDriverVersion()}, for CUDA {cuda[0]}.{cuda[1]}")
    if built_for and int(built_for.split(".")[0]) > cuda[0]:
        version = importlib.import_module("mfvis_ext").__version__.split("+")[0]
        print(f"  mfvis_ext was built with CUDA {built_for}, which needs a newer driver: update it, or install")
        print(f"  a build for this one with `pip install --force-reinstall --no-deps mfvis-ext=={version}+cu126`")


def _gpus(built: dict[str, Any]) -> None:
    """Print the driver and the GPUs, and on which of them the built operators do not run."""
    archs = built.get("cuda_archs", "")
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # the library's error class is unavailable without the library
        print(f"GPU           none that can be asked ({error})")
        return
    try:
        _driver(pynvml, built.get("cuda"))
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
            used, total = memory.used / 2**30, memory.total / 2**30
            name = pynvml.nvmlDeviceGetName(gpu)
            print(f"GPU {index:<10}{name}, sm_{major}{minor}, {used:.1f} of {total:.1f} GiB used")
            if archs and not importlib.import_module("mfvis.device").runs_on(archs, major, minor):
                command = "MFVIS_CUDA=1 pip install -e ."
                print(f"  mfvis_ext was built for other GPUs, {archs}: build it here, in a checkout, with `{command}`")
    finally:
        pynvml.nvmlShutdown()
