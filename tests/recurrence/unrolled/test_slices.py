"""Which slice of a sequence leads where steps read one after the other, or windows of a few."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest

from lsc_graph.recurrence.unrolled.slices import leading_slices

PLACE = (ir.val("x", ir.DataType.FLOAT, [8, 2]), 0)


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([{0}, {1}, {2}, {3}], [(1, 0)]),
        ([{5}, {4}, {3}, {2}], [(-1, -5)]),
        ([{0}, {0, 1}, {1, 2}, {2, 3}], [(1, 0)]),
        ([{1, 2}, {2, 3}, {3, 4}, {4, 5}], [(1, 2)]),
        ([{7}, {6, 7}, {5, 6}, {4, 5}], [(-1, -7)]),
        ([{4, 5}, {5, 6}, {6, 7}, {7}], [(1, 4)]),  # what is ahead ends: the other end moves on
        ([{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}], []),  # all that was before, as another recurrence reads
        ([{0}, {2}, {4}, {6}], []),
    ],
)
def test_the_slice_that_leads_goes_on_by_one(
    slices: Sequence[set[int]], expected: Sequence[tuple[int, int]]
) -> None:
    found = leading_slices({key: {PLACE: own} for key, own in enumerate(slices)})
    assert [(sign, offset) for _, sign, offset in found] == expected
