"""Steps have the numbers of the slices that they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.numbering import Numbering

SIZE = 8


def numbering(*columns: Sequence[int]) -> tuple[Numbering, list[dict[int, ir.Value]]]:
    """Operations whose own numbers start from 0, and which slices of one sequence they read."""
    sequence = ir.val("x", ir.DataType.FLOAT, [SIZE, 2])
    places = [ir.Value(name=f"i{k}", const_value=ir.tensor(np.int64(k), name=f"i{k}")) for k in range(SIZE)]
    nodes = [[ir.node("Gather", [sequence, places[k]], attributes={"axis": 0}) for k in c] for c in columns]
    everything = [node for column in nodes for node in column]
    graph = ir.Graph([sequence], [], nodes=everything, initializers=places, opset_imports={"": 18})
    found = [{k: node.outputs[0] for k, node in enumerate(column)} for column in nodes]
    return Numbering(found, Constants(graph)), found


@pytest.mark.parametrize(
    ("columns", "num_steps", "expected"),
    [
        ([range(SIZE)], SIZE, [{0}]),
        ([range(2, SIZE)], SIZE, [{2}]),
        ([range(1, 6), range(2, 7)], 6, [{0}, {1}]),  # a part of the sequence, read by both together
        ([range(1, 6), range(2, 7)], 5, [set(), set()]),
        ([range(6, 1, -1), range(5, 0, -1)], 6, [{0}, {1}]),
        ([(1, 1, 2, 2)], 2, [set()]),
    ],
)
def test_slices_number_the_steps(
    columns: list[Sequence[int]], num_steps: int, expected: list[set[int]]
) -> None:
    known, found = numbering(*columns)
    assert [known.offsets(column, num_steps) for column in found] == expected


@pytest.mark.parametrize(
    ("read", "expected"), [(range(SIZE), {0}), (range(1, SIZE), {1}), (range(SIZE - 1), set())]
)
def test_results_of_a_loop_number_steps_if_that_of_the_last_is_read(read: range, expected: set[int]) -> None:
    """Of steps that were written out some may have been left out that the loop in their place has."""
    start, drive, sum_ = (ir.val(name, ir.DataType.FLOAT, [2]) for name in ("h", "row", "sum"))
    body = ir.Graph([start, drive], [sum_, sum_], nodes=[ir.node("Add", [start, drive], outputs=[sum_])])
    inputs = [ir.val("h0", ir.DataType.FLOAT, [2]), ir.val("x", ir.DataType.FLOAT, [SIZE, 2])]
    scan = ir.node("Scan", inputs, {"body": body, "num_scan_inputs": 1}, num_outputs=2)
    scan.outputs[1].shape = ir.Shape([SIZE, 2])
    places = [ir.Value(name=f"i{k}", const_value=ir.tensor(np.int64(k), name=f"i{k}")) for k in range(SIZE)]
    nodes = [ir.node("Gather", [scan.outputs[1], places[k]], attributes={"axis": 0}) for k in read]
    graph = ir.Graph(inputs, [], nodes=[scan, *nodes], initializers=places, opset_imports={"": 18})
    column = {k: node.outputs[0] for k, node in enumerate(nodes)}
    known = Numbering([column], Constants(graph))
    assert known.offsets(column, SIZE) == expected
