"""States that only delay what a step reads are told from layers."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from delayed_models import DELAYED, FORMS, D, H, T, asked
from onnx import TensorProto, helper

from lsc_graph.audit_model import inspect
from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.delays import delays_of, new_states, only_delays
from lsc_graph.recurrence.scan import site_of_scan
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.results import Form


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
    proto = FORMS["Scan"](DELAYED["a window of 2"][0]())
    del proto.graph.output[:]
    proto.graph.node.append(helper.make_node("Add", ["y", "cell_in"], ["shown"]))
    proto.graph.node.append(helper.make_node("Identity", ["c1_final"], ["cell_out"]))
    shapes = {"cell_in": [1, H], "cell_out": [1, H], "shown": [T, 1, H]}
    cell_in, *outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    proto.graph.input.append(cell_in)
    proto.graph.output.extend(outputs)
    warnings = inspect(proto, **asked("Scan")).warnings
    assert any("cell_in -> cell_out: its names" in text for text in warnings)
