"""States that only delay what a step reads are layers of their own, and named, in a Scan and in a stream."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import audit, inspect
from lsc_graph.results import Analysis

T, D, H = 8, 3, 4
STEP = """<ir_version: 8, opset_import: ["" : 17]>
step () => () {
    now = MatMul(x_t, W)
    then = MatMul(p_old, V)
    sum = Add(now, then)
    back = Mul(h_old, u)
    all = Add(sum, back)
    h_new = Tanh(all)
    p_new = Identity(x_t)
    y = Identity(h_new)
}"""


def shaped(**shapes: list[int]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def delaying(form: str) -> onnx.ModelProto:
    """h' = tanh(x W + p V + u h) and p' = x."""
    body = onnx.parser.parse_model(STEP).graph
    generator = np.random.default_rng(0)
    tensors = {
        "W": generator.standard_normal((D, H)),
        "V": generator.standard_normal((D, H)),
        "u": generator.uniform(0.5, 0.9, (1, H)),
    }
    if form == "scan":
        body.input.extend(shaped(h_old=[1, H], p_old=[1, D], x_t=[1, D]))
        body.output.extend(shaped(h_new=[1, H], p_new=[1, D], y=[1, H]))
        tensors |= {"h0": np.zeros((1, H)), "p0": np.zeros((1, D))}
        nodes = [helper.make_node("Scan", ["h0", "p0", "x"], ["h", "p", "out"], body=body, num_scan_inputs=1)]
        inputs, outputs = shaped(x=[T, 1, D]), shaped(out=[T, 1, H])
    else:
        names = {"x_t": "x", "h_old": "h_in", "p_old": "p_state_in", "h_new": "h_out", "p_new": "p_state_out"}
        nodes = list(body.node)
        for node in nodes:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]
        inputs = shaped(x=[1, D], h_in=[1, H], p_state_in=[1, D])
        outputs = shaped(y=[1, H], h_out=[1, H], p_state_out=[1, D])
    arrays = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "delaying", inputs, outputs, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured(form: str) -> Analysis:
    x = np.random.default_rng(1).standard_normal((1, T, 1, D)).astype(np.float32)
    return audit(delaying(form), data={"x": x}, num_steps=T, num_samples=1)


def test_a_scan_and_a_stream_have_the_same_layers() -> None:
    scan, stream = measured("scan"), measured("streaming")
    for one, two in zip(scan.layers, stream.layers, strict=True):
        assert one.state_size == two.state_size
        assert one.time_radius is not None
        assert two.time_radius is not None
        assert two.time_radius.mean == pytest.approx(one.time_radius.mean, rel=1e-5)
    assert [layer.time_radius.mean == 0 for layer in scan.layers if layer.time_radius] == [True, False]
    assert scan.grid is not None
    assert stream.grid is not None
    assert scan.grid.num_gradient_paths == stream.grid.num_gradient_paths
    for found in (scan, stream):
        assert len([text for text in found.warnings if "only delays" in text]) == 1


def test_beside_a_recurrence_a_pair_that_only_its_names_connect_is_warned_of() -> None:
    proto = delaying("scan")
    del proto.graph.output[:]
    proto.graph.node.append(helper.make_node("Add", ["out", "cell_in"], ["y"]))
    proto.graph.node.append(helper.make_node("Identity", ["h"], ["cell_out"]))
    proto.graph.input.extend(shaped(cell_in=[1, H]))
    proto.graph.output.extend(shaped(y=[T, 1, H], cell_out=[1, H]))
    assert any("cell_in -> cell_out: its names" in text for text in inspect(proto).warnings)
