"""ONNX Runtime as the reference: what it is asked for is what the operators say."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.running.reference import Reference


def test_zeros_before_a_pooling_are_zeros_and_no_padding() -> None:
    """ONNX Runtime makes one operator of both by itself, in which the largest of -1 and 0 is -1."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3]),
    ]
    float_of = [TensorProto.FLOAT, [1, 2, 4]]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", *float_of)],
        [helper.make_tensor_value_info("y", *float_of)],
        [numpy_helper.from_array(np.array([0, 0, 2, 0, 0, 0], np.int64), "pads")],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(proto)
    y = Reference(proto).run({"x": np.full((1, 2, 4), -1, np.float32)})["y"]
    np.testing.assert_array_equal(y, np.broadcast_to(np.float32([0, 0, -1, -1]), (1, 2, 4)))
