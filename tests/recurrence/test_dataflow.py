"""Who is computed from whom."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import ancestors, computed_from, depends, direct_sources, inputs_of

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[3] a, float[3] b, bool go) => (float[3] y)
{
    m = Tanh(a)
    n = Add(m, b)
    y = If (go) <
        then_branch = left () => (float[3] t) { t = Mul(n, m) },
        else_branch = right () => (float[3] e) { e = Identity(b) }
    >
}
"""


def graph() -> ir.Graph:
    return ir.from_proto(onnx.parser.parse_model(TEXT)).graph


def test_values_captured_by_a_branch_are_read_by_the_if() -> None:
    node = graph()[-1]
    assert {value.name for value in inputs_of(node)} == {"go", "n", "m", "b"}


def test_direct_sources_stop_at_the_first_stop_on_each_way() -> None:
    values = {str(v.name): v for v in (*graph().inputs,)}
    g = graph()
    values = {str(v.name): v for v in (*g.inputs, *(o for node in g for o in node.outputs))}
    stops = {values["a"], values["n"]}
    # y reads n directly, and a through m, which does not pass n.
    assert {v.name for v in direct_sources(values["y"], stops)} == {"n", "a"}
    assert {v.name for v in direct_sources(values["n"], stops)} == {"a"}
    assert direct_sources(values["a"], stops) == set()


def test_all_that_a_value_is_computed_from_is_named_once_with_what_branches_capture() -> None:
    g = graph()
    found = [value.name for value in ancestors(g.outputs[0])]
    assert sorted(map(str, found)) == ["a", "b", "go", "m", "n", "y"]
    assert [value.name for value in ancestors(g.inputs[0])] == ["a"]


def test_a_value_depends_on_itself_and_on_what_branches_capture() -> None:
    g = graph()
    assert depends(g.inputs[0], g.inputs[0])
    assert depends(g.outputs[0], g.inputs[0])
    assert not depends(g.inputs[0], g.outputs[0])


def test_what_is_computed_from_a_value_is_all_that_it_reaches_and_no_more() -> None:
    g = graph()
    nodes, dependent = computed_from(g, [g.inputs[1]])
    assert [node.op_type for node in nodes] == ["Add", "If"]
    assert {value.name for value in dependent} == {"b", "n", "y"}
