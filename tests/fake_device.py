"""A device that is none: tensors on it live on the CPU, and every wait of the host for them is counted.

It calls itself "meta", a device that every build of torch knows; operators on it are run for real. As on
CUDA, no operator takes tensors of both sides, but for copies, indices, and numbers without axes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
_TAKES_BOTH = ("_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_")
_WAITS = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique")


class Held(Tensor):
    """A tensor on the device; `held` is its content."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        kept = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=NAME
        )
        kept.held = held
        assert isinstance(kept, Held)
        return kept

    def __init__(self, held: Tensor) -> None:
        pass

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the device's mode")


class FakeDevice(TorchDispatchMode):
    """Runs operators on tensors of the device; `waits` counts what the host had to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        values, _ = tree_flatten((args, kwargs))
        is_held = any(isinstance(value, Held) for value in values)
        name = func.overloadpacket.__name__
        if is_held and name not in _TAKES_BOTH and any(map(_is_elsewhere, values)):
            raise RuntimeError(f"{func} takes tensors of two devices")
        wanted = kwargs.get("device")
        stays = is_held if wanted is None else torch.device(wanted).type == NAME
        if is_held and (name in _WAITS or (name == "_to_copy" and not stays) or _picks(name, values)):
            self.waits[name] += 1
        if stays and wanted is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map(
            lambda value: value.held if isinstance(value, Held) else value, (args, kwargs)
        )
        out = func(*args, **kwargs)
        if not stays:
            return out
        if name.endswith("_") and not name.endswith("__"):  # in place: the same tensor as before
            return values[0]
        return tree_map(lambda value: Held(value) if isinstance(value, Tensor) else value, out)


def _is_elsewhere(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Held) and value.dim() > 0


def _picks(name: str, values: list[Any]) -> bool:
    """Whether an operator picks elements by a mask on the device: how many, the host must learn first."""
    return name in ("index", "index_put", "index_put_") and any(
        isinstance(value, Held) and value.dtype == torch.bool for value in values[1:]
    )
