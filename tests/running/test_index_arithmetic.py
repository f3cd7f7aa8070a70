"""Integers that feed a table through arithmetic take the values for which there is an entry."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.running.inputs import domains

N = helper.make_node
CONSTANTS = {
    "table": np.zeros((7, 2), np.float32),
    "zero": np.array(0, np.int64),
    "size": np.array(7, np.int64),
    "two": np.array(2, np.int64),
    "pad": np.array(0.0, np.float32),
    "many": np.arange(3),
}
WRAPPED = [
    N("Less", ["i", "zero"], ["negative"]),
    N("Cast", ["negative"], ["sign"], to=TensorProto.INT64),
    N("Mul", ["sign", "size"], ["shift"]),
    N("Add", ["i", "shift"], ["j"]),
]


def choices(nodes: list[onnx.NodeProto]) -> list[int]:
    graph = helper.make_graph(
        [*nodes, N("Gather", ["table", "j"], ["y"])],
        "ids",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()],
    )
    found = domains(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))["i"].choices
    assert found is not None
    return list(found)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (WRAPPED, range(7)),  # as Keras wraps negative indices
        ([N("Add", ["i", "two"], ["j"])], range(5)),  # positions behind two special entries
        ([N("Add", ["i", "many"], ["j"])], [1]),  # not element by element: nothing is known
        (
            [
                N("Cast", ["i"], ["float"], to=TensorProto.FLOAT),
                N("Equal", ["float", "pad"], ["mask"]),
                N("Identity", ["i"], ["j"]),
            ],
            range(1, 7),  # padding is masked
        ),
    ],
)
def test_indices_are_those_that_the_table_has(nodes: list[onnx.NodeProto], expected: list[int]) -> None:
    assert choices(nodes) == list(expected)


LENGTHS = {
    "sorted for a packed sequence": [
        N("TopK", ["n", "k"], ["sorted", "places"]),
        N("Cast", ["sorted"], ["lens"], to=TensorProto.INT32),
        N("GRU", ["x", "W", "R", "", "lens"], ["y"], hidden_size=2),
    ],
    "a mask made by Range": [
        N("Range", ["zero", "two", "one"], ["times"]),
        N("Unsqueeze", ["n", "k"], ["column"]),
        N("Less", ["times", "column"], ["y"]),
    ],
    "a mask made by constants": [N("Greater", ["n", "many"], ["y"])],
}


@pytest.mark.parametrize("nodes", LENGTHS.values(), ids=LENGTHS)
def test_lengths_are_known_by_what_they_are_held_against(nodes: list[onnx.NodeProto]) -> None:
    """One step of a whole sequence would be left, were they taken for any integer."""
    arrays = CONSTANTS | {"k": np.array([1]), "one": np.array(1, np.int64)}
    arrays |= {"W": np.zeros((1, 6, 3), np.float32), "R": np.zeros((1, 6, 2), np.float32)}
    graph = helper.make_graph(
        nodes,
        "lengths",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    assert domains(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))["n"].is_length
