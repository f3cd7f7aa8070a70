from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from lsc_graph.to_torch import kept as kept_module
from lsc_graph.to_torch.kept import Digests, Kept, digest_of


def test_results_that_are_asked_for_in_turns_are_partly_kept_where_not_all_fit() -> None:
    kept = Kept[int](max_bytes=8, size=lambda _: 1)
    taken = []
    for _ in range(20):
        for key in range(10):
            found = kept.at(bytes([key]), lambda key=key: taken.append(key) or key)  # type: ignore[func-returns-value, misc]
            assert found == key
    assert 10 <= len(taken) < 120


def test_no_more_is_kept_than_fits() -> None:
    kept = Kept[bytes](max_bytes=100, size=len)
    for key in range(50):
        kept.at(bytes([key]), lambda: bytes(30))
    assert sum(key in kept for key in (bytes([own]) for own in range(50))) == 3


def test_what_is_cleared_is_computed_again() -> None:
    kept, taken = Kept[int](max_bytes=2, size=lambda _: 1), []
    for _ in range(3):
        kept.at(b"a", lambda: taken.append(1) or 1)  # type: ignore[func-returns-value]
        kept.clear()
    kept.at(b"a", lambda: 2)
    kept.at(b"b", lambda: 3)
    assert len(taken) == 3
    assert b"a" in kept
    assert b"b" in kept


def test_digests_tell_types_shapes_and_elements_apart() -> None:
    values = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(2), np.ones(4, np.float32)]
    assert len({digest_of(value) for value in values}) == 4


def test_a_tensor_that_was_written_to_has_another_digest() -> None:
    digests, tensor = Digests(), torch.zeros(100_000)
    first = digests.of(tensor)
    assert digests.of(tensor) == first == digest_of(tensor.numpy())
    tensor[5] = 1
    assert digests.of(tensor) == digest_of(tensor.numpy()) != first


def test_another_tensor_in_the_same_place_has_its_own_digest() -> None:
    digests = Digests()
    for number in range(100):
        tensor = torch.full((100_000,), float(number))
        assert digests.of(tensor) == digest_of(tensor.numpy())


def test_tensors_are_kept_alive_for_their_digests_as_far_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "_MAX_BYTES", 10 * 4 * 10_000)
    digests, alive = Digests(), list[weakref.ref[torch.Tensor]]()
    for number in range(30):
        tensor = torch.full((10_000,), float(number))
        assert digests.of(tensor) == digest_of(tensor.numpy())
        alive.append(weakref.ref(tensor))
    del tensor
    assert sum(own() is not None for own in alive) == 10
