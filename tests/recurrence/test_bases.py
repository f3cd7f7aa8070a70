"""Fourier bases and waves of positions are told from weights by their values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lsc_graph.recurrence.bases import is_basis

POSITIONS = np.arange(200)
FREQUENCIES = 10_000.0 ** -(np.arange(16) / 16)
ANGLES = np.outer(POSITIONS, FREQUENCIES)


def test_windowed_fourier_bases_are_recognised() -> None:
    n = np.arange(64)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(33), n) / 64) * np.hanning(65)[:64]
    assert is_basis(np.concatenate([waves.real, waves.imag]).astype(np.float32)[:, None])


@pytest.mark.parametrize("wave", [np.sin, np.cos, lambda angles: np.hstack([np.sin(angles), np.cos(angles)])])
def test_sines_over_positions_are_recognised_on_either_axis(wave: Callable[[np.ndarray], np.ndarray]) -> None:
    table = wave(ANGLES).astype(np.float32)
    assert is_basis(table[None])
    assert is_basis(table.T)


def test_random_matrices_are_weights() -> None:
    rng = np.random.default_rng(0)
    assert not is_basis(rng.normal(size=(66, 64)))
    assert not is_basis(np.sin(ANGLES) + 0.01 * rng.normal(size=ANGLES.shape))


def test_decay_rates_in_even_steps_and_equal_rows_are_weights() -> None:
    rates = -np.tile(np.arange(1.0, 17.0), (24, 1))
    assert not is_basis(rates)
    assert not is_basis(np.tile(np.random.default_rng(0).normal(size=(1, 16)), (24, 1)))


def test_weights_that_start_equal_are_no_bases() -> None:
    assert not is_basis(np.zeros((16, 16)))
    assert not is_basis(np.ones((16, 16)))


def test_what_only_starts_like_a_basis_is_none() -> None:
    rng = np.random.default_rng(0)
    mirrored = np.cos(np.outer(np.arange(16), np.arange(64) - 31.5))
    assert is_basis(mirrored)
    assert not is_basis(np.concatenate([mirrored[:8], rng.normal(size=(8, 64))]))
    assert not is_basis(np.hstack([np.sin(ANGLES), rng.normal(size=ANGLES.shape)]))
