"""What counts as changed is told from the size of the changes and of the values, not from masked ones."""

from __future__ import annotations

import numpy as np

from lsc_graph.auditing.changes import moved

VALUE = np.array([1.0, -2.0, 0.5, 0.0], np.float32)


def test_what_differs_by_more_than_rounding_has_moved() -> None:
    other = VALUE + np.array([0.0, 1e-7, 0.1, 0.1], np.float32)
    assert moved(VALUE, other).tolist() == [False, False, True, True]


def test_a_small_change_counts_beside_values_that_a_mask_has_made_large() -> None:
    masked = np.append(VALUE, np.float32([-1e9, np.finfo(np.float32).min, -np.inf]))
    other = masked + np.array([1e-3, 0, 0, 0, 64.0, 0, 0], np.float32)
    assert moved(masked, other).tolist() == [True] + [False] * 6


def test_rounding_beside_a_large_change_is_none() -> None:
    other = VALUE + np.array([1e3, 1e-3, 0.0, 0.0], np.float32)
    assert moved(VALUE, other).tolist() == [True, False, False, False]


def test_whole_numbers_move_by_any_change_and_other_shapes_by_all() -> None:
    assert moved(np.array([1, 2]), np.array([1, 3])).tolist() == [False, True]
    assert moved(np.zeros(2), np.zeros(3)).all()
    assert not moved(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)).any()
