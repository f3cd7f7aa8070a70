"""ONNX models as torch functions and modules; `lsc_graph.to_torch(model)` calls `module.to_torch`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Importing this package binds it to the name of the public function, so it answers calls as well."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from lsc_graph.to_torch.module import to_torch

        return to_torch(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
