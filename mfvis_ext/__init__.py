"""The operators of mfvis: mask-free video instance segmentation (MaskFreeVIS) as `torch.ops.mfvis.*`.

`import mfvis_ext` loads the compiled library and registers the operators. The documented functions, one module each in
`mfvis_ext.ops`, are re-exported here: ``mfvis_ext.box_tube_dice`` and so on. `mfvis_ext.reference` has the same
functions in plain PyTorch.

Gradients are of first order and of reverse mode: `backward`, `torch.autograd.grad`, `torch.utils.checkpoint` and hooks
on saved tensors work. Second derivatives, `torch.func.grad` and `jvp`, and forward mode raise. `torch.func.vmap` raises
in the three losses, and loops in the other operators.

In torch 2.15 and later a documented ValueError is a RuntimeError with the same message, because the stable ABI only
passes the message on.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import warnings
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError as error:
    raise ImportError("mfvis_ext needs PyTorch: `pip install 'torch>=2.10'`", name=__name__) from error

if tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
    raise ImportError(
        f"mfvis_ext needs torch >= 2.10, this is {torch.__version__}: `pip install --upgrade 'torch>=2.10'`",
        name=__name__,
    )

try:
    from mfvis_ext import _C  # type: ignore[attr-defined]
except ImportError as error:
    _reason = str(error)
    if importlib.util.find_spec("mfvis_ext._C") is None:  # Python would report a circular import
        _others = [file.name for folder in __path__ for file in Path(folder).glob("_C.*")]
        _reason = f"{_others[0]} is for another Python" if _others else "it was not built here"
    raise ImportError(
        f"the compiled part of mfvis_ext cannot be loaded ({_reason}); in a checkout build it with `pip install -e .`, "
        "else reinstall it with `pip install --force-reinstall --no-deps mfvis-ext`",
        name=__name__,
    ) from error

from mfvis_ext import ops
from mfvis_ext.mask_loss import MaskLossTerms, mask_loss_terms
from mfvis_ext.modules import Matches, TKLoss, tube_pairs

_C_info = _C.build_info()
__version__: str = _C_info["version"]
_cuda, _cuda_of_torch = _C_info["cuda"], torch.version.cuda
if _cuda and _cuda_of_torch and _cuda.split(".")[0] != _cuda_of_torch.split(".")[0]:
    _fitting = f"mfvis-ext=={_C_info['version'].split('+')[0]}+cu{_cuda_of_torch.replace('.', '')}"
    warnings.warn(
        f"mfvis_ext was built with CUDA {_cuda}, torch {torch.__version__} has CUDA {_cuda_of_torch}: its CUDA kernels "
        f"run only if the driver supports both; a matching build is `pip install '{_fitting}'`",
        stacklevel=2,
    )


def build_info() -> dict[str, Any]:
    """Build and environment information of the compiled library.

    Keys: version, compiler, torch_target (the oldest torch), torch_built_with, torch (now), cuda (toolkit or
    None), cuda_archs, cpu_capabilities (built), cpu_capability (in use; MFVIS_CPU_CAPABILITY forces a lower one).
    """
    return {**_C_info, "torch": torch.__version__}


__all__ = ["MaskLossTerms", "Matches", "TKLoss", "build_info", "mask_loss_terms", "ops", "tube_pairs"]
for _module in pkgutil.iter_modules(ops.__path__, "mfvis_ext.ops."):
    _operator = importlib.import_module(_module.name)
    for _name in _operator.__all__:
        globals()[_name] = getattr(_operator, _name)
        __all__.append(_name)
