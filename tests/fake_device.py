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
from torch.utils._pytree import tree_map_only

NAME = "meta"
# Whose result the host reads, or whose result's size.
_WAITS = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "_linalg_check_errors",
)
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class Held(Tensor):
    """A tensor on the device; `held` is its content."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        # What is conjugate, negative or zero only by a flag would be read without it in here.
        if held._is_zerotensor():
            held = torch.zeros(held.shape, dtype=held.dtype)
        held = held.resolve_conj().resolve_neg()
        kept = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's stubs lack it
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=NAME,
        )
        kept.held = held
        assert isinstance(kept, Held)
        return kept

    def __init__(self, held: Tensor) -> None:
        pass

    def tolist(self) -> Any:
        return self.cpu().tolist()

    # torch makes an index of a list where the tensor is: on a device without content.
    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the device's mode")


class FakeDevice(TorchDispatchMode):
    """Runs operators on tensors of the device; `waits` counts what the host had to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    # Modules keep their parameters when they are moved, as on CUDA, so that whoever shares one has it still.
    def __enter__(self) -> Any:
        self._was_swapping = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.__future__.set_swap_module_params_on_conversion(self._was_swapping)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wanted = kwargs.pop("device", None)
        values: list[Any] = []
        on_host = [_on_host(value, values) for value in args]
        named = {name: _on_host(value, values) for name, value in kwargs.items()}
        is_held = any(isinstance(value, Held) for value in values)
        name = func.overloadpacket.__name__
        takes_both = name in ("_to_copy", "copy_", *_INDEXING)
        if is_held and not takes_both and any(map(_is_elsewhere, values)):
            raise RuntimeError(f"{func} takes tensors of two devices")
        stays = is_held if wanted is None else torch.device(wanted).type == NAME
        stays = stays and not (name == "copy_" and not isinstance(args[0], Held))
        if (is_held and name in _WAITS) or _waits(name, args, kwargs, stays=stays):
            self.waits[name] += 1
        if wanted is not None:
            named["device"] = torch.device("cpu") if stays else wanted
        out = func(*on_host, **named)
        if not stays:
            return out
        if name.endswith("_") and not name.endswith("__"):  # in place: the same tensor as before
            return None if out is None else values[0]
        return Held(out) if isinstance(out, Tensor) else tree_map_only(Tensor, Held, out)


def _on_host(value: Any, found: list[Any]) -> Any:
    """What an operator is given, as it is to be run; tensors and numbers are added to what is found."""
    if isinstance(value, (list, tuple)):
        return type(value)(_on_host(own, found) for own in value)
    found.append(value)
    return value.held if isinstance(value, Held) else value


def _as_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _is_elsewhere(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Held) and value.dim() > 0


def _waits(name: str, args: Any, kwargs: dict[str, Any], *, stays: bool) -> bool:
    """Whether an operator copies between both sides, but for copies to the device that are told not to block.

    An index by a mask must learn first how many elements it picks, and one that lies on the host is copied.
    """
    is_asked_to_wait = not (kwargs.get("non_blocking") or (name == "copy_" and True in args[2:]))
    if name == "_to_copy":
        return isinstance(args[0], Held) != stays and (is_asked_to_wait or not stays)
    if name == "copy_":
        return isinstance(args[0], Held) != isinstance(args[1], Held) and (is_asked_to_wait or not stays)
    if name == "repeat_interleave":
        return isinstance(args[0], Held) and kwargs.get("output_size") is None
    if name not in _INDEXING or not isinstance(args[0], Held):
        return False
    indices = [own for own in args[1] if own is not None]
    return any(own.dtype == torch.bool or not isinstance(own, Held) for own in indices)
