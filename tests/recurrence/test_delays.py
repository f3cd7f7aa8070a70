"""States that only delay what a step reads are told from layers, in a Scan and in a stream."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import audit, inspect
from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.delays import delays_of, new_states, only_delays
from lsc_graph.recurrence.scan import site_of_scan
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.results import Analysis, Form

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
    assert [layer.state_size for layer in scan.layers] == [H]
    assert scan.grid is not None
    assert stream.grid is not None
    assert scan.grid.num_gradient_paths == stream.grid.num_gradient_paths
    for found in (scan, stream):
        (recurrence,) = found.recurrences
        assert [state.shape for state in recurrence.states if state.is_delay] == [(1, D)]


def site_of(states: dict[str, str]) -> RecurrentSite:
    """A Scan over x, of which each state is what an expression of a step says."""
    body = "\n".join(f"{name}_new = {text}" for name, text in states.items())
    starts = ", ".join(f"float[1, {D}] {name}" for name in states)
    inputs = f"{starts}, float[1, {D}] x_t"
    outputs = ", ".join(f"float[1, {D}] {name}_new" for name in states)
    names = ", ".join(states)
    finals = ", ".join(f"{name}_last" for name in states)
    results = ", ".join(f"float[1, {D}] {name}_last" for name in states)
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    m (float[{T}, 1, {D}] x, {starts}) => ({results}) {{
        {finals} = Scan <num_scan_inputs = 1, body = step ({inputs}) => ({outputs}) {{ {body} }}> ({names}, x)
    }}""")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    node = next(node for node in model.graph if node.op_type == "Scan")
    return site_of_scan(model, node, recurrence="r", name="s", form=Form.SCAN)


CASES = {
    "of the input": ({"h": "Add(h, x_t)", "p": "Identity(x_t)"}, ["p"]),
    "of a delay, which stands behind it": (
        {"h": "Add(h, q)", "q": "Identity(p)", "p": "Sigmoid(x_t)"},
        ["p", "q"],
    ),
    "of a state": ({"h": "Add(h, x_t)", "p": "Tanh(h)"}, ["p"]),
    "in a cycle": ({"h": "Add(p, x_t)", "p": "Tanh(h)"}, []),
    "that keeps something of itself": ({"h": "Add(h, x_t)", "p": "Add(p, x_t)"}, []),
    "and nothing else": ({"p": "Identity(x_t)", "q": "Identity(p)"}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_delay_comes_back_to_itself_by_no_way(name: str) -> None:
    states, expected = CASES[name]
    site = site_of(states)
    assert [state.name.rpartition(".")[2] for state in delays_of(site)] == expected
    assert only_delays(site) == (name == "and nothing else")


def test_what_is_delayed_of_a_new_state_is_read_from_that_state() -> None:
    """The delay is handed on first, and what is called the new state is a copy of it."""
    site = site_of({"p": "Add(h, x_t)", "h": "Identity(p_new)", "g": "Add(g, p)"})
    values = body_values(site.body.graph)
    p, h, g = (values[state.after] for state in site.states)
    assert new_states(site) == ([h, g], [p])
    assert direct_sources(p, {h, *site.body.graph.inputs}) == {h}


def test_beside_a_recurrence_a_pair_that_only_its_names_connect_is_warned_of() -> None:
    proto = delaying("scan")
    del proto.graph.output[:]
    proto.graph.node.append(helper.make_node("Add", ["out", "cell_in"], ["y"]))
    proto.graph.node.append(helper.make_node("Identity", ["h"], ["cell_out"]))
    proto.graph.input.extend(shaped(cell_in=[1, H]))
    proto.graph.output.extend(shaped(y=[T, 1, H], cell_out=[1, H]))
    assert any("cell_in -> cell_out: its names" in text for text in inspect(proto).warnings)
