"""What was computed before at the same values, by digests of these."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from lsc_graph.running.reference import Array

# Digests of small tensors take no time; large ones are not kept alive for theirs.
_MIN_BYTES, _MAX_BYTES = 2**14, 2**27

T = TypeVar("T")


class Kept(Generic[T]):
    """Results by the keys of what they were computed from, as many as fit.

    Args:
        max_bytes: that all of them may take; a larger one is kept alone.
        size: the bytes of one.
    """

    def __init__(self, max_bytes: int, size: Callable[[T], int]) -> None:
        self._max_bytes, self._size, self._num_bytes = max_bytes, size, 0
        self._kept: dict[bytes, T] = {}
        self._random = np.random.default_rng(0)

    def at(self, key: bytes, take: Callable[[], T]) -> T:
        """The result of this key, computed if it is not kept."""
        if key not in self._kept:
            found = take()
            self._num_bytes += self._size(found)
            self._make_room()
            self._kept[key] = found
        return self._kept[key]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def clear(self) -> None:
        """Keep none of them."""
        self._kept, self._num_bytes = {}, 0

    def _make_room(self) -> None:
        """All are asked for in turns, so that of the oldest none would be left when it is asked for again."""
        while self._kept and self._num_bytes > self._max_bytes:
            keys = list(self._kept)
            self._num_bytes -= self._size(self._kept.pop(keys[self._random.integers(len(keys))]))


class Digests:
    """Digests of tensors that many points share, as weights: those that were asked for last are remembered.

    They are kept alive, so that no other tensor takes their place, and known by their versions.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[Tensor, bytes]] = OrderedDict()
        self._num_bytes = 0

    def of(self, tensor: Tensor) -> bytes:
        """The digest of what a tensor holds now."""
        if not _MIN_BYTES <= tensor.nbytes <= _MAX_BYTES:
            return digest_of(tensor.detach().cpu().numpy())
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor._version)
        if key not in self._kept:
            self._kept[key] = tensor, digest_of(tensor.detach().cpu().numpy())
            self._num_bytes += tensor.nbytes
        self._kept.move_to_end(key)
        while self._num_bytes > _MAX_BYTES:
            _, (old, _) = self._kept.popitem(last=False)
            self._num_bytes -= old.nbytes
        return self._kept[key][1]


def digest_of(value: Array) -> bytes:
    """Of type, shape and elements."""
    found = hashlib.blake2b(f"{value.dtype}, {value.shape}".encode())
    found.update(np.ascontiguousarray(value).data)
    return found.digest()
