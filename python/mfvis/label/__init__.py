"""Masks for box tracks. `mfvis.label` is this package and the function `mfvis.api.label` as well."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Python binds the attribute ``label`` of mfvis to this package whenever one of its modules is imported. The
    package is therefore callable, so that ``mfvis.label(...)`` works before and after."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from mfvis.api import label

        return label(*arguments, **settings)


sys.modules[__name__].__class__ = _CallablePackage
