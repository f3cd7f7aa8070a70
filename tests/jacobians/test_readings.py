"""Matrices that are read a few at a time give what they give together, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch
from lsc_graph.models import registry

import lsc_graph
from lsc_graph.jacobians import entries, local, readings
from lsc_graph.jacobians.readings import read, read_entries
from lsc_graph.results import Analysis
from lsc_graph.spectra.estimate import Method

POINTS, ENTRIES, SIZE = 9, 3, 4


def audited() -> Analysis:
    x = np.random.default_rng(0).standard_normal((14, ENTRIES, 8)).astype(np.float32)
    return lsc_graph.audit(registry.build("gru"), data={"x": x}, num_samples=1, num_steps=14)


def assert_alike(found: object, expected: object) -> None:
    """Equal but for what sums in another order round apart."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        for key, value in expected.items():
            assert_alike(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple))
        for own, value in zip(found, expected, strict=True):
            assert_alike(own, value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("max_time_bytes", [0, 2**28])
def test_an_audit_in_portions_is_the_audit_in_one(
    max_time_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_TIME_BYTES", max_time_bytes)
    whole = audited()
    monkeypatch.setattr(readings, "MAX_ELEMENTS", 1)
    monkeypatch.setattr(entries, "_MAX_ELEMENTS", 1)
    parts = audited()
    assert_alike(asdict(parts)["layers"], asdict(whole)["layers"])
    assert_alike(asdict(parts)["radii"], asdict(whole)["radii"])
    assert parts.warnings == whole.warnings
    correlation = parts.layers[0].time_radius.time_correlation
    assert correlation is not None
    assert correlation.lag_1 is not None


def test_entries_are_read_with_as_few_of_their_blocks_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.arange(ENTRIES * SIZE).reshape(ENTRIES, SIZE)
    blocks = torch.randn(POINTS, ENTRIES, SIZE, SIZE)
    blocks[4, 1] = torch.eye(SIZE)
    whole = torch.stack([torch.block_diag(*own) for own in blocks])
    held_at_once = []

    def pull(numbers: Sequence[int], cotangents: torch.Tensor) -> torch.Tensor:
        held_at_once.append(len(numbers))
        return cotangents @ whole[list(numbers)]

    monkeypatch.setattr(readings, "MAX_ELEMENTS", 2 * SIZE * places.numel())
    found = read_entries(pull, whole, range(POINTS), places, places, Method.DENSE, with_norm=True)
    assert max(held_at_once) == 2
    assert sum(held_at_once) == POINTS
    assert found is not None
    for entry, reading in enumerate(found):
        expected = read(blocks[:, entry], Method.DENSE, with_norm=True)
        torch.testing.assert_close(reading.estimate.values, expected.estimate.values)
        torch.testing.assert_close(reading.gain, expected.gain)
        torch.testing.assert_close(reading.norm, expected.norm)
        assert reading.held.tolist() == [entry == 1 and point == 4 for point in range(POINTS)]


def test_of_blocks_that_are_not_square_there_are_gains_and_norms_alone() -> None:
    matrices = torch.randn(POINTS, SIZE, SIZE + 1)
    found = read(matrices, Method.DENSE, with_norm=True)
    assert found.estimate is None
    assert not found.held.any()
    assert found.is_nonzero
    assert not read(0 * matrices, Method.DENSE).is_nonzero
