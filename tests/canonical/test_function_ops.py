"""Operators that ONNX defines by others compute the same when they are written out."""

from __future__ import annotations

import conformance
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from lsc_graph.canonical.function_ops import definition_of, write_out
from lsc_graph.canonical.inference import infer_shapes
from lsc_graph.running.reference import Reference


def model(node: onnx.NodeProto, opset: int, **shapes: list[int]) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    inputs = [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "main", inputs, [info("y", onnx.TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


CASES = {
    "defaults of attributes": (helper.make_node("Selu", ["x"], ["y"]), 22, {"x": [2, 3]}),
    "given attributes": (helper.make_node("ThresholdedRelu", ["x"], ["y"], alpha=0.3), 22, {"x": [2, 3]}),
    "by the types of inputs": (
        helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1, name="att"),
        23,
        {"q": [1, 2, 4, 3], "k": [1, 2, 4, 3], "v": [1, 2, 4, 3]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_written_out_operator_computes_the_same(name: str) -> None:
    node, opset, shapes = CASES[name]
    proto = model(node, opset, **shapes)
    found = ir.from_proto(proto)
    infer_shapes(found)
    assert write_out(found, lambda own: own.op_type == node.op_type, infer_shapes) == (node.op_type,)
    written = ir.to_proto(found)
    assert node.op_type not in {own.op_type for own in written.graph.node}
    generator = np.random.default_rng(0)
    feed = {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    (expected,), (actual,) = (Reference(own).run(feed).values() for own in (proto, written))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_an_operator_of_its_own_has_no_definition() -> None:
    found = ir.from_proto(model(helper.make_node("Tanh", ["x"], ["y"]), 22, x=[3]))
    assert definition_of(found.graph[0], 22) is None


@pytest.mark.parametrize("pattern", ["^test_attention_local_window$", "^test_nllloss_NCd1d2$"])
def test_what_torch_has_no_counterpart_of_is_written_out_for_it(pattern: str) -> None:
    (case,) = conformance.cases(pattern)
    outcome = conformance.check(case)
    assert outcome.status == conformance.AGREES, outcome.reason
    assert not outcome.is_black_box
